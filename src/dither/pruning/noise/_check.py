"""Gates whose numbers have gone bad, found before anything is decided or stored with them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ._noise import LogNormalNoise

# log θ lives on an interval of length 20, and σ must fit into float32. Nothing that learns comes near these.
LARGEST_LOC = 1e6
LARGEST_LOG_SCALE = 80.0


@torch.no_grad()
def bad_gate(layers: Mapping[str, LogNormalNoise]) -> str | None:
    """The first parameter of a gate that is not finite or has exploded, in words; None if all is well.

    Far outside its interval a law is still a law: it sits on a bound, and the network computes with it. So a gate whose
    μ is 1e30 says nothing by itself.

    Args:
        layers: Gates by name, as `dither.pruning.gates` gives them.

    Returns:
        For example ``log_scale[3] of the gate "conv1" is nan``.

    Example:
        >>> noise = LogNormalNoise(4)
        >>> bad_gate({"conv1": noise}) is None
        True
        >>> _ = noise.loc.data[2].fill_(1e30)
        >>> bad_gate({"conv1": noise})
        'loc[2] of the gate "conv1" is 1e+30'
    """
    found = [
        (name, which, value.detach(), limit)
        for name, layer in layers.items()
        for which, value, limit in (
            ("loc", layer.loc, LARGEST_LOC),
            ("log_scale", layer.log_scale, LARGEST_LOG_SCALE),
        )
    ]
    if not found or bool(torch.cat([value / limit for _, _, value, limit in found]).abs().max() <= 1):
        return None
    for name, which, value, limit in found:
        for index, number in enumerate(value.flatten().tolist()):
            if not (math.isfinite(number) and abs(number) <= limit):
                return f'{which}[{index}] of the gate "{name}" is {number:g}'
    return None


def check_gates(layers: Mapping[str, LogNormalNoise]) -> None:
    """Raise where `bad_gate` finds something.

    Raises:
        ValueError: If a parameter of a gate is not finite or has exploded.
    """
    if (found := bad_gate(layers)) is not None:
        raise ValueError(
            f"{found}: the noise has exploded. Go back to the last good checkpoint, and train with a smaller gate_lr."
        )
