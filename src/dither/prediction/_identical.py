"""Why samples come out identical."""

from __future__ import annotations

import warnings
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._sampling import Source
from ..pruning import LogNormalNoise
from ._sampler import Batch, Sampler


def check_different(samples: Tensor, sampler: Sampler, batch: Batch) -> None:
    """Raise if the samples (S, B, ...) are all the same and no layer that was reached drew.

    If one did, a warning has to do: an image that is black, say, may leave nothing for dropout to drop.

    Raises:
        ValueError: If nothing drew; it names the layers and says why.
    """
    if len(samples) < 2 or not torch.equal(samples[0], samples[1]) or bool((samples != samples[0]).any()):
        return
    called = _called(sampler, batch)
    reasons = {name: _reason(layer, name in called) for name, layer in sampler.layers.items()}
    silent = "; ".join(
        f'"{name}" ({type(sampler.layers[name]).__name__}): {why}' for name, why in reasons.items() if why
    )
    drew = [name for name, why in reasons.items() if not why]
    if not drew:
        raise ValueError(f"all {len(samples)} samples are identical, because no layer draws. {silent}.")
    also = f" These do not draw: {silent}." if silent else ""
    warnings.warn(
        f"all {len(samples)} samples are identical although {', '.join(drew)} drew: their noise does not reach the "
        f"output of this input, or the same draw came every time.{also}",
        stacklevel=2,
    )


def _called(sampler: Sampler, batch: Batch) -> set[str]:
    """The stochastic layers that a pass calls."""
    found: set[str] = set()
    with ExitStack() as stack:
        for name, layer in sampler.layers.items():

            def note(*_: object, name: str = name) -> None:
                found.add(name)

            stack.callback(layer.register_forward_pre_hook(note).remove)
        sampler.plain(batch, 0)
    return found


def _reason(layer: nn.Module, called: bool) -> str:
    """Why a layer does not draw; empty if it does."""
    source = getattr(layer, "source", None)
    if isinstance(layer, LogNormalNoise):  # a gate is read through the weights, never called
        return "its noise is zero" if torch.equal(layer.theta(), layer.theta()) else ""
    if not type(layer).forward.__module__.startswith(("dither.", "torch.")):
        return f"{type(layer).__name__} overrides forward"
    if not called:
        return "the forward pass does not call it"
    if isinstance(layer, _DropoutNd):
        return f"p is {layer.p:g}" if layer.p in (0, 1) else ""
    if isinstance(source, Source) and not source.varies and all(bool((t == t[:1]).all()) for t in source.tensors()):
        return "its statistics do not vary"
    return ""
