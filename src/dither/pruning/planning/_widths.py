"""Widths that the hardware likes: the next-best channels stay where a measurement says that they cost no time."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from ..._inputs import Inputs
from ..cutting._cut import twin
from ..cutting._plain import replace_module
from ..labels import Space
from ..measuring._latency import seconds_by_width
from ..noise._gates import gates, ungate

MULTIPLES = (2, 4, 8, 16, 32, 64)  # widths of vector registers and of the tiles of matrix kernels
FREE = 0.01  # relative difference of two measured times that counts as none


def free_widths(
    net: nn.Module, example_inputs: Inputs, wanted: Mapping[str, tuple[Space, Tensor, int]]
) -> dict[str, int]:
    """For each channel space the number of channels to keep: at least as many as wanted, and no slower.

    The widths tried are the wanted one and the next multiples of 2, 4, …, 64. Of these it is the largest that takes
    within 1 % of the least time. Spaces are decided one after the other in the order given; the others have their
    decided or wanted width meanwhile, so that what is measured is close to the network that comes out. Only the layers
    of the space are timed.

    Args:
        net: The network with noise.
        example_inputs: Inputs with the batch size to be fast at.
        wanted: For each space that may lose channels, by name: the space, its channels by rank, best first, and how
            many of them the criterion keeps.

    Returns:
        The widths by name.
    """
    plain = ungate(twin(net))
    for noise in gates(plain).values():  # hand-placed noise has a width of its own and costs nothing after shrink
        replace_module(plain, noise, nn.Identity())
    widths = {name: count for name, (_, _, count) in wanted.items()}
    for name, (space, _, count) in wanted.items():
        tried = sorted({min(math.ceil(count / m) * m, space.size) for m in (1, *MULTIPLES)})
        others = {n: (s, order if n == name else order[: widths[n]]) for n, (s, order, _) in wanted.items()}
        if len(tried) > 1:
            seconds = seconds_by_width(plain, example_inputs, others, name, tried)
            widths[name] = choose_width(dict(zip(tried, seconds, strict=True)))
    return widths


def choose_width(seconds: Mapping[int, float]) -> int:
    """The largest width that takes within 1 % of the least time.

    Example:
        >>> choose_width({33: 1.0, 36: 0.92, 40: 0.8, 48: 0.803, 64: 0.9})
        48
    """
    least = min(seconds.values())
    return max(width for width, taken in seconds.items() if taken <= least * (1 + FREE))
