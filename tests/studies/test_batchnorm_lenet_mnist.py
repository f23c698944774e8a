"""The study's program on enlarged digits, and what was committed of the real one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dither
from dither import batchnorm, metrics
from dither.training import Images, LeNet5BatchNorm
from studies.batchnorm_lenet_mnist import collect, study
from studies.batchnorm_lenet_mnist.settings import ENSEMBLES, FULL, METHODS
from studies.doubt import evaluate, tables
from studies.doubt.evaluate import Answers, Questions
from studies.paper import paper_rows

FIELDS = {
    *("net", "method", "seed", "error_pct", "nll", "nll_calibrated", "ece", "ood_auroc", "ood_aupr", "ood_fpr95"),
    *("seconds_per_1000", "num_samples", "monte_carlo_se"),
}


@pytest.fixture
def questions() -> Questions:
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> Images:
        pixels = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
        return Images(pixels, torch.arange(count) % 10, 10)

    return Questions(images(20), images(30), images(10))


# On so few images a temperature may have no optimum.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the held-out data have no best temperature")
def test_smoke_run_from_training_to_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.main(["--smoke", "--out", str(tmp_path)])
    study.main(["--smoke", "--collect", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {record["method"] for record in results["records"]} == {*METHODS, "ensemble", "ensemble + sbn"}
    assert all(set(record) >= FIELDS for record in results["records"])
    of = {(record["method"], record["seed"]): record for record in results["records"]}
    assert of["single", 0]["num_samples"] == 1
    assert of["single", 0]["monte_carlo_se"] == {}
    assert of["sbn", 0]["num_samples"] == 4
    assert of["sbn", 0]["nll"] != of["single", 0]["nll"]
    assert of["ensemble + sbn", 0]["num_samples"] == 8
    assert of["ensemble + sbn", 0]["members"] == [0, 1]
    assert of["sbn", 0]["noise_batch_size"] == 16
    pair = results["pairs"][0]
    assert pair["nll"] == pytest.approx(of["sbn", 0]["nll"] - of["single", 0]["nll"], abs=1e-6)
    assert "| SBN | 0.53, 0.025 | 2 |" in capsys.readouterr().out
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}
    study.main(["--smoke", "--out", str(tmp_path)])  # nothing is done twice
    assert written == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "records").iterdir()}


def test_collecting_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no finished record"):
        study.main(["--smoke", "--collect", "--out", str(tmp_path)])


def test_predictions_that_are_put_together_are_those_of_an_ensemble(questions: Questions) -> None:
    torch.manual_seed(0)
    members = [batchnorm.convert(LeNet5BatchNorm()).eval() for _ in range(2)]
    for member in members:
        batchnorm.fit(member, [torch.rand(16, 1, 28, 28) for _ in range(6)])
    x = questions.all().float_batch(slice(None))
    whole = dither.predict(dither.Ensemble(members), x, 4, generator=torch.Generator().manual_seed(3))
    parts = [whole.probs[:4], whole.probs[4:]]
    rows = torch.arange(30)
    answers = []
    for probs in parts:
        mean = probs.mean(0)
        information = metrics.entropy(mean) - torch.stack([metrics.entropy(p) for p in probs]).mean(0)
        on_target = probs[:, 20:50][:, rows, questions.inside.labels]
        answers.append(Answers(probs.unflatten(0, (2, 2)).mean(1), information, on_target))
    made = evaluate.together(answers)
    torch.testing.assert_close(made.groups.mean(0), whole.mean)
    torch.testing.assert_close(made.mutual_information, whole.mutual_information, atol=1e-6, rtol=1e-4)
    assert made.num_samples == 8


def test_what_was_asked_is_what_predict_says(questions: Questions, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = batchnorm.convert(LeNet5BatchNorm()).eval()
    batchnorm.fit(net, [torch.rand(16, 1, 28, 28) for _ in range(6)])
    answers = evaluate.ask(net, questions, num_samples=4, groups=2, seed=5)
    answers.write(tmp_path / "a.safetensors")
    answers = Answers.read(tmp_path / "a.safetensors")
    x = questions.inside.float_batch(slice(None))
    alone = dither.predict(net, x, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(answers.groups.mean(0)[20:50], alone.mean, atol=1e-5, rtol=1e-4)
    target = alone.probs[:, torch.arange(30), questions.inside.labels]
    torch.testing.assert_close(answers.on_target, target, atol=1e-5, rtol=1e-4)
    mean = evaluate.ask(net, questions, num_samples=0, groups=2, seed=5)
    torch.testing.assert_close(mean.groups[0, 20:50], net(x).softmax(1), atol=1e-5, rtol=1e-4)


def test_standard_error_of_a_mean_is_the_usual_one(questions: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = torch.rand(5, 60, 10, generator=torch.Generator().manual_seed(1)).softmax(2)
    monkeypatch.setattr(evaluate, "table", lambda probs, _: {"mean": probs[0, 0].item()})
    values = evaluate.score(Answers(groups, torch.rand(60), torch.rand(10, 30)), questions)
    expected = groups[:, 0, 0].std() / 5**0.5
    assert values["monte_carlo_se"]["mean"] == pytest.approx(expected.item(), rel=1e-4)


def test_curve_averages_blocks_of_samples() -> None:
    on_target = torch.tensor([[0.2], [0.4], [0.6]])
    numbers, nll, _ = evaluate.curve(Answers(torch.zeros(1), torch.zeros(1), on_target), (1, 2, 3))
    log = torch.tensor([0.2, 0.4, 0.6, 0.3], dtype=torch.float64).log()
    assert numbers.tolist() == [1, 2, 3]
    torch.testing.assert_close(nll, -torch.stack([log[:3].mean(), log[3], log[1]]), atol=1e-6, rtol=0)


def committed() -> dict[str, Any]:
    path = collect.HERE / "results.json"
    if not path.exists():
        pytest.skip("the study has no results yet")
    return json.loads(path.read_text())


def test_committed_results_have_every_row_and_enough_seeds() -> None:
    records = committed()["records"]
    assert all(set(record) >= FIELDS for record in records)
    seeds = {name: {record["seed"] for record in records if record["method"] == name} for name in METHODS}
    for name in ("single", "sbn", "mc batchnorm", "correlated", "dropout, mean network", "dropout", "dropout + sbn"):
        assert len(seeds[name]) >= 3, name
    assert {len(record["members"]) for record in records if record["method"] in ENSEMBLES} == {6}


def test_committed_tables_are_those_of_the_results() -> None:
    results = committed()
    paper = paper_rows(collect.HERE.name)
    table = tables.make_table(
        results["records"], results["pairs"], FULL, paper, results["machine"], results["versions"]
    )
    assert table in (collect.HERE / "README.md").read_text()
