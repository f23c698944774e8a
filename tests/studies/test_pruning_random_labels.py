"""Study of random labels: it runs, resumes, and reads what it wrote."""

import json
import shutil
from pathlib import Path

import pytest

from studies.pruning_random_labels import settings, study


@pytest.mark.slow
def test_smoke_run_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.main(["--smoke", "--out", str(tmp_path)])
    first = (tmp_path / "results.json").read_text(encoding="utf-8")
    records = json.loads(first)["records"]
    assert len(records) == 2 * len(settings.METHODS)
    assert {(r["labels"], r["method"]) for r in records} >= {("random", "sbp"), ("true", "dropout")}
    for r in records:
        assert len(r["accuracy_pct"]) == 2
        assert (r["kept_pct"] is not None) == settings.noisy(r["method"])
        assert sum(r["widths"].values()) == (570 if settings.noisy(r["method"]) else 0)  # also after removal
    assert (tmp_path / "digits.png").stat().st_size > 1000
    trained = times(tmp_path)
    assert len({path.relative_to(tmp_path).parts[0] for path in trained}) == len(records)
    begun = tmp_path / "digits-true-plain-1"  # another process trains it at this moment
    begun.mkdir()
    (begun / "history.jsonl").write_text('{"error_pct": 90.0, "kept": {}}\n', encoding="utf-8")
    study.main(["--smoke", "--out", str(tmp_path)])
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == first
    assert times(tmp_path) == trained  # nothing is trained again
    assert "| digits | random | SBP | 1 |" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "digits-random-dropout-0")  # as on a machine that did not train it
    study.main(["--smoke", "--out", str(tmp_path), "--labels", "true", "--method", "plain", "sbp"])
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == first
    assert times(tmp_path).keys() < trained.keys()


def times(runs: Path) -> dict[Path, int]:
    """When each file of the checkpoints was written."""
    return {path: path.stat().st_mtime_ns for path in runs.glob("*/checkpoint/**/*") if path.is_file()}


def test_committed_table_is_that_of_the_results() -> None:
    table = study.make_table(json.loads((study.HERE / "results.json").read_text(encoding="utf-8")))
    assert "| MNIST | random | paper, SBP | | | 0 | |" in table
    assert table in (study.HERE / "README.md").read_text(encoding="utf-8")


def test_random_labels_are_random_and_repeat() -> None:
    digits = study.enlarged_digits()["train"]
    one, two, other = (settings.relabelled(digits, True, seed).labels for seed in (0, 0, 1))
    assert one.equal(two)
    assert not one.equal(other)
    assert 0.05 < (one == digits.labels).float().mean() < 0.15  # chance is 0.1 of 1,437
    assert settings.relabelled(digits, False, 0).labels.equal(digits.labels)
