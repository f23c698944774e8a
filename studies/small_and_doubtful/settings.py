"""What is pruned, how, and what is asked of it. Choices were made on the last 5,000 training images (choice.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from dither import batchnorm
from dither.training import Batches, Fit, Images, Noise, Recipe
from studies.batchnorm_lenet_mnist.settings import FULL as TRAINED
from studies.batchnorm_lenet_mnist.settings import SMOKE as TRAINED_SHORTLY
from studies.doubt.settings import BATCH_SIZE, Settings


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: for people.
        pruned: which of the two networks.
        layers: BatchNorm layers that are sampled; () is one pass of the mean network, None is all of them.
    """

    title: str
    pruned: bool
    layers: tuple[str, ...] | None = ()

    @property
    def sampled(self) -> bool:
        return self.layers != ()


METHODS = {
    "dense": Method("dense, one pass", pruned=False),
    "dense + sbn": Method("dense + SBN", pruned=False, layers=None),
    "pruned": Method("pruned, one pass", pruned=True),
    "pruned + sbn": Method("pruned + SBN", pruned=True, layers=None),
    "pruned + sbn, last two": Method("pruned + SBN, last two layers", pruned=True, layers=("bn2", "bn3")),
}


@dataclass(frozen=True)
class Plan:
    """One size of the study: how the dense networks were trained, and how they are pruned."""

    trained: Settings
    prune: Fit
    noise: Noise
    finetune: Fit
    seeds: tuple[int, ...] = (0, 1, 2)
    num_samples: int = 16
    groups: int = 8
    batch_size: int = 64  # of the times
    repeats: int = 100

    def recipe(self, seed: int) -> Recipe:
        base = self.trained.recipe("plain", seed)
        return dataclasses.replace(base, prune=self.prune, noise=self.noise, finetune=self.finetune)


FULL = Plan(
    trained=TRAINED,
    prune=Fit(epochs=8, batch_size=125, lr=1e-3),
    noise=Noise(
        gate_lr=2e-2,
        kl_weights={"conv1": 190.0, "conv2": 54.0, "fc1[in]": 5.0, "fc1": 5.0},
        features=("fc1",),
        batchnorm="reestimate",
    ),
    finetune=Fit(epochs=12, batch_size=16, lr=1e-3, decay_from=0.0),
)
SMOKE = dataclasses.replace(
    FULL,
    trained=TRAINED_SHORTLY,
    prune=Fit(epochs=4, batch_size=100),
    # Gates that hurry, so that there is something to remove after 48 steps.
    noise=dataclasses.replace(FULL.noise, gate_lr=0.3, kl_weight=0.05),
    finetune=Fit(epochs=1, batch_size=16),
    seeds=(0,),
    num_samples=4,
    groups=2,
    repeats=3,
)


def under(
    net: nn.Module, method: Method, train: Images, plan: Plan, seed: int, num_batches: int | None = None
) -> nn.Module:
    """The network as ``method`` uses it: as it is, or with the statistics of one epoch, or of some batches of it."""
    if not method.sampled:
        return net
    converted = batchnorm.convert(net, layers=method.layers)
    loader = Batches(train, Fit(epochs=1, batch_size=BATCH_SIZE), seed).epoch(0)
    batchnorm.fit(converted, loader, num_batches=num_batches)
    return converted
