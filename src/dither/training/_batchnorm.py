"""Two ways to keep BatchNorm's running statistics right when a network is pruned under noise."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

_BATCHES = 50  # training batches whose statistics are averaged; more change the third digit only


def train_frozen(net: nn.Module) -> None:
    """Training mode, with every BatchNorm in eval mode: running statistics are used and stay as they are.

    Statistics that were collected while noise was drawn do not fit the mean network; the authors freeze them.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> train_frozen(net)
        >>> [layer.training for layer in net]
        [True, False]
    """
    net.train()
    for layer in _layers(net):
        layer.eval()


@torch.no_grad()
def reestimate(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Measures the running statistics of every BatchNorm again, in place, as plain means over training batches.

    The batches should be those of the training, shifted and mirrored as there: weights fit the statistics that they
    were trained with, also where the test images are not shifted.

    Args:
        net: the shrunk network; left in eval mode.
        batches: images and labels, as :class:`Batches` makes them, all batches of one size; the first 50 are used.
    """
    layers = _layers(net)
    if not layers:
        return
    net.eval()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean instead of an exponential one
        layer.train()
    for x, _ in islice(batches, _BATCHES):
        net(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _layers(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]
