"""What is trained and what is asked of it. Choices were made on the last 5,000 training images (choice.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dither import batchnorm
from dither.training import Fit, Recipe


@dataclass(frozen=True)
class Net:
    """A kind of network; the run folders are plain-0, plain-1, ...

    Attributes:
        model: as :func:`dither.training.make_model` takes it.
        epochs: how long it is trained.
        seeds: how many there are.
        weight_decay: decoupled, as in AdamW.
    """

    model: str
    epochs: int
    seeds: tuple[int, ...]
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: for people.
        net: kind of network.
        law: of the batch statistics; None leaves BatchNorm as it is.
        sampled: whether the network is sampled, or run once.
        tuned: whether the batch size of the noise is chosen on held-out images.
        seeds: only these networks; None is all of them.
    """

    title: str
    net: str = "plain"
    law: Callable[[], batchnorm.Law] | None = None
    sampled: bool = True
    tuned: bool = False
    seeds: tuple[int, ...] | None = None


FEW = (0, 1, 2)
JOINT = partial(batchnorm.Empirical, joint=True)
INDEPENDENT = partial(batchnorm.Empirical, joint=False)
CORRELATED = partial(batchnorm.Correlated, rank=16, across_layers=True)
METHODS = {
    "single": Method("single network", sampled=False),
    "sbn": Method("SBN", law=batchnorm.Factorized),
    "sbn, tuned": Method("SBN, batch size tuned", law=batchnorm.Factorized, tuned=True, seeds=FEW),
    "correlated": Method("correlated law", law=CORRELATED, seeds=FEW),
    "independent": Method("independent empirical law", law=INDEPENDENT, seeds=FEW),
    "mc batchnorm": Method("MC BatchNorm (joint empirical law)", law=JOINT, seeds=FEW),
    "dropout, mean network": Method("dropout net, one pass", "dropout", sampled=False),
    "dropout": Method("dropout, sampled", "dropout"),
    "dropout + sbn": Method("dropout + SBN", "dropout", law=batchnorm.Factorized),
    "single, weight decay": Method("single network, weight decay", "decay", sampled=False),
    "sbn, weight decay": Method("SBN, weight decay", "decay", law=batchnorm.Factorized),
}
ENSEMBLES = {  # of all networks of the method on the right
    "ensemble": "single",
    "ensemble + sbn": "sbn",
    "ensemble, weight decay": "single, weight decay",
    "ensemble + sbn, weight decay": "sbn, weight decay",
}
ENSEMBLE_TITLES = {
    "ensemble": "ensemble of {n}",
    "ensemble + sbn": "ensemble of {n} + SBN",
    "ensemble, weight decay": "ensemble of {n}, weight decay",
    "ensemble + sbn, weight decay": "ensemble of {n} + SBN, weight decay",
}
TITLES = {name: method.title for name, method in METHODS.items()} | ENSEMBLE_TITLES


@dataclass(frozen=True)
class Settings:
    """One size of the study.

    Attributes:
        nets: kinds of networks.
        data: for the recipes; the images may come from a local copy.
        validation: held-out training images, for temperatures and choices.
        num_samples: S of the rows that are sampled.
        groups: samples are kept as means over this many groups, for Monte-Carlo errors by the jackknife.
        records: batches whose statistics the empirical laws may draw.
        tune_samples: samples with which a batch size of the noise is chosen.
        checks: numbers of samples for the curve.
        timing_images: images of one measurement of time.
        timing_repeats: measurements.
    """

    nets: dict[str, Net]
    data: str = "ylecun/mnist"
    validation: int = 5000
    num_samples: int = 50
    groups: int = 10
    records: int = 512
    tune_samples: int = 16
    checks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 50)
    timing_images: int = 500
    timing_repeats: int = 3

    def recipe(self, net: str, seed: int) -> Recipe:
        return Recipe(
            model=self.nets[net].model,
            data=self.data,
            base=Fit(
                epochs=self.nets[net].epochs,
                batch_size=BATCH_SIZE,
                lr=1e-3,
                decay_from=0.0,
                weight_decay=self.nets[net].weight_decay,
            ),
            prune=Fit(epochs=0),
            validation=self.validation,
            seed=seed,
            channels_last=True,
        )


BATCH_SIZE = 16  # the paper's: small, so that the noise of the statistics is worth modelling
FULL = Settings(
    {
        "plain": Net("lenet5_bn", 8, (0, 1, 2, 3, 4, 5)),
        "dropout": Net("lenet5_bn_dropout", 20, (0, 1, 2)),
        "decay": Net("lenet5_bn", 8, (0, 1, 2, 3, 4, 5), weight_decay=0.3),
    }
)
SMOKE = Settings(
    {
        "plain": Net("lenet5_bn", 1, (0, 1)),
        "dropout": Net("lenet5_bn_dropout", 1, (0,)),
        "decay": Net("lenet5_bn", 1, (0,), weight_decay=0.3),
    },
    data="digits",
    validation=237,
    num_samples=4,
    groups=2,
    records=64,
    tune_samples=2,
    checks=(1, 2, 4),
    timing_images=64,
    timing_repeats=2,
)
