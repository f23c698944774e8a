"""What is trained and what is asked of it. Choices were made on the last 5,000 training images (choice.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dither import batchnorm
from dither.training import Fit, Recipe

PLAIN, DROPOUT = "lenet5_bn", "lenet5_bn_dropout"
FOLDERS = {PLAIN: "plain", DROPOUT: "dropout"}  # run folders are plain-0, plain-1, ..., dropout-0, ...


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: for people.
        net: name of the network, as :func:`dither.training.make_model` takes it.
        law: of the batch statistics; None leaves BatchNorm as it is.
        sampled: whether the network is sampled, or run once.
        tuned: whether the batch size of the noise is chosen on held-out images.
        seeds: only these networks; None is all of them.
    """

    title: str
    net: str = PLAIN
    law: Callable[[], batchnorm.Law] | None = None
    sampled: bool = True
    tuned: bool = False
    seeds: tuple[int, ...] | None = None


FEW = (0, 1, 2)
METHODS = {
    "single": Method("single network", sampled=False),
    "sbn": Method("SBN", law=batchnorm.Factorized),
    "mc batchnorm": Method("MC BatchNorm (joint)", law=lambda: batchnorm.Empirical(joint=True), seeds=FEW),
    "independent": Method("independent empirical law", law=lambda: batchnorm.Empirical(joint=False), seeds=FEW),
    "correlated": Method("correlated law", law=lambda: batchnorm.Correlated(rank=16, across_layers=True), seeds=FEW),
    "sbn, tuned": Method("SBN, batch size tuned", law=batchnorm.Factorized, tuned=True, seeds=FEW),
    "dropout, mean network": Method("dropout net, one pass", DROPOUT, sampled=False),
    "dropout": Method("dropout, sampled", DROPOUT),
    "dropout + sbn": Method("dropout + SBN", DROPOUT, law=batchnorm.Factorized),
}
ENSEMBLES = {"ensemble": "single", "ensemble + sbn": "sbn"}  # of all networks of the method on the right
TITLES = {name: method.title for name, method in METHODS.items()} | {
    "ensemble": "ensemble of {n}",
    "ensemble + sbn": "ensemble of {n} + SBN",
}


@dataclass(frozen=True)
class Settings:
    """One size of the study.

    Attributes:
        base: training of every network.
        seeds: which networks there are.
        validation: held-out training images, for temperatures and choices.
        num_samples: S of the rows that are sampled.
        groups: samples are kept as means over this many groups, for Monte-Carlo errors by the jackknife.
        records: batches whose statistics the empirical laws may draw.
        checks: numbers of samples for the curve.
    """

    base: Fit
    seeds: Mapping[str, tuple[int, ...]]
    validation: int = 5000
    num_samples: int = 50
    groups: int = 10
    records: int = 512
    checks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 50)
    timing_images: int = 1000
    timing_repeats: int = 3

    def recipe(self, net: str, seed: int, data: str) -> Recipe:
        return Recipe(
            model=net,
            data=data,
            base=self.base,
            prune=Fit(epochs=0),
            validation=self.validation,
            seed=seed,
            channels_last=True,
        )


FULL = Settings(
    base=Fit(epochs=20, batch_size=16, lr=1e-3, decay_from=0.0),
    seeds={PLAIN: (0, 1, 2, 3, 4, 5), DROPOUT: (0, 1, 2)},
)
SMOKE = Settings(
    base=Fit(epochs=2, batch_size=16, lr=1e-3, decay_from=0.0),
    seeds={PLAIN: (0, 1), DROPOUT: (0,)},
    validation=237,
    num_samples=4,
    groups=2,
    records=64,
    checks=(1, 2, 4),
    timing_images=64,
    timing_repeats=2,
)
