"""Which networks are asked, and by which noise. Nothing is trained and nothing is chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dither import batchnorm
from studies.batchnorm_cifar5.settings import SMOKE as CIFAR5_SHORTLY
from studies.batchnorm_cifar5.settings import VGG11
from studies.batchnorm_lenet_mnist.settings import FULL as LENET5
from studies.doubt.settings import JOINT, Settings


@dataclass(frozen=True)
class Asked:
    """Networks of another study.

    Attributes:
        title: for people.
        settings: how they were trained.
        folder: where they are, in the folder of all runs.
        seeds: which of them.
    """

    title: str
    settings: Settings
    folder: Path
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Line:
    """One line of the figure: a law, and how it comes to a batch size.

    Attributes:
        title: for people.
        law: of the batch statistics.
        refit: fitted on batches of every size; otherwise fitted once, at the size of the training, and rescaled.
    """

    title: str
    law: Callable[[], batchnorm.Law]
    refit: bool


LINES = {
    "sbn, fitted": Line("SBN, fitted at that size", batchnorm.Factorized, refit=True),
    "sbn, rescaled": Line("SBN, rescaled from 16", batchnorm.Factorized, refit=False),
    "mc batchnorm, fitted": Line("MC BatchNorm at that size", JOINT, refit=True),
}


@dataclass(frozen=True)
class Plan:
    """One size of the study.

    Attributes:
        networks: that are asked.
        sizes: batch sizes of the noise.
        num_samples: S.
        groups: for the Monte-Carlo errors.
        images: at most so many of each kind.
    """

    networks: dict[str, Asked]
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64, 128)
    num_samples: int = 20
    groups: int = 10
    images: int = 5000


FULL = Plan(
    {
        "vgg11": Asked("VGG-11, CIFAR-5", VGG11, Path("batchnorm_cifar5/vgg11")),
        "lenet5": Asked("LeNet-5, MNIST", LENET5, Path("batchnorm_lenet_mnist")),
    }
)
SMOKE = dataclasses.replace(
    FULL,
    networks={"vgg11": Asked("VGG-11, digits", CIFAR5_SHORTLY["vgg11"], Path("none"), seeds=(0,))},
    sizes=(8, 16),
    num_samples=4,
    groups=2,
    images=40,
)
