"""The study's program on enlarged digits, and what was committed of the real one."""

import json
from pathlib import Path

import pytest
import torch

import dither
from dither.training import make_model
from studies.pruning_lenet_mnist import collect, study

FIELDS = {
    *("net", "method", "seed", "error_pct", "nll", "widths"),
    *("macs_ratio", "params_ratio", "latency_ratio_b1", "latency_ratio_b64"),
}


def test_smoke_run_from_training_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collect, "REPEATS", 3)
    study.main(["--smoke", "--net", "lenet_500_300", "--out", str(tmp_path), "--threads", "1"])
    study.main(["--smoke", "--collect", "--out", str(tmp_path), "--threads", "1"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"machine", "versions", "records"} == set(results)
    assert [record["method"] for record in results["records"]] == ["original", "sbp"]
    assert all(set(record) >= FIELDS for record in results["records"])
    small = dither.load(make_model("lenet_500_300"), tmp_path / "artifacts" / "lenet_500_300.safetensors")
    assert sum(p.numel() for p in small.parameters()) == results["records"][1]["params"]
    shown = capsys.readouterr().out
    assert "| LeNet-500-300 | paper, SBP | 1.55 | 245-160-55 | 11.23x |" in shown
    assert f"| {results['records'][1]['error_pct']:.2f} |" in shown


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished run"):
        study.main(["--collect", "--out", str(tmp_path)])


def test_means_and_deviations_are_over_seeds() -> None:
    records = [
        {"method": "sbp", "error_pct": error, "widths": {"fc1[in]": 200, "fc1": fc1, "fc2": 50}}
        | dict.fromkeys(("macs_ratio", "params_ratio", "latency_ratio_b1", "latency_ratio_b64"), ratio)
        for error, fc1, ratio in ((1.0, 90, 10.0), (1.2, 96, 12.0))
    ]
    row = collect.cells("lenet_500_300", records)
    assert row == "1.10 ± 0.14 | 200-93-50 | 11.00 ± 1.41x | 11.00 ± 1.41x | 11.00 ± 1.41x | 11.00 ± 1.41x"


@pytest.mark.parametrize("net", ["lenet5", "lenet_500_300"])
def test_committed_network_is_the_one_in_the_results(net: str) -> None:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    records = [r for r in json.loads(path.read_text())["records"] if r["net"] == net]
    small = dither.load(make_model(net), collect.HERE / "artifacts" / f"{net}.safetensors")
    cost = dither.cost(small, torch.zeros(1, 1, 28, 28), repeats=1, warmup=0)
    assert (cost.params, cost.macs) in {(r["params"], r["macs"]) for r in records if r["method"] == "sbp"}
    assert len({r["seed"] for r in records}) >= 3
