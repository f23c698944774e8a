"""What a stochastic layer is, and the switch that makes it draw."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]


class Stochastic(nn.Module):
    """A layer with three behaviours.

    ``train()`` does what its paper trains with, ``eval()`` uses the mean, and inside `sampling` it draws.

    Attributes:
        sampling: Whether the layer draws although it is in eval mode. Set by `sampling`.
    """

    sampling: bool = False

    @property
    def draws(self) -> bool:
        """Whether the next forward pass draws."""
        return self.training or self.sampling


@contextmanager
def sampling(net: nn.Module) -> Generator[nn.Module]:
    """Let every stochastic layer of ``net`` draw, without putting anything else into train mode.

    Stochastic layers are those of dither (`Stochastic`) and `torch.nn.Dropout` in all its forms. BatchNorm and whatever
    else depends on the mode stay as they are. The former state comes back at the end, after an error too.

    Args:
        net: Any module, usually in eval mode.

    Yields:
        ``net``.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5)).eval()
        >>> x = torch.ones(1, 4)
        >>> with sampling(net):
        ...     first, second = net(x), net(x)
        >>> bool((first != second).any()), net[1].training
        (True, False)
    """
    layers = [m for m in net.modules() if isinstance(m, Stochastic)]
    dropouts = [m for m in net.modules() if isinstance(m, _DropoutNd)]
    before = [m.sampling for m in layers], [m.training for m in dropouts]
    try:
        for layer in layers:
            layer.sampling = True
        for dropout in dropouts:
            dropout.training = True
        yield net
    finally:
        for layer, state in zip(layers, before[0], strict=True):
            layer.sampling = state
        for dropout, state in zip(dropouts, before[1], strict=True):
            dropout.training = state
