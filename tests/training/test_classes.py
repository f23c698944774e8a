"""Training on some of the classes; the others are what the network cannot know."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import dither
from dither.training import Fit, Images, Noise, Recipe, Run, evaluate, load_images, make_model

LABELS = torch.tensor([4, 0, 2, 2, 1, 4])
IMAGES = Images(torch.arange(6, dtype=torch.uint8)[:, None, None, None], LABELS, 5, "six pictures")
RECIPE = Recipe(
    model="digits_bn",
    data="digits",
    base=Fit(epochs=1, batch_size=16),
    prune=Fit(epochs=1, batch_size=16),
    noise=Noise(gate_lr=0.2, kl_weight=0.1),
    validation=50,
    classes=(1, 7, 3),
)


def test_only_renumbers_in_the_order_of_the_classes() -> None:
    some = IMAGES.only((4, 2))
    assert some.pixels.flatten().tolist() == [0, 2, 3, 5]
    assert some.labels.tolist() == [0, 1, 1, 0]
    assert some.num_classes == 2
    assert IMAGES.labels is LABELS  # the original images are as they were


def test_without_keeps_the_labels() -> None:
    rest = IMAGES.without((4, 2))
    assert rest.pixels.flatten().tolist() == [1, 4]
    assert rest.labels.tolist() == [0, 1]
    assert rest.num_classes == 5


def test_classes_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="six pictures has the classes 0 to 4, there is no class 5"):
        IMAGES.only((0, 5))
    with pytest.raises(ValueError, match="six pictures has no image of class 3; leave the class out"):
        IMAGES.only((0, 3))
    with pytest.raises(ValueError, match="six pictures has no images beside those of the classes 0, 1, 2, 3, 4"):
        IMAGES.without(range(5))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    finished = Run(tmp_path_factory.mktemp("runs") / "some", RECIPE, threads=1)
    finished.prune()
    return finished


def test_a_run_sees_only_its_classes(run: Run) -> None:
    test = load_images("digits", "test")
    assert run.images("test").labels.unique().tolist() == [0, 1, 2]
    sevens = run.images("test").pixels[run.images("test").labels == 1]
    assert torch.equal(sevens, test.pixels[test.labels == 7])
    train = load_images("digits", "train").only(RECIPE.classes or ())
    assert len(run.images("train")) == len(train) - 50
    assert torch.equal(run.images("validation").pixels, train.pixels[-50:])
    assert run.base()(run.example()).shape == (2, 3)


def test_the_rest_are_the_other_classes_of_the_test_images(run: Run) -> None:
    rest = run.images("rest")
    assert rest.labels.unique().tolist() == [0, 2, 4, 5, 6, 8, 9]
    assert len(rest) + len(run.images("test")) == 360


def test_a_run_on_all_classes_has_no_rest(tmp_path: Path) -> None:
    run = Run(tmp_path, dataclasses.replace(RECIPE, classes=None))
    with pytest.raises(ValueError, match="no class is left out"):
        run.images("rest")


def test_saved_networks_say_which_classes_they_know(run: Run) -> None:
    for name in ("base", "small"):
        path = run.folder / f"{name}.safetensors"
        assert dither._checkpoint.read_header(path).metadata["classes"] == [1, 7, 3]
        net = dither.load(make_model("digits_bn", 3), path)
        assert evaluate(net, run.images("test")).count == len(run.images("test"))


def test_other_classes_for_a_trained_folder_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=re.escape("was made with classes = (1, 7, 3), the recipe now says (1, 7)")):
        Run(run.folder, dataclasses.replace(RECIPE, classes=(1, 7)))


def test_a_report_from_before_there_were_classes_is_not_made_again(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, model="digits", classes=None)
    first = Run(tmp_path / "new", recipe, threads=1)
    first.prune()
    old = shutil.copytree(first.folder, tmp_path / "old")
    for name in ("recipe.json", "report.json"):
        values = json.loads((old / name).read_text())
        del (values if name == "recipe.json" else values["recipe"])["classes"]
        (old / name).write_text(json.dumps(values))
    report = (old / "report.json").read_text()
    assert Run(old).prune().small == json.loads(report)["records"][-1]
    assert (old / "report.json").read_text() == report
