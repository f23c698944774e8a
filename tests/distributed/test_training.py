"""The engine of training with two and three processes against one, and on another number than it began with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dither.training._launch import check_folder_is_shared, make_accelerator
from tests.distributed import check_training

Ranks = list[dict[str, Any]]
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process gives that nothing interrupts."""
    return check_training.whole(tmp_path_factory.mktemp("alone"))


def assert_same_run(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["state"], expected["state"], **TOLERANCE)
    for row, other in zip(*(text["history"].splitlines() for text in (found, expected)), strict=True):
        numbers = [
            {key: json.loads(line)[key] for key in ("step", "loss", "error_pct", "nll")} for line in (row, other)
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)


def test_a_training_is_that_of_one_process(ranks: Ranks, alone: dict[str, Any]) -> None:
    for rank in ranks:
        torch.testing.assert_close(
            rank["training, whole"]["state"], ranks[0]["training, whole"]["state"], rtol=0, atol=0
        )
        assert_same_run(rank["training, whole"], alone)


def test_one_process_goes_on_where_several_were_interrupted(
    ranks: Ranks, folder: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    assert all(rank["training, interrupted"] == "step-00000003, step-00000006" for rank in ranks)
    shutil.copytree(folder / "interrupted", tmp_path / "run")
    assert_same_run(check_training.whole(tmp_path / "run"), alone)


def test_several_processes_go_on_where_one_was_interrupted(ranks: Ranks, alone: dict[str, Any]) -> None:
    for rank in ranks:
        assert_same_run(rank["training, on"], alone)


def test_under_noise_all_hold_the_same_smaller_network(ranks: Ranks) -> None:
    found = [rank["training, under noise"] for rank in ranks]
    assert len(found[0]["state"]["1.bias"]) == 5
    for other in found[1:]:
        torch.testing.assert_close(other["state"], found[0]["state"], rtol=0, atol=0)  # running statistics, too
        assert not torch.equal(other["draw"], found[0]["draw"])


def test_a_folder_that_not_all_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on a disk that all machines of the job share"):
        check_folder_is_shared(tmp_path / "recipe.json", "{}")
    (tmp_path / "recipe.json").write_text("{}")
    check_folder_is_shared(tmp_path / "recipe.json", "{}")


def test_the_launcher_that_starts_one_process_on_cpus_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "there")  # as accelerate launch --cpu --num_processes 2 leaves it
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.warns(UserWarning, match="torchrun --nproc-per-node 2 -m dither"):
        assert make_accelerator().num_processes == 1
