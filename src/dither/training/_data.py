"""Image classification data, held in memory as bytes: a folder, the Hugging Face hub, or the embedded digits."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels")


@dataclass(frozen=True)
class Images:
    """Images and their classes.

    Attributes:
        pixels: uint8, (N, C, H, W), 0 to 255.
        labels: int64, (N,).
        num_classes: K; labels are below it.
        name: where they came from, for messages and reports.
        class_names: what the classes are called, K of them; None where only their numbers are known.
    """

    pixels: Tensor
    labels: Tensor
    num_classes: int
    name: str = "images"
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Images:
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def float_batch(self, rows: slice | Tensor) -> Tensor:
        """Some images as the networks read them: float32 in [0, 1].

        Zero stays zero: a pixel that is switched off must be exactly zero, so nothing is subtracted.
        """
        return self.pixels[rows].float().div_(255)

    def only(self, classes: Sequence[int]) -> Images:
        """The images of some classes; the first of these becomes class 0, the second class 1, and so on.

        Raises:
            ValueError: If there is no such class, or one of them has no images.

        Example:
            >>> some = Images(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([7, 2, 5]), 10).only((5, 7))
            >>> some.labels, some.num_classes
            (tensor([1, 0]), 2)
        """
        self._check_classes(classes)
        number = torch.full((self.num_classes,), -1, device=self.labels.device)
        number[list(classes)] = torch.arange(len(classes), device=self.labels.device)
        labels = number[self.labels]
        rows = labels >= 0
        counts = torch.bincount(labels[rows], minlength=len(classes)).tolist()
        if 0 in counts:
            raise ValueError(f"{self.name} has no image of class {classes[counts.index(0)]}; leave the class out")
        names = None if self.class_names is None else tuple(self.class_names[c] for c in classes)
        return replace(self, pixels=self.pixels[rows], labels=labels[rows], num_classes=len(classes), class_names=names)

    def without(self, classes: Sequence[int]) -> Images:
        """The images of all other classes, with the labels they have.

        Raises:
            ValueError: If there is no such class, or no image is left.
        """
        self._check_classes(classes)
        rows = ~torch.isin(self.labels, torch.tensor(list(classes), device=self.labels.device))
        if not bool(rows.any()):
            raise ValueError(f"{self.name} has no images beside those of the classes {_names(classes)}")
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def _check_classes(self, classes: Sequence[int]) -> None:
        if unknown := [c for c in classes if not 0 <= c < self.num_classes]:
            raise ValueError(f"{self.name} has the classes 0 to {self.num_classes - 1}, there is no class {unknown[0]}")

    def split_last(self, count: int) -> tuple[Images, Images]:
        """All but the last ``count`` images, and the last ``count``.

        Raises:
            ValueError: If that leaves no images in the first part.
        """
        if not 0 <= count < len(self):
            raise ValueError(f"cannot hold out {count} of the {len(self)} images of {self.name}: too many")
        cut = len(self) - count
        first = replace(self, pixels=self.pixels[:cut], labels=self.labels[:cut])
        return first, replace(self, pixels=self.pixels[cut:], labels=self.labels[cut:])


def _names(classes: Sequence[int]) -> str:
    return ", ".join(str(c) for c in classes)


def load_images(data: str, split: str) -> Images:
    """One split of a data set, decoded into memory.

    Args:
        data: "digits" (scikit-learn's 8x8 digits: 1,437 to train and 360 to test), a folder in any layout that
            ``datasets.load_dataset`` reads (parquet files, or images in one folder per class), or a hub name.
        split: "train" or "test".

    Returns:
        The images, in the order of the data set.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If the data cannot be read, or a split or a column is missing, or image sizes differ.

    Example:
        >>> load_images("digits", "test").pixels.shape
        torch.Size([360, 1, 8, 8])
    """
    if data == "digits":
        return _digits(split)
    rows = _load_split(data, split)
    columns: list[str] = rows.column_names
    image = _column(columns, IMAGE_COLUMNS, data)
    label = _column(columns, LABEL_COLUMNS, data)
    labels = torch.as_tensor(cast(list[int], list(rows[label])), dtype=torch.int64)
    names = getattr(rows.features[label], "names", None)
    num_classes = len(names) if names is not None else int(labels.max()) + 1
    return Images(_decode(rows, image, data), labels, num_classes, f"{data} ({split})", names and tuple(names))


def _digits(split: str) -> Images:
    """The digits in a fixed random order: the file is sorted by writer, so its end is no fair test."""
    if split not in ("train", "test"):
        raise ValueError(f"digits has no split {split!r}, expected 'train' or 'test'")
    from sklearn.datasets import load_digits

    bunch = cast(Any, load_digits())
    pixels = torch.as_tensor(bunch.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.as_tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    rows = order[:1437] if split == "train" else order[1437:]
    return Images(pixels[rows], labels[rows], 10, f"digits ({split})")


def _load_split(data: str, split: str) -> Any:
    path = Path(data)
    if not path.exists() and (data.count("/") != 1 or data.startswith((".", "/", "~"))):
        raise FileNotFoundError(f"no folder {data!r}; data is 'digits', a folder or a hub name like owner/name")
    import datasets

    was_enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        loaded = cast(dict[str, Any], datasets.load_dataset(data))
    except Exception as error:  # every layer below has its own family of errors; all mean "cannot be read"
        kind = "folder" if path.exists() else "hub data set (there is no such folder either)"
        raise ValueError(f"cannot read the {kind} {data!r}: {type(error).__name__}: {_first_line(error)}") from error
    finally:
        if was_enabled:
            datasets.enable_progress_bars()
    if split not in loaded:
        raise ValueError(f"data {data!r} has the splits {', '.join(loaded)}; expected {split!r} among them")
    return loaded[split]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _column(columns: Sequence[str], names: Iterable[str], data: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise ValueError(f"data {data!r} has the columns {', '.join(columns)}; expected one named {' or '.join(names)}")


def _decode(rows: Any, column: str, data: str) -> Tensor:
    """All images of a column as one uint8 tensor; grey if the first one is, else RGB."""
    import datasets
    import numpy as np
    from PIL import Image

    mode = ""
    pixels: Tensor | None = None
    # Encoded bytes straight from the table: a third faster than letting `datasets` build every picture.
    encoded = rows.cast_column(column, datasets.Image(decode=False))[column]
    for index, value in enumerate(cast(Iterable[dict[str, Any]], encoded)):
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]) as picture:
            mode = mode or ("L" if picture.mode in ("1", "L") else "RGB")
            array = np.array(picture.convert(mode))
        image = torch.from_numpy(array if mode == "RGB" else array[:, :, None]).permute(2, 0, 1)
        if pixels is None:
            pixels = torch.empty(len(rows), *image.shape, dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            got, expected = tuple(image.shape), tuple(pixels.shape[1:])
            raise ValueError(f"image {index} of {data!r} has shape {got}, the first {expected}; make them one size")
        pixels[index] = image
    if pixels is None:
        raise ValueError(f"data {data!r} has no images")
    return pixels
