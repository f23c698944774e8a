"""The study's program on enlarged digits, and what was committed of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dither
from dither import batchnorm
from dither.training import make_model
from studies.cifar10 import coloured_digits
from studies.doubt.settings import norms
from studies.small_and_doubtful import collect, study
from studies.small_and_doubtful.settings import FULL, METHODS, SMOKE, under

FIELDS = {
    *("net", "method", "seed", "error_pct", "nll", "nll_calibrated", "ece", "ood_auroc", "num_samples"),
    *("widths", "params", "macs", "macs_ratio", "latency_ms_b64", "time_of_dense_passes"),
    *("time_of_dense_passes_contiguous", "monte_carlo_se"),
}


# On so few images a temperature may have no optimum, and a channel may be dead.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out data have no best temperature", "ignore:dead channels")
@pytest.mark.parametrize("network", SMOKE)
def test_smoke_run_from_training_to_tables(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--smoke", "--network", network, "--out", str(tmp_path), "--trained", str(tmp_path / "none")]
    study.main(given)
    study.main([*given, "--collect"])
    results = json.loads((tmp_path / "results.json").read_text())[network]
    records = {record["method"]: record for record in results["records"]}
    assert list(records) == list(METHODS)
    assert all(set(record) >= FIELDS for record in records.values())
    assert records["dense"]["time_of_dense_passes"] == 1
    assert records["pruned"]["macs"] < records["dense"]["macs"]
    assert records["pruned + sbn"]["macs"] == records["pruned"]["macs"]
    assert records["pruned + sbn"]["nll"] not in (records["pruned"]["nll"], records["pruned + sbn, last two"]["nll"])
    assert (records["pruned"]["num_samples"], records["pruned + sbn"]["num_samples"]) == (1, 4)
    small = load(network, tmp_path / "artifacts")
    assert sum(p.numel() for p in small.parameters()) == records["pruned"]["params"]
    assert "| pruned + SBN | 4 |" in capsys.readouterr().out
    assert (tmp_path / f"{network}.png").stat().st_size > 1000


def load(network: str, artifacts: Path) -> torch.nn.Module:
    plan = FULL[network]
    return dither.load(make_model(plan.recipe(0).model, plan.classes), artifacts / network / "small.safetensors")


def test_only_the_last_layers_are_converted() -> None:
    plan = SMOKE["vgg11"]
    net = make_model(plan.recipe(0).model, plan.classes).eval()
    train = study.trained_on(coloured_digits()["train"], plan)
    converted = under(net, METHODS["pruned + sbn, last two"], train, plan, seed=0, num_batches=4)
    names = [name for name, layer in converted.named_modules() if isinstance(layer, batchnorm.StochasticBatchNorm)]
    assert len(norms(net)) == 8
    assert tuple(names) == norms(net)[-2:]


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished record"):
        study.main(["--smoke", "--collect", "--out", str(tmp_path)])


def test_tables_and_figures_need_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = committed()
    (tmp_path / "results.json").write_text(json.dumps(results))
    collect.collect(tmp_path / "runs", tmp_path, FULL, {})
    assert json.loads((tmp_path / "results.json").read_text()) == results
    printed = capsys.readouterr().out
    for network in results:
        assert FULL[network].title in printed
        assert (tmp_path / f"{network}.png").stat().st_size > 1000


def committed() -> dict[str, Any]:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    return json.loads(path.read_text())


@pytest.mark.parametrize("network", FULL)
def test_committed_network_is_one_of_the_results(network: str) -> None:
    results = committed()
    if network not in results:
        pytest.skip(f"the study has no results for {network} yet")
    records = results[network]["records"]
    assert all(set(record) >= FIELDS for record in records)
    assert len({record["seed"] for record in records}) >= 3
    side, channels = (28, 1) if network == "lenet5" else (32, 3)
    small = load(network, collect.HERE / "artifacts")
    cost = dither.cost(small, torch.zeros(1, channels, side, side), repeats=1, warmup=0)
    assert (cost.params, cost.macs) in {(r["params"], r["macs"]) for r in records if r["method"] == "pruned"}


def test_committed_tables_are_those_of_the_results() -> None:
    for network, results in committed().items():
        assert collect.make_table(results, FULL[network]) in (collect.HERE / "README.md").read_text()
