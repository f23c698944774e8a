"""Networks, budgets and rates. What was chosen, and on which images, is in choice.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from dither.training import Fit, Noise, Recipe

STARTS = ("whole", "base", "noise", "fresh")
SCOPES = ("global", "local")


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        title: for people.
        start: what is trained after the decision: "whole" (the base itself), "base" (what a criterion left of it),
            "noise" (what noise left of it) or "fresh" (new weights).
        widths_of: the method whose widths it takes, where it does not find its own.
    """

    title: str
    start: str
    widths_of: str | None = None


# A method stands behind the one whose widths it takes.
METHODS = {
    "base": Method("the base", "whole"),
    "dense": Method("not pruned, same budget", "whole"),
    "sbp": Method("**SBP**", "noise"),
    "sbp_columns": Method("**SBP**, columns of fc1 too", "noise"),
    "bmrs_u": Method("SBP's noise, ranked by BMRS_U", "noise"),
    "bmrs_n": Method("SBP's noise, ranked by BMRS_N", "noise"),
    "l1": Method("L1", "base"),
    "bn_scale": Method("BatchNorm scale", "base"),
    "taylor": Method("Taylor", "base"),
    "group_norm": Method("group norm", "base"),
    "random": Method("random, SBP's widths", "base", widths_of="sbp"),
    "scratch": Method("from scratch, SBP's widths", "fresh", widths_of="sbp"),
    "uniform": Method("from scratch, uniform widths", "fresh"),
}


@dataclass(frozen=True)
class Case:
    """One network: the base that all methods share, and what they may spend after it.

    Attributes:
        title: for people.
        model: as recipes name it.
        data: "mnist", "cifar10" or "digits".
        shape: of one image.
        base: training of the base.
        after: passes over the training images after the base, for every method.
        under_noise: those of them that SBP spends under noise; what remains is its fine-tuning.
        decay_after: those of them with a constant rate, for every method; then it falls linearly to 0.
        sizes: multiply-accumulates, original divided by pruned.
        noise: SBP's settings; the target is set for each size.
        columns: layers whose single inputs get noise too in the row "sbp_columns"; () leaves the row out.
        rates: Adam's rate after the base, by what a method starts from.
        scope: whether the criteria of Torch-Pruning rank the channels of all layers together, or each layer loses the
            same fraction.
        held_out: the last training images, on which settings are chosen; nobody trains on them.
        has_batchnorm: whether "bn_scale" exists.
        bfloat16: precision of the training.
        seeds: of the rows in the table.
    """

    title: str
    model: str
    data: str
    shape: tuple[int, int, int]
    base: Fit
    after: int
    under_noise: int
    decay_after: int
    sizes: tuple[float, ...]
    noise: Noise
    columns: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STARTS, 1e-3))
    scope: str = "global"
    held_out: int = 10_000
    has_batchnorm: bool = True
    bfloat16: bool = True
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        if not 0 < self.under_noise <= self.decay_after < self.after:
            raise ValueError(
                f"{self.title}: 0 < under_noise <= decay_after < after, got {self.under_noise}, "
                f"{self.decay_after} and {self.after}"
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows that this network can have."""
        missing = {"sbp_columns": not self.columns, "bn_scale": not self.has_batchnorm}
        return tuple(name for name in METHODS if not missing.get(name, False))

    def sizes_of(self, method: str) -> tuple[float, ...]:
        return (1.0,) if METHODS[method].start == "whole" else self.sizes

    def rate(self, method: str) -> float:
        return self.rates[METHODS[method].start]

    def training(self, method: str) -> Fit:
        """What follows the decision; all rates that begin at the base follow one curve."""
        start, rate = METHODS[method].start, self.rate(method)
        if method == "base":
            return dataclasses.replace(self.base, epochs=0)
        if start == "fresh":
            return dataclasses.replace(self.base, epochs=self.base.epochs + self.after, lr=rate)
        if start == "noise":
            rest, constant = self.after - self.under_noise, self.decay_after - self.under_noise
            return dataclasses.replace(self.base, epochs=rest, lr=rate, decay_from=constant / rest)
        return dataclasses.replace(self.base, epochs=self.after, lr=rate, decay_from=self.decay_after / self.after)

    def recipe(self, method: str, size: float, seed: int) -> Recipe:
        """The base, and the training under noise of an SBP method."""
        noise = self.noise
        if size > 1:
            columns = self.columns if method == "sbp_columns" else ()
            noise = dataclasses.replace(noise, target={"macs": 1 / size}, features=columns)
        prune = dataclasses.replace(self.base, epochs=self.under_noise, lr=self.rate(method), decay_from=1.0)
        return Recipe(
            self.model,
            self.data,
            base=self.base,
            prune=prune,
            noise=noise,
            seed=seed,
            mixed_precision="bf16" if self.bfloat16 else "no",
            channels_last=True,
        )


_CIFAR = Fit(epochs=20, batch_size=125, lr=1e-3, decay_from=0.0, weight_decay=0.05, shift=4, flip=True)
_VGG = Case(
    title="VGG-16-like of a quarter of the width, CIFAR-10",
    model="studies.networks:vgg16_quarter",
    data="cifar10",
    shape=(3, 32, 32),
    base=_CIFAR,
    after=15,
    under_noise=6,
    decay_after=9,
    sizes=(2.5, 5.0),
    noise=Noise(gate_lr=2e-2, batchnorm="reestimate"),
    held_out=5_000,
)
CASES = {
    "lenet5": Case(
        title="LeNet-5-Caffe, MNIST",
        model="lenet5",
        data="mnist",
        shape=(1, 28, 28),
        base=Fit(epochs=5, batch_size=125, lr=1e-3, shift=1),
        after=20,
        under_noise=12,
        decay_after=12,
        sizes=(8.5, 15.0),
        noise=Noise(gate_lr=2e-2),
        columns=("fc1",),
        rates={"whole": 1e-3, "base": 3e-3, "noise": 3e-3, "fresh": 3e-3},
        has_batchnorm=False,
    ),
    "vgg16": _VGG,
    "resnet18": dataclasses.replace(
        _VGG, title="ResNet-18 of a quarter of the width, CIFAR-10", model="studies.networks:resnet18_16"
    ),
}
SMOKE = {
    "digits": Case(
        title="a small network, digits",
        model="digits_bn",
        data="digits",
        shape=(1, 8, 8),
        base=Fit(epochs=2, batch_size=50, lr=3e-3),
        after=5,
        under_noise=4,
        decay_after=4,
        sizes=(3.0,),
        noise=Noise(gate_lr=0.05, batchnorm="reestimate"),
        columns=("fc1",),
        held_out=300,
        bfloat16=False,
        seeds=(0,),
    )
}
