"""The study's program on coloured digits, and what was committed of the real one."""

import json
from pathlib import Path

import pytest

from studies.pruning_vgg_cifar10 import collect, doubt, study
from studies.pruning_vgg_cifar10.settings import PLANS, ROWS


@pytest.mark.slow
def test_smoke_run_from_training_to_tables_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect, "REPEATS", 3)
    monkeypatch.setattr(doubt, "REPEATS", 3)
    study.main(["--smoke", "--out", str(tmp_path), "--threads", "1"])
    study.main(["--smoke", "--collect", "--out", str(tmp_path), "--threads", "1"])
    results = json.loads((tmp_path / "results.json").read_text())
    longer, sbp = results["records"]
    assert (longer["row"], longer["macs_ratio"], longer["widths"]) == ("longer", 1.0, longer["totals"])
    assert sbp["row"] == "sbp"
    assert sbp["macs_ratio"] > 1
    assert sbp["base_error_pct"] == longer["base_error_pct"], "both start from the same network"
    assert "doubt" not in longer
    told = sbp["doubt"]
    assert list(told) == list(doubt.TITLES)
    assert told["whole"]["time_of_dense_passes"] == 1
    assert told["whole"]["error_pct"] == pytest.approx(sbp["base_error_pct"], abs=1), "bfloat16 and float32"
    assert told["pruned"]["error_pct"] == pytest.approx(sbp["error_pct"], abs=1)
    assert len({told[name]["nll"] for name in told}) == len(told)
    assert (tmp_path / "artifacts" / "smoke.safetensors").exists()
    shown = capsys.readouterr().out
    assert "| VGG-like | paper, SBP | 7.5 | +0.3 |" in shown
    assert f"| {sbp['error_pct']:.2f} | {sbp['change_pct']:+.2f} |" in shown
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    study.main(["--smoke", "--out", str(tmp_path), "--threads", "1"])  # nothing is done twice
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished run"):
        study.main(["--collect", "--out", str(tmp_path)])


def test_network_that_trains_on_trains_for_as_many_epochs() -> None:
    for plan in PLANS.values():
        epochs = {
            name: sum(getattr(plan.recipe(name, 0), part).epochs for part in ("base", "prune", "finetune"))
            for name in ROWS
        }
        assert len(set(epochs.values())) == 1, epochs


def test_committed_results_are_in_the_table() -> None:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    text = (collect.HERE / "README.md").read_text()
    for record in json.loads(path.read_text())["records"]:
        assert f"{record['macs_ratio']:.2f}" in text
