"""Data from folders, and what is wrong with them in one sentence."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dither.training import Images, load_images

datasets = pytest.importorskip("datasets")
MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value: int, size: tuple[int, int] = (4, 6), mode: str = "L") -> Image.Image:
    shape = size if mode == "L" else (*size, 3)
    return Image.fromarray(np.full(shape, value, dtype=np.uint8), mode=None)


def write(folder: Path, split: str, columns: dict[str, list]) -> Path:
    features = datasets.Dataset.from_dict(columns).features
    for name in ("image", "img"):
        if name in columns:
            features[name] = datasets.Image()
    for name in ("label", "labels"):
        if name in columns:
            features[name] = datasets.ClassLabel(names=["a", "b", "c"])
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "labels")])
def test_parquet_folder(tmp_path: Path, image: str, label: str) -> None:
    rows = {image: [picture(value) for value in (0, 7, 255)], label: [2, 0, 1]}
    write(tmp_path / "data", "train", rows)
    images = load_images(str(tmp_path / "data"), "train")
    assert images.pixels.shape == (3, 1, 4, 6)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.amax((1, 2, 3)).tolist() == [0, 7, 255]
    assert images.labels.tolist() == [2, 0, 1]
    assert images.num_classes == 3
    assert images.class_names == ("a", "b", "c")
    assert images.only((2, 0)).class_names == ("c", "a")


def test_image_folder_in_colour(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index, name in enumerate(("cat", "dog")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            picture(40 * (index + 1), mode="RGB").save(folder / "one.png")
    images = load_images(str(tmp_path / "data"), "test")
    assert images.pixels.shape == (2, 3, 4, 6)
    assert images.pixels[images.labels == 1].unique().tolist() == [80]


def test_digits_are_split_the_same_way_every_time() -> None:
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert torch.equal(load_images("digits", "test").pixels, test.pixels)
    assert int(train.pixels.max()) == 255
    assert torch.bincount(test.labels, minlength=10).min() >= 20


def test_mnist_as_the_hub_has_it() -> None:
    if not MNIST.is_dir():
        pytest.skip("needs the folder ../shared/data/mnist")
    test = load_images(str(MNIST), "test")
    assert test.pixels.shape == (10000, 1, 28, 28)
    assert torch.bincount(test.labels).tolist()[:2] == [980, 1135]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [1], "label": [0]}, "columns picture, label; expected one named image or img"),
        ({"image": [picture(1)], "class": [0]}, "columns image, class; expected one named label or labels"),
        ({"image": [picture(1), picture(1, (5, 6))], "label": [0, 1]}, r"image 1 .* shape \(1, 5, 6\)"),
    ],
)
def test_unusable_rows_are_named(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    folder = write(tmp_path / "data", "train", columns)
    with pytest.raises(ValueError, match=message):
        load_images(str(folder), "train")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "train", {"image": [picture(1)], "label": [0]})
    with pytest.raises(ValueError, match="splits train; expected 'test'"):
        load_images(str(folder), "test")
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_images("digits", "validation")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        load_images(str(tmp_path / "nowhere"), "train")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the folder"):
        load_images(str(tmp_path), "train")


def test_held_out_images_are_the_last_ones() -> None:
    images = Images(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10), 10)
    first, last = images.split_last(3)
    assert first.labels.tolist() == list(range(7))
    assert last.pixels.flatten().tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="cannot hold out 10 of the 10 images"):
        images.split_last(10)


def test_loading_images_needs_no_datasets_library_for_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load_images("digits", "test")) == 360
