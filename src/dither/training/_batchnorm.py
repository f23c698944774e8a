"""Two ways to keep BatchNorm's running statistics right when a network is pruned under noise."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from ._data import Images

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
def reestimate(net: nn.Module, images: Images, batch_size: int = 100) -> None:
    """Measures the running statistics of every BatchNorm again, in place, as plain means over training batches.

    Args:
        net: the shrunk network; left in eval mode.
        images: training images; the first 50 batches are used.
        batch_size: images per batch.
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
    for begin in range(0, min(len(images), _BATCHES * batch_size), batch_size):
        if len(images) - begin >= min(batch_size, len(images)):  # a last, small batch would count as much as a full one
            net(images.float_batch(slice(begin, begin + batch_size)))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


def _layers(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]
