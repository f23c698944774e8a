"""torchvision: every classification, segmentation and video model with at most 100 million parameters."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torchvision.models as tv
from torch import nn
from torchvision.models.video import mvit

from zoo.networks import Entry

LARGEST = 100_000_000  # parameters
IMAGE, CLIP = (3, 64, 64), (3, 8, 64, 64)

# What does not run on 64x64 pixels, or wants to be told of them.
SHAPES: dict[str, tuple[int, ...]] = {
    "inception_v3": (3, 96, 96),
    "maxvit_t": (3, 224, 224),  # its windows of 7 divide this and not much less
    "s3d": (3, 16, 224, 224),  # its last pool is 2x7x7
}
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "vit_b_16": {"image_size": 64},
    "vit_b_32": {"image_size": 64},
}
MODULES = ((tv, IMAGE, 1000), (tv.segmentation, IMAGE, 21), (tv.video, CLIP, 400))


def entries() -> list[Entry]:
    """One for each model, in the order of its module's list."""
    found: list[Entry] = []
    for module, shape, classes in MODULES:
        library = "torchvision" if module is tv else f"torchvision.{module.__name__.rpartition('.')[2]}"
        for name in tv.list_models(module=module):
            options = {"weights_backbone": None} if module is tv.segmentation else {}
            if tv.get_model_weights(name).DEFAULT.meta["num_params"] <= LARGEST:
                get = small_mvit if name.startswith("mvit") else tv.get_model
                make = partial(get, name, weights=None, **options, **OPTIONS.get(name, {}))
                found.append(Entry(library, name, make, SHAPES.get(name, shape), classes))
    return found


def small_mvit(name: str, **options: Any) -> nn.Module:
    """An MViT for ``CLIP``: its builders insist on 16 frames of 224x224 pixels, which take minutes."""
    build = partial(mvit._mvit)
    small = {"temporal_size": CLIP[1], "spatial_size": CLIP[2:]}
    with mock.patch.object(mvit, "_mvit", lambda *args, **given: build(*args, **{**given, **small})):
        return tv.get_model(name, **options)
