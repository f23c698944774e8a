"""The study's program on enlarged digits, and what was committed of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dither
from dither.training import make_model
from studies.small_and_doubtful import collect, study
from studies.small_and_doubtful.settings import FULL, METHODS

FIELDS = {
    *("net", "method", "seed", "error_pct", "nll", "nll_calibrated", "ece", "ood_auroc", "num_samples"),
    *("widths", "params", "macs", "macs_ratio", "latency_ms_b64", "time_of_dense_passes"),
    *("time_of_dense_passes_contiguous", "monte_carlo_se"),
}


# On so few images a temperature may have no optimum.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out data have no best temperature")
def test_smoke_run_from_training_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--smoke", "--out", str(tmp_path), "--dense", str(tmp_path / "none")]
    study.main(given)
    study.main([*given, "--collect"])
    results = json.loads((tmp_path / "results.json").read_text())
    records = {record["method"]: record for record in results["records"]}
    assert list(records) == list(METHODS)
    assert all(set(record) >= FIELDS for record in records.values())
    assert records["dense"]["time_of_dense_passes"] == 1
    assert records["pruned"]["macs"] < records["dense"]["macs"]
    assert records["pruned + sbn"]["macs"] == records["pruned"]["macs"]
    assert records["pruned + sbn"]["nll"] not in (records["pruned"]["nll"], records["pruned + sbn, last two"]["nll"])
    assert (records["pruned"]["num_samples"], records["pruned + sbn"]["num_samples"]) == (1, 4)
    small = dither.load(make_model("lenet5_bn"), tmp_path / "artifacts" / "small.safetensors")
    assert sum(p.numel() for p in small.parameters()) == records["pruned"]["params"]
    assert "| pruned + SBN | 4 |" in capsys.readouterr().out


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished record"):
        study.main(["--smoke", "--collect", "--out", str(tmp_path)])


def committed() -> dict[str, Any]:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    return json.loads(path.read_text())


def test_committed_network_is_one_of_the_results() -> None:
    records = committed()["records"]
    assert all(set(record) >= FIELDS for record in records)
    assert len({record["seed"] for record in records}) >= 3
    small = dither.load(make_model("lenet5_bn"), collect.HERE / "artifacts" / "small.safetensors")
    cost = dither.cost(small, torch.zeros(1, 1, 28, 28), repeats=1, warmup=0)
    assert (cost.params, cost.macs) in {(r["params"], r["macs"]) for r in records if r["method"] == "pruned"}


def test_committed_table_is_that_of_the_results() -> None:
    results = committed()
    table = collect.make_table(results["records"], FULL, results["machine"], results["versions"])
    assert table in (collect.HERE / "README.md").read_text()
