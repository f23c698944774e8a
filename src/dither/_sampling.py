"""What a stochastic layer is, and the switch that makes it draw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
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


class Source(ABC):
    """Draws for several layers of one network at once.

    Left alone, a source draws anew for every forward pass. After `prepare` it holds S samples until `release`, and a
    pass uses the one that `choose` or `give` named last. A layer with a source has it as its attribute ``source``.
    """

    @abstractmethod
    def prepare(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        """Draw S samples and hold them."""

    @abstractmethod
    def choose(self, sample: int) -> None:
        """Let the following passes use this one of the held samples."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The held samples, each tensor (S, ...)."""

    @abstractmethod
    def give(self, tensors: Sequence[Tensor] | None) -> None:
        """Let the following passes use these, one sample's part of `tensors`; None goes back to `choose`.

        They may be batched by `torch.func.vmap`.
        """

    @abstractmethod
    def release(self) -> None:
        """Forget the held samples: every pass draws anew."""

    @property
    def varies(self) -> bool:
        """Whether the law is known to have some spread, so that equal samples are chance (few draws, few batches)."""
        return False

    @property
    def foldable(self) -> bool:
        """Whether `tensors` and `give` do all that `choose` does, under `torch.func.vmap` too."""
        return True


def sources(net: nn.Module) -> list[Source]:
    """Every source of a network, each once, in the order of its first layer."""
    found = {id(source): source for m in net.modules() if isinstance(source := getattr(m, "source", None), Source)}
    return list(found.values())


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
        >>> net = nn.Sequential(nn.Linear(4, 256), nn.Dropout(0.5)).eval()
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
