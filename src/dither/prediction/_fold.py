"""Several samples in one pass: `torch.func.vmap` over the draws, the input shared by all.

What does not depend on the draw stays unbatched and is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._sampling import Source
from ._vmap import vmap

# Dropouts that multiply by a mask that does not depend on the input. The alpha variants do not.
_MASKING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Call(NamedTuple):
    """One call of a dropout layer in a pass: the layer and the input, without its values."""

    layer: _DropoutNd
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def mask(self) -> Tensor:
        """What the layer would multiply its input by now: its answer to ones, from the global generator."""
        ones = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device).fill_(1)
        return type(self.layer).forward(self.layer, ones)


def can_fold(layers: Sequence[nn.Module]) -> bool:
    """Whether these stochastic layers draw from foldable sources or are plain dropout.

    Gates draw in one call for the whole network, from the global generator, whatever is batched: they are looped.
    """
    return all(
        source.foldable if isinstance(source := getattr(layer, "source", None), Source) else _is_masking(layer)
        for layer in layers
    )


def _is_masking(layer: nn.Module) -> bool:
    return isinstance(layer, _MASKING) and type(layer).forward in {c.forward for c in _MASKING}


@contextmanager
def replaced(layers: Sequence[nn.Module], forward: Callable[[_DropoutNd, Tensor], Tensor]) -> Generator[None]:
    """Dropout layers run ``forward(layer, x)`` instead of their own."""
    dropouts = [layer for layer in layers if isinstance(layer, _DropoutNd) and "forward" not in layer.__dict__]
    try:
        for layer in dropouts:
            layer.__dict__["forward"] = _bound(forward, layer)
        yield
    finally:
        for layer in dropouts:
            del layer.__dict__["forward"]


def _bound(forward: Callable[[_DropoutNd, Tensor], Tensor], layer: _DropoutNd) -> Callable[[Tensor], Tensor]:
    def run(input: Tensor) -> Tensor:  # the name of the argument of every dropout layer
        return forward(layer, input)

    return run


def logging(calls: list[Call]) -> Callable[[_DropoutNd, Tensor], Tensor]:
    """A ``forward`` that notes every call that draws, and does what the layer does."""

    def forward(layer: _DropoutNd, x: Tensor) -> Tensor:
        if layer.training and 0 < layer.p < 1 and x.numel():
            calls.append(Call(layer, tuple(x.shape), x.stride(), x.dtype, x.device))
        return type(layer).forward(layer, x)

    return forward


def fold(
    run: Callable[[list[Tensor]], Tensor],
    draws: list[Tensor],
    layers: Sequence[nn.Module],
    calls: Sequence[Call],
    seed: Callable[[int], Any],
    samples: range,
) -> Tensor:
    """``run(draws of one sample)`` for several samples at once, (len(samples), B, ...).

    Dropout multiplies by the masks that it would draw in a pass of its own: ``seed(sample)``, then one mask for each
    call. Anything else that draws random numbers is an error.
    """
    drawn: list[list[Tensor]] = []
    if calls:
        for sample in samples:
            seed(sample)
            drawn.append([call.mask() for call in calls])
    masks = [torch.stack(each) for each in zip(*drawn, strict=True)]

    def one(parts: list[Tensor], masks: list[Tensor]) -> Tensor:
        rest = iter(masks)

        def multiply(layer: _DropoutNd, x: Tensor) -> Tensor:
            return x * next(rest) if layer.training and 0 < layer.p < 1 and x.numel() else type(layer).forward(layer, x)

        if not calls:
            return run(parts)
        with replaced(layers, multiply):
            return run(parts)

    parts = [t[samples.start : samples.stop] for t in draws]
    return vmap(one)(parts, masks)
