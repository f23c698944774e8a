"""The study's program on coloured digits, and what was committed of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dither
from dither.training import make_model
from studies.batchnorm_cifar5 import collect, study
from studies.batchnorm_cifar5.settings import CLASSES, FULL, SMOKE
from studies.cifar10 import coloured_digits
from studies.doubt import laplace
from studies.doubt.run import questions_of

FIELDS = {
    *("net", "method", "seed", "error_pct", "nll", "nll_calibrated", "ece", "ood_auroc", "ood_aupr", "ood_fpr95"),
    *("seconds_per_1000", "num_samples", "monte_carlo_se"),
}
# laplace-torch brings torchvision, which the tests are not run with: its row is only made where it is installed.
ROWS = {name for name, method in SMOKE["vgg11"].methods.items() if laplace.available() or not method.laplace}


# On so few images a temperature may have no optimum, and a channel may be dead.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out data have no best temperature", "ignore:dead channels")
def test_smoke_run_from_training_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--smoke", "--network", "vgg11", "--out", str(tmp_path)]
    study.main(given)
    study.main([*given, "--collect"])
    records = json.loads((tmp_path / "results.json").read_text())["vgg11"]["records"]
    assert {record["method"] for record in records} == {*ROWS, "ensemble", "ensemble + sbn"}
    assert all(set(record) >= FIELDS for record in records)
    of = {(record["method"], record["seed"]): record for record in records}
    assert of["sbn", 0]["nll"] not in (of["single", 0]["nll"], of["mc batchnorm", 0]["nll"])
    assert of["ensemble + sbn", 0]["num_samples"] == 8
    assert (tmp_path / "artifacts" / "vgg11" / "entropy.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "| SBN | 5.76, 0.302 | 2 |" in printed
    assert ("laplace: left out" in printed) != laplace.available()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "vgg11" / "records").iterdir()}
    study.main(given)  # nothing is done twice
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "vgg11" / "records").iterdir()}


def test_no_question_is_about_an_image_that_was_trained_on() -> None:
    images = coloured_digits()
    settings = SMOKE["resnet18"]
    questions = questions_of(images, study.other_classes(images["test"]), settings)
    trained = images["train"].only(CLASSES).split_last(settings.validation)[0]
    seen = {row.numpy().tobytes() for row in trained.pixels}
    for asked in (questions.held_out, questions.inside):
        assert asked.num_classes == 5
        assert not seen & {row.numpy().tobytes() for row in asked.pixels}
    assert set(questions.outside.labels.tolist()) == {5, 6, 7, 8, 9}
    assert sum(questions.sizes) == len(questions.all())


def test_dropout_stands_behind_every_relu_and_nothing_else_changes() -> None:
    torch.manual_seed(0)
    plain, dropping = (make_model(FULL["resnet18"].nets[kind].model, 5).eval() for kind in ("plain", "dropout"))
    dropping.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain(x), dropping(x))
    behind = [module[1].p for module in dropping.modules() if isinstance(module, torch.nn.Sequential)
              and len(module) == 2 and type(module[0]) is torch.nn.ReLU]  # fmt: skip
    assert behind == [0.1] * 17
    with dither.sampling(dropping):
        assert not torch.equal(plain(x), dropping(x))


def test_last_layer_laplace_doubts_more_than_the_network_it_is_made_of() -> None:
    pytest.importorskip("laplace", reason="laplace-torch brings torchvision: pip install 'dither[studies]'")
    torch.manual_seed(0)
    train = coloured_digits()["train"].only(CLASSES).split_last(300)[1]
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    before = [value.clone() for value in net.state_dict().values()]
    x = train.float_batch(slice(50))
    probs = laplace.LastLayerLaplace(net, train)(x).softmax(1)
    torch.testing.assert_close(probs.sum(1), torch.ones(50))
    mean = net(x).softmax(1)
    # The probit approximation divides logits by a number above one: the order of the classes stays.
    assert torch.equal(probs.argmax(1), mean.argmax(1))
    assert (probs.amax(1) < mean.amax(1)).all()
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished record"):
        study.main(["--smoke", "--collect", "--out", str(tmp_path)])


def committed() -> dict[str, Any]:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    return json.loads(path.read_text())


def test_committed_results_have_every_field() -> None:
    for name, found in committed().items():
        assert all(set(record) >= FIELDS for record in found["records"])
        assert {record["method"] for record in found["records"]} <= set(FULL[name].titles)
        members = {len(r["members"]) for r in found["records"] if r["method"] in FULL[name].ensembles}
        assert members == {6}


def test_committed_tables_are_those_of_the_results() -> None:
    for table in collect.tables(committed(), FULL).values():
        assert table in (collect.HERE / "README.md").read_text()


def test_rows_without_a_run_stay_and_ensembles_need_all_their_members() -> None:
    before = committed()["vgg11"]
    made = {key: before[key] for key in ("machine", "versions")}
    records, pairs = ([dict(row) for row in before[key]] for key in ("records", "pairs"))
    dropout = [r | {"nll": 7.0} for r in records if r["method"] == "dropout"]
    single = [r | {"nll": 8.0} for r in records if r["method"] == "single" and r["seed"] < 2]
    ensemble = [r | {"nll": 9.0, "members": [0, 1]} for r in records if r["method"] == "ensemble"]
    compared = [p | {"nll": 6.0} for p in pairs if p["method"] == "dropout + sbn"]
    found = collect.with_those_of_before(before, [*single, *dropout, *ensemble], compared, made, FULL["vgg11"])
    losses = {(r["method"], r["seed"]): r["nll"] for r in found["records"]}
    assert [r["method"] for r in found["records"]] == [r["method"] for r in records]
    assert {losses["dropout", seed] for seed in range(3)} == {7.0}
    assert losses["single", 1] == 8.0
    old = {(r["method"], r["seed"]): r["nll"] for r in records}
    assert (losses["single", 2], losses["ensemble", 0]) == (old["single", 2], old["ensemble", 0])
    assert [p["nll"] for p in found["pairs"] if p["method"] == "dropout + sbn"] == [6.0] * 3
    assert len(found["pairs"]) == len(pairs)
    with pytest.raises(SystemExit, match="run these rows too"):
        collect.with_those_of_before(before, dropout, [], made | {"versions": {"torch": "1"}}, FULL["vgg11"])
