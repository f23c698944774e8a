"""CIFAR-10 for the studies: a local copy where there is one, else the hub; and a stand-in for trying programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F

from dither.training import Images, load_images

LOCAL = Path("../shared/data/cifar10")
HUB = "uoft-cs/cifar10"


def cifar10(data: str | None = None) -> dict[str, Images]:
    """Splits "train" (50,000 images) and "test" (10,000), 3x32x32.

    Args:
        data: folder or hub name; None is the local copy if there is one, else the hub.
    """
    source = data or (str(LOCAL) if LOCAL.is_dir() else HUB)
    return {split: load_images(source, split) for split in ("train", "test")}


def coloured_digits() -> dict[str, Images]:
    """The 8x8 digits as 3x32x32 images, each digit in a tone of its own: for trying a program without CIFAR-10."""

    def enlarge(images: Images) -> Images:
        grey = F.interpolate(images.pixels.float(), size=(32, 32), mode="bilinear", align_corners=False)
        tone = torch.linspace(0.5, 1.0, 10)[images.labels][:, None, None, None]
        pixels = torch.cat([grey, grey * tone, grey * (1.5 - tone)], 1)
        return dataclasses.replace(images, pixels=pixels.round().to(torch.uint8))

    return {split: enlarge(load_images("digits", split)) for split in ("train", "test")}
