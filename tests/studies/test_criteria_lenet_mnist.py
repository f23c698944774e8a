"""The study of criteria on a short run with enlarged digits, and what was committed of the real one."""

import dataclasses
import json
from pathlib import Path

import pytest

from dither.training import Fit, Run, default_recipe
from studies.criteria_lenet_mnist import study


def finished_run(folder: Path) -> None:
    """A short run with gates that hurry, as in the other study's smoke run."""
    recipe, short = default_recipe("lenet_500_300"), Fit(epochs=2, batch_size=100)
    noise = dataclasses.replace(recipe.noise, gate_lr=0.3, kl_weight=0.05)
    recipe = dataclasses.replace(recipe, data="digits", base=short, prune=short, noise=noise)
    Run(folder, recipe, threads=1, images=study.enlarged_digits(), checkpoint_steps=None).prune()


def test_one_run_is_read_by_every_criterion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(tmp_path / "lenet_500_300-0")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "lenet_500_300-0" / "checkpoint").rglob("*")}
    study.main(["--smoke", "--runs", str(tmp_path)])
    records = {r["criterion"]: r for r in json.loads((tmp_path / "results.json").read_text())["records"]}
    assert list(records) == [*study.CRITERIA, "random, widths of SNR > 1"]
    widths = {name: sum(record["widths"].values()) for name, record in records.items()}
    assert widths["SNR > 1/2"] >= widths["SNR > 1"] >= widths["SNR > 2"]
    assert widths["BMRS_N"] >= widths["BMRS_N, 1 nat"] >= widths["BMRS_N, 3 nat"] >= widths["BMRS_N, 5 nat"]
    assert records["random, widths of SNR > 1"]["widths"] == records["SNR > 1"]["widths"]
    assert widths["SNR > 1"] < 1584 + 10  # all of them, so that something was there to decide
    assert records["SNR > 1"]["same_rank_pct"] == 100
    assert f"| SNR > 1 | {records['SNR > 1']['error_pct']:.2f} |" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_without_runs_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished run"):
        study.main(["--runs", str(tmp_path)])


def test_committed_table_is_that_of_the_committed_records() -> None:
    records = json.loads((study.HERE / "results.json").read_text())["records"]
    assert {(r["net"], r["seed"]) for r in records} == {(net, seed) for net in study.NAMES for seed in range(3)}
    assert study.make_table(records) in (study.HERE / "README.md").read_text()
