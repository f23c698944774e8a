"""What is pruned, how, and what is asked of it. Choices were made on held-out training images (choice.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import nn

from dither import batchnorm
from dither.training import Batches, Fit, Images, Noise, Recipe
from studies.batchnorm_cifar5.settings import FULL as CIFAR5
from studies.batchnorm_cifar5.settings import SMOKE as CIFAR5_SHORTLY
from studies.batchnorm_lenet_mnist.settings import FULL as MNIST
from studies.batchnorm_lenet_mnist.settings import SMOKE as MNIST_SHORTLY
from studies.doubt.settings import BATCH_SIZE, Settings, norms


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: for people.
        pruned: which of the two networks.
        last: BatchNorm layers that are sampled, counted from the end: 0 is one pass of the mean network, None is all.
    """

    title: str
    pruned: bool
    last: int | None = 0

    @property
    def sampled(self) -> bool:
        return self.last != 0


METHODS = {
    "dense": Method("dense, one pass", pruned=False),
    "dense + sbn": Method("dense + SBN", pruned=False, last=None),
    "pruned": Method("pruned, one pass", pruned=True),
    "pruned + sbn": Method("pruned + SBN", pruned=True, last=None),
    "pruned + sbn, last two": Method("pruned + SBN, last two layers", pruned=True, last=2),
}


@dataclass(frozen=True)
class Plan:
    """One network of the study: how the dense ones were trained, and how they are pruned."""

    title: str
    trained: Settings
    dense: str  # where they are, in the folder of all runs
    prune: Fit
    noise: Noise
    finetune: Fit
    shown: tuple[str, ...] | None = None  # gates whose widths are in the table; None is all, in the order of the plan
    seeds: tuple[int, ...] = (0, 1, 2)
    num_samples: int = 16
    groups: int = 8
    batch_size: int = 64  # of the times
    repeats: int = 100

    def recipe(self, seed: int) -> Recipe:
        base = self.trained.recipe("plain", seed)
        return dataclasses.replace(base, prune=self.prune, noise=self.noise, finetune=self.finetune)

    @property
    def classes(self) -> int | None:
        return None if self.trained.classes is None else len(self.trained.classes)


LENET5 = Plan(
    title="LeNet-5 on MNIST",
    trained=MNIST,
    dense="batchnorm_lenet_mnist",
    prune=Fit(epochs=8, batch_size=125, lr=1e-3),
    noise=Noise(
        gate_lr=2e-2,
        kl_weights={"conv1": 190.0, "conv2": 54.0, "fc1[in]": 5.0, "fc1": 5.0},
        features=("fc1",),
        batchnorm="reestimate",
    ),
    finetune=Fit(epochs=12, batch_size=16, lr=1e-3, decay_from=0.0),
    shown=("conv1", "conv2", "fc1[in]", "fc1"),
)
VGG11 = Plan(
    title="VGG-11 on CIFAR-5",
    trained=CIFAR5["vgg11"],
    dense="batchnorm_cifar5/vgg11",
    prune=Fit(epochs=6, batch_size=125, lr=1e-3, flip=True),
    noise=Noise(gate_lr=2e-2, target={"macs": 0.25}, multiple_of=8, batchnorm="reestimate"),
    finetune=Fit(epochs=4, batch_size=16, lr=5e-4, decay_from=0.0, flip=True),
)
FULL = {"lenet5": LENET5, "vgg11": VGG11}


def shortly(plan: Plan, trained: Settings) -> Plan:
    """A minute of everything; the gates hurry, so that there is something to remove after a few dozen steps."""
    return dataclasses.replace(
        plan,
        trained=trained,
        prune=Fit(epochs=4, batch_size=100),
        noise=dataclasses.replace(plan.noise, gate_lr=0.3, kl_weight=0.05, target=None, multiple_of=1),
        finetune=Fit(epochs=1, batch_size=16),
        seeds=(0,),
        num_samples=4,
        groups=2,
        repeats=3,
    )


SMOKE = {"lenet5": shortly(LENET5, MNIST_SHORTLY), "vgg11": shortly(VGG11, CIFAR5_SHORTLY["vgg11"])}


def under(
    net: nn.Module, method: Method, train: Images, plan: Plan, seed: int, num_batches: int | None = None
) -> nn.Module:
    """The network as ``method`` uses it: as it is, or with the statistics of one epoch, or of some batches of it."""
    if not method.sampled:
        return net
    layers = None if method.last is None else norms(net)[-method.last :]
    converted = batchnorm.convert(net, layers=layers)
    kind = plan.trained.nets["plain"]
    loader = Batches(train, Fit(epochs=1, batch_size=BATCH_SIZE, shift=kind.shift, flip=kind.flip), seed).epoch(0)
    batchnorm.fit(converted, loader, num_batches=num_batches)
    return converted
