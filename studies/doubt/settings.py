"""What a study of doubt consists of: kinds of networks, rows of the table, and how much of everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from dither import batchnorm
from dither.training import Fit, Recipe

BATCH_SIZE = 16  # the paper's: small, so that the noise of the statistics is worth modelling
JOINT = partial(batchnorm.Empirical, joint=True)
INDEPENDENT = partial(batchnorm.Empirical, joint=False)
CORRELATED = partial(batchnorm.Correlated, rank=16, across_layers=True)


@dataclass(frozen=True)
class Net:
    """A kind of network; the run folders are plain-0, plain-1, ...

    Attributes:
        model: as :func:`dither.training.make_model` takes it.
        epochs: how long it is trained.
        seeds: how many there are.
        weight_decay: decoupled, as in AdamW.
        shift: augmentation, in pixels.
        flip: augmentation, mirrored images.
    """

    model: str
    epochs: int
    seeds: tuple[int, ...]
    weight_decay: float = 0.0
    shift: int = 0
    flip: bool = False

    def fit(self) -> Fit:
        return Fit(
            epochs=self.epochs,
            batch_size=BATCH_SIZE,
            lr=1e-3,
            decay_from=0.0,
            weight_decay=self.weight_decay,
            shift=self.shift,
            flip=self.flip,
        )


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        title: for people.
        net: kind of network.
        law: of the batch statistics; None leaves BatchNorm as it is.
        sampled: whether the network is sampled, or run once.
        tuned: whether the batch size of the noise is chosen on held-out images.
        laplace: whether the last layer gets a posterior by laplace-torch.
        seeds: only these networks; None is all of them.
    """

    title: str
    net: str = "plain"
    law: Callable[[], batchnorm.Law] | None = None
    sampled: bool = True
    tuned: bool = False
    laplace: bool = False
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Ensemble:
    """A row made of all networks of another one.

    Attributes:
        title: for people; {n} is the number of networks.
        of: the method of the members.
    """

    title: str
    of: str


@dataclass(frozen=True)
class Shown:
    """Methods in the figures, and their short names there.

    Attributes:
        entropy: networks of seed 0, and ensembles.
        reliability: pooled over the seeds that all of these and of ``samples`` have.
        samples: NLL against the number of samples, over the same seeds.
        names: short names, where the titles are too long for a legend.
    """

    entropy: tuple[str, ...]
    reliability: tuple[str, ...]
    samples: tuple[str, ...]
    names: dict[str, str]


@dataclass(frozen=True)
class Settings:
    """One size of a study.

    Attributes:
        nets: kinds of networks.
        methods: rows, one network each.
        ensembles: rows, several networks each.
        pairs: methods that are compared image by image on the same network: with, without.
        headlines: methods in the study's own first lines.
        shown: methods in the figures.
        names: the two kinds of images, trained on and never seen.
        data: for the recipes; the images may come from a local copy.
        classes: trained on these only; None is all of them.
        mixed_precision: of training and of every question.
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
    methods: dict[str, Method]
    ensembles: dict[str, Ensemble]
    pairs: tuple[tuple[str, str], ...]
    headlines: tuple[str, ...]
    shown: Shown
    names: tuple[str, str]
    data: str
    classes: tuple[int, ...] | None = None
    mixed_precision: str = "no"
    validation: int = 5000
    num_samples: int = 50
    groups: int = 10
    records: int = 512
    tune_samples: int = 16
    checks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 50)
    timing_images: int = 500
    timing_repeats: int = 3
    titles: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        titles = {name: row.title for name, row in (*self.methods.items(), *self.ensembles.items())}
        object.__setattr__(self, "titles", titles)

    def method(self, name: str) -> Method:
        """The row of this name, of an ensemble that of its members."""
        return self.methods[self.ensembles[name].of if name in self.ensembles else name]

    def recipe(self, net: str, seed: int) -> Recipe:
        return Recipe(
            model=self.nets[net].model,
            data=self.data,
            base=self.nets[net].fit(),
            prune=Fit(epochs=0),
            validation=self.validation,
            seed=seed,
            mixed_precision=self.mixed_precision,
            channels_last=True,
            classes=self.classes,
        )


def norms(net: nn.Module) -> tuple[str, ...]:
    """Names of the BatchNorm layers, in the order in which the network has them."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return tuple(name for name, layer in net.named_modules() if isinstance(layer, kinds))
