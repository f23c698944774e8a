"""Killed at any moment and started again: the same weights, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.run_and_die import run

ROOT = Path(__file__).parents[2]
# Inside an epoch, between two states, while the state after a removal is being written, right after one; in all three
# stretches. Random moments: python -m benchmarks.kills.
KILLS = ["after:base:13", "saving:prune:22", "after:finetune:21"]


def start(folder: Path, when: str) -> int:
    command = [sys.executable, "-m", "tests.training.run_and_die", str(folder), when]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=600).returncode


@pytest.mark.slow
@pytest.mark.timeout(1200)  # six processes that import torch; a busy machine is no reason to fail
def test_killed_runs_end_with_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    for kill in KILLS:
        assert start(tmp_path / "killed", kill) == -signal.SIGKILL, f"{kill} was never reached"
    assert start(tmp_path / "killed", "never") == 0
    files = ["base.safetensors", "small.safetensors", *sorted_states(tmp_path / "whole")]
    assert len(files) == 5
    rows = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    widths = [sum(row["kept"].values()) for row in rows if row["stretch"] == "prune"]
    assert widths[0] > widths[-1], "nothing was removed while it trained"
    for name in files:
        whole, killed = load_file(tmp_path / "whole" / name), load_file(tmp_path / "killed" / name)
        assert whole.keys() == killed.keys()
        for key, value in whole.items():
            assert torch.equal(value, killed[key]), f"{key} of {name} differs"
    for name in ("history.jsonl", "plan.json"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()


def sorted_states(folder: Path) -> list[str]:
    last = {stretch.name: max(stretch.iterdir(), key=str) for stretch in (folder / "checkpoint").iterdir()}
    return [str((path / "model.safetensors").relative_to(folder)) for _, path in sorted(last.items())]
