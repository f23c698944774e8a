"""A trained network and the stochastic ones that are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dither import batchnorm
from dither.training import Batches, Fit, Images
from studies.doubt.evaluate import ROWS
from studies.doubt.laplace import LastLayerLaplace
from studies.doubt.settings import BATCH_SIZE, Method, Net, Settings


@dataclass
class Network:
    """A trained network and, once it is needed, its stochastic version; fitted once for all laws.

    Attributes:
        base: the trained network, in eval mode.
        kind: how it was trained.
        train: the images it was trained on.
        settings: the study's.
        seed: of the network, and of everything that is drawn here.
        fit_batches: batches whose statistics are looked at; None is one epoch.
        stochastic: the fitted network.
    """

    base: nn.Module
    kind: Net
    train: Images
    settings: Settings
    seed: int
    fit_batches: int | None = None
    stochastic: nn.Module | None = None

    def under(self, method: Method, held_out: Images) -> nn.Module:
        """The network as ``method`` samples it."""
        if method.laplace:
            return LastLayerLaplace(self.base, self.train)
        if method.law is None:
            return self.base
        net = batchnorm.rescale(batchnorm.set_law(self.fitted(), method.law()), batch_size=BATCH_SIZE)
        if method.tuned:
            self.tune(net, held_out)
        return net

    def fitted(self) -> nn.Module:
        """The converted network with the statistics of batches as in training; always the same one."""
        if self.stochastic is None:
            self.stochastic = batchnorm.convert(self.base)
            batchnorm.fit(self.stochastic, self.epoch(), num_batches=self.fit_batches, records=self.settings.records)
        return self.stochastic

    def epoch(self, batch_size: int = BATCH_SIZE) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled epoch, augmented as in training."""
        fit = Fit(epochs=1, batch_size=batch_size, shift=self.kind.shift, flip=self.kind.flip)
        return Batches(self.train, fit, self.seed).epoch(0)

    def tune(self, net: nn.Module, held_out: Images) -> batchnorm.TuneReport:
        """Mutates ``net``: the batch size of the noise that is best on held-out images."""
        loader = Batches(held_out, Fit(epochs=1, batch_size=min(ROWS, len(held_out))), self.seed).epoch(0)
        generator = torch.Generator().manual_seed(self.seed)
        return batchnorm.tune(net, list(loader), num_samples=self.settings.tune_samples, generator=generator)


def noise_batch_size(net: nn.Module) -> float | None:
    """Batch size whose noise the statistics have now."""
    layers = [layer for layer in net.modules() if isinstance(layer, batchnorm.StochasticBatchNorm)]
    return float(layers[0].statistics.batch_size) if layers else None
