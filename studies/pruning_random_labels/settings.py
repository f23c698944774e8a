"""Networks, data and training of the study. Nothing is chosen: widths, rates and epochs are the library's and round."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.training import Fit, Images, LeNet5, Noise, Recipe, load_images

IMAGES, SIDE = 10_000, 28  # the first training images; CIFAR-10's are cropped to what LeNet-5 reads
HERE = "studies.pruning_random_labels.settings"
HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10"}
FIT = Fit(epochs=100, batch_size=100, lr=1e-3)
LABELS = ("random", "true")
METHODS = ("plain", "dropout", "sbp", "sbp_removed")
REMOVE_EVERY = 10  # epochs, in "sbp_removed"


class Dropout(LeNet5):
    """LeNet-5 with dropout, half of the units, in front of both fully connected layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2)).flatten(1)
        x = F.relu(self.fc1(F.dropout(x, 0.5, self.training)))
        return self.fc2(F.dropout(x, 0.5, self.training))


def mnist_plain() -> nn.Module:
    return LeNet5()


def mnist_dropout() -> nn.Module:
    return Dropout()


def cifar10_plain() -> nn.Module:
    return LeNet5(channels=3)


def cifar10_dropout() -> nn.Module:
    return Dropout(channels=3)


def noisy(method: str) -> bool:
    return method.startswith("sbp")


def recipe(data: str, method: str, seed: int) -> Recipe:
    """Plain and dropout train as usual; SBP trains under noise from the first step, as the paper does here."""
    model = f"{HERE}:{data}_{'dropout' if method == 'dropout' else 'plain'}"
    none = dataclasses.replace(FIT, epochs=0)
    base, prune = (none, FIT) if noisy(method) else (FIT, none)
    return Recipe(
        model,
        data,
        base=base,
        prune=prune,
        noise=Noise(shrink_every=REMOVE_EVERY if method == "sbp_removed" else 0),
        seed=seed,
        mixed_precision="bf16",
        channels_last=True,
    )


def images(data: str, source: str | None, number: int, random: bool, seed: int) -> Images:
    """The first training images, with labels that are drawn at random, or their own."""
    local = Path("../shared/data") / data
    train = load_images(source or (str(local) if local.is_dir() else HUB[data]), "train")
    edge = (train.pixels.shape[-1] - SIDE) // 2
    pixels = train.pixels[:number, :, edge : edge + SIDE, edge : edge + SIDE].contiguous()
    return relabelled(dataclasses.replace(train, pixels=pixels, labels=train.labels[:number]), random, seed)


def relabelled(train: Images, random: bool, seed: int) -> Images:
    """The same images, every label drawn uniformly."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(train.num_classes, train.labels.shape, generator=draw)
    return dataclasses.replace(train, labels=labels) if random else train
