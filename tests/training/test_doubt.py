"""A network of a run beside its stochastic self, on the digits."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import dither
from dither import batchnorm
from dither.training import Batches, DoubtReport, Fit, Noise, Recipe, Run, doubt, load_images, make_model

RECIPE = Recipe(
    model="digits_bn",
    data="digits",
    base=Fit(epochs=3, batch_size=16, lr=3e-3),
    prune=Fit(epochs=1, batch_size=32),
    noise=Noise(gate_lr=0.2, kl_weight=0.1),
    validation=100,
    seed=4,
    classes=(0, 1, 2, 3, 4),
)
FIGURES = ["entropy.png", "reliability.png", "risk_coverage.png", "statistics.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    Run(folder, RECIPE, threads=1).base()
    return folder


@pytest.fixture(scope="module")
def report(trained: Path) -> DoubtReport:
    return doubt(Run(trained), "rest", num_samples=8, num_batches=60)


def copied(trained: Path, folder: Path, **changes: object) -> Run:
    """A run with the same trained network."""
    folder.mkdir()
    shutil.copy(trained / "base.safetensors", folder)
    recipe = dataclasses.replace(RECIPE, **changes)
    (folder / "recipe.json").write_text(recipe.to_json())
    return Run(folder)


def probabilities(trained: Path, x: torch.Tensor) -> torch.Tensor:
    net = dither.load(make_model("digits_bn", 5), trained / "base.safetensors").eval()
    with torch.no_grad():
        return net(x).softmax(1)


def nll(probs: torch.Tensor, y: torch.Tensor) -> float:
    return -probs[torch.arange(len(y)), y].double().log().mean().item()


def images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    found = load_images("digits", "test")
    rows = found.labels < 5 if split == "test" else found.labels >= 5
    return found.pixels[rows] / 255, found.labels[rows]


def test_the_folder_has_the_report_and_figures_that_can_be_read(report: DoubtReport) -> None:
    assert {path.name for path in report.folder.iterdir()} == {"report.json", "report.md", "curves.json", *FIGURES}
    assert json.loads((report.folder / "report.json").read_text()) == report.values
    assert report.values["figures"] == FIGURES
    for name in FIGURES:
        with Image.open(report.folder / name) as picture:
            assert picture.size[0] >= 1000
    text = (report.folder / "report.md").read_text()
    for part in ("| error on the test images |", "![entropy of known and unknown images](entropy.png)", "noise of μ"):
        assert part in text


def test_the_single_network_is_the_one_that_was_saved(trained: Path, report: DoubtReport) -> None:
    x, y = images("test")
    probs, outside = probabilities(trained, x), probabilities(trained, images("rest")[0])
    entropy = torch.special.entr(torch.cat([probs, outside])).sum(1)
    is_outside = torch.arange(len(entropy)) >= len(probs)
    assert report.single["error_pct"] == pytest.approx(100 * (probs.argmax(1) != y).float().mean().item())
    assert report.single["nll"] == pytest.approx(nll(probs, y), rel=1e-4)
    assert report.single["ood_auroc"] == pytest.approx(roc_auc_score(is_outside, entropy))
    assert report.single["num_samples"] == 1
    assert "ood_auroc_mutual_information" not in report.single


def test_the_curves_are_those_of_the_two_networks(trained: Path, report: DoubtReport) -> None:
    """For the page of `dither report`."""
    found = json.loads((report.folder / "curves.json").read_text())
    probs, outside = probabilities(trained, images("test")[0]), probabilities(trained, images("rest")[0])
    for kind, values in (("known", probs), ("unknown", outside)):
        highest = torch.special.entr(values).sum(1).max().item()
        assert found["methods"]["single"][kind][-1] == pytest.approx(highest, abs=1e-5)
    for method, record in (("single", report.single), ("sbn", report.sbn)):
        assert 100 * found["methods"][method]["risk"][-1][1] == pytest.approx(record["error_pct"], abs=1e-3)
        assert found["methods"][method]["ece"] == pytest.approx(record["ece"])
    first = found["uncertain"][0]
    assert first["answers"]["sbn"]["information"] > 0
    assert first["answers"]["sbn"]["entropy"] == pytest.approx(found["methods"]["sbn"]["known"][-1], abs=1e-5)
    number, p = first["answers"]["single"]["top"][0]
    assert probs[first["row"], number].item() == pytest.approx(p, abs=1e-5)


def test_a_folder_without_curves_is_measured_again(trained: Path, report: DoubtReport, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    first = doubt(run, num_samples=2, num_batches=10)
    (first.folder / "curves.json").unlink()
    assert doubt(run, num_samples=2, num_batches=10).sbn["nll"] == pytest.approx(first.sbn["nll"])
    assert (first.folder / "curves.json").exists()


def test_the_stochastic_one_is_fitted_on_batches_of_the_training(trained: Path, report: DoubtReport) -> None:
    """The same three calls by hand, on tensors and not streamed."""
    run = Run(trained)
    batches = Batches(run.images("train"), RECIPE.base, 10 * RECIPE.seed + 1)
    per_epoch = len(run.images("train")) // 16
    chosen = [x for epoch in (0, 1) for x, _ in batches.epoch(epoch)][:60]
    assert per_epoch < 60  # so that a second epoch is begun
    net = batchnorm.convert(run.base())
    batchnorm.fit(net, chosen)
    (x, y), (z, _) = images("test"), images("rest")
    generators = [torch.Generator().manual_seed(10 * RECIPE.seed + 2) for _ in range(2)]
    inside, outside = (dither.predict(net, t, 8, generator=g) for t, g in zip((x, z), generators, strict=True))
    assert report.sbn["nll"] == pytest.approx(nll(inside.mean, y), rel=1e-4)
    is_outside = torch.arange(len(x) + len(z)) >= len(x)
    for score, key in (("entropy", "ood_auroc"), ("mutual_information", "ood_auroc_mutual_information")):
        values = torch.cat([getattr(inside, score), getattr(outside, score)])
        assert report.sbn[key] == pytest.approx(roc_auc_score(is_outside, values), abs=1e-3)
    assert report.values["fit"].startswith("60 batches of 16 examples")
    assert report.sbn["num_samples"] == 8


def test_the_change_is_the_paired_difference(trained: Path, report: DoubtReport) -> None:
    change = report.values["change"]
    assert change["nll"] == pytest.approx(report.sbn["nll"] - report.single["nll"], abs=1e-9)
    assert change["nll"] != 0
    assert 0 < change["nll_se"] < 0.1


def test_temperatures_come_from_the_held_out_images(trained: Path, report: DoubtReport, tmp_path: Path) -> None:
    train = load_images("digits", "train").only(RECIPE.classes or ())
    logits = probabilities(trained, train.pixels[-100:] / 255).double().log()
    grid = torch.linspace(0.05, 2, 2000, dtype=torch.double)
    losses = [torch.nn.functional.cross_entropy(logits / t, train.labels[-100:]).item() for t in grid]
    best = grid[losses.index(min(losses))].item()
    assert report.single["temperature"] == pytest.approx(best, abs=2e-3)
    assert report.values["images"] == {"test": 170, "validation": 100, "outside": 190}
    without = doubt(copied(trained, tmp_path / "run", validation=0), num_samples=2, num_batches=10)
    assert "nll_calibrated" not in without.sbn
    assert "temperature" not in without.to_markdown()


def test_without_images_outside_there_is_no_detection(trained: Path, tmp_path: Path) -> None:
    found = doubt(copied(trained, tmp_path / "run"), num_samples=2, num_batches=10)
    assert not [key for key in found.sbn if key.startswith("ood")]
    assert not (found.folder / "entropy.png").exists()
    assert "unknown" not in found.to_markdown()


def test_the_same_question_is_not_asked_twice(
    trained: Path, report: DoubtReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "base", lambda self: pytest.fail("asked again"))
    again = doubt(Run(trained), "rest", num_samples=8, num_batches=60)
    assert again.values == report.values
    for change in ({"num_samples": 9}, {"law": batchnorm.Empirical()}, {"layers": ["bn3"]}, {"num_batches": 61}):
        with pytest.raises(pytest.fail.Exception, match="asked again"):
            doubt(Run(trained), "rest", **({"num_samples": 8, "num_batches": 60} | change))


def test_laws_and_layers_are_passed_on(trained: Path, tmp_path: Path) -> None:
    law = batchnorm.Empirical(joint=True)
    found = doubt(copied(trained, tmp_path / "run"), num_samples=3, num_batches=20, law=law, layers=["bn2"])
    assert "bn2" in found.values["fit"]
    assert "bn1" not in found.values["fit"]
    assert "BatchNorm in bn2, 3 samples, law Empirical(joint=True)" in found.to_markdown()


def test_tuning_uses_the_held_out_images(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = batchnorm.tune

    def spied(net: torch.nn.Module, loader: list, **options: object) -> object:
        seen.append(sum(len(labels) for _, labels in loader))
        return real(net, loader, **options)

    monkeypatch.setattr(batchnorm, "tune", spied)
    found = doubt(copied(trained, tmp_path / "run"), num_samples=2, num_batches=20, tune=True)
    assert seen == [100]
    assert str(found.values["tune"]) in found.to_markdown()


def test_the_shrunk_network_can_be_asked(trained: Path, tmp_path: Path) -> None:
    run = copied(trained, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"no small.safetensors yet; make it with dither prune"):
        doubt(run, network="small")
    small = run.prune().small
    found = doubt(run, num_samples=2, num_batches=20, network="small")
    assert found.folder.name == "doubt_small"
    assert found.single["nll"] == pytest.approx(small["nll"], rel=1e-4)


def test_impossible_questions_are_refused(trained: Path, tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain", dataclasses.replace(RECIPE, model="digits", base=Fit(epochs=0), validation=0))
    with pytest.raises(ValueError, match="has no BatchNorm"):
        doubt(plain)
    with pytest.raises(ValueError, match="tune needs held-out images: train with validation"):
        doubt(plain, tune=True)
    with pytest.raises(ValueError, match="num_samples is 0"):
        doubt(plain, num_samples=0)
    with pytest.raises(ValueError, match="network is 'tiny', expected 'base' or 'small'"):
        doubt(plain, network="tiny")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        doubt(Run(trained), "./nowhere")


def test_images_of_another_size_are_refused(trained: Path, tmp_path: Path) -> None:
    for index in range(2):
        folder = tmp_path / "other" / "test" / str(index)
        folder.mkdir(parents=True)
        Image.new("L", (6, 5)).save(folder / "one.png")
    with pytest.raises(ValueError, match="are 1 x 5 x 6, the network was trained on 1 x 8 x 8"):
        doubt(Run(trained), str(tmp_path / "other"))
