"""Which channels the trial takes away: no two spaces always lose as many.

Code that takes the width of one tensor for that of another, ``y.reshape(x.shape)`` or ``y[:, : x.shape[1]]``, is right
for as long as both lose equal shares of their channels, or one of them more than the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..labels import Space

Pattern = Mapping[str, Tensor]
"""The channels that stay, as a mask for each space by name."""

ROUNDS = 12  # far more than any network has needed: a thousand spaces of two channels each take 10


def patterns(spaces: Sequence[Space]) -> list[Pattern]:
    """Removal patterns that tell the widths of all ``spaces`` apart, two at least; always the same for a network.

    How many channels stay says `counts`; which ones is drawn, for one choice can hide an error: every second of 3 x 4
    heads is the same heads of queries, keys and values.
    """
    generator = torch.Generator().manual_seed(0)

    def masks(stay: Sequence[int]) -> Pattern:
        drawn: dict[str, Tensor] = {}
        for space, count in zip(spaces, stay, strict=True):
            drawn[space.name] = torch.zeros(space.size, dtype=torch.bool)
            drawn[space.name][torch.randperm(space.size, generator=generator)[:count]] = True
        return drawn

    return [masks(stay) for stay in counts([space.size for space in spaces])]


def counts(sizes: Sequence[int]) -> list[list[int]]:
    """How many channels stay in spaces of these ``sizes``, pattern by pattern.

    One draw after the other, each followed by its opposite, until of any two spaces of one size each has kept more than
    the other once, and any two others have kept unequal shares. Spaces of one size that have kept as many so far are
    spread over all numbers from a third to two thirds: with m numbers to choose from, n equal spaces take about
    2 log n / log m patterns. Of two channels one or both stay.

    Args:
        sizes: Numbers of channels, each at least 2.

    Returns:
        For each pattern a number for each space.

    Example:
        >>> counts([2, 2, 2])[:2]
        [[2, 1, 1], [1, 2, 2]]
    """
    size = torch.tensor(sizes, dtype=torch.int64)
    low, high = (size // 3).clamp(min=1), (2 * size + 2) // 3
    generator = torch.Generator().manual_seed(0)
    equal = size[:, None] == size
    told = torch.eye(len(sizes), dtype=torch.bool)
    drawn: list[list[int]] = []
    for _ in range(ROUNDS):
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, past in enumerate(zip(sizes, *drawn, strict=True)):
            alike[past].append(i)
        place = torch.empty(len(sizes))  # between the least and the most, from 0 to 1
        for group in alike.values():
            order = torch.randperm(len(group), generator=generator) + torch.rand(1, generator=generator)
            place[group] = order / len(group)
        stay = low + (place * (high - low + 1)).long()
        for kept in (stay, low + high - stay):
            drawn.append(kept.tolist())
            more = kept[:, None] * size - kept * size[:, None]
            told |= torch.where(equal, more > 0, more != 0)
        if bool(told.all()):
            break
    return drawn
