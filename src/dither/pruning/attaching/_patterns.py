"""Which channels the trial takes away: no two spaces always lose as many.

Code that takes the width of one tensor for that of another, ``y.reshape(x.shape)`` or ``y[:, : x.shape[1]]``, is right
for as long as both lose equal shares of their channels, or one of them more than the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from ..labels import Space

Pattern = Mapping[str, Tensor]
"""The channels that stay, as a mask for each space by name."""

FEWEST = 2  # one choice can hide an error: every second of 3 x 4 heads is the same heads of queries, keys and values


def patterns(spaces: Sequence[Space], most: int | None = None) -> list[Pattern]:
    """Removal patterns that tell the widths of all ``spaces`` apart, ``most`` at most; always the same for a network.

    How many channels stay says `counts`; which ones is drawn.
    """
    generator = torch.Generator().manual_seed(0)

    def masks(stay: Sequence[int]) -> Pattern:
        drawn: dict[str, Tensor] = {}
        for space, count in zip(spaces, stay, strict=True):
            drawn[space.name] = torch.zeros(space.size, dtype=torch.bool)
            drawn[space.name][torch.randperm(space.size, generator=generator)[:count]] = True
        return drawn

    return [masks(stay) for stay in counts([space.size for space in spaces], most)]


def counts(sizes: Sequence[int], most: int | None = None) -> list[list[int]]:
    """How many channels stay in spaces of these ``sizes``, pattern by pattern: from a third to two thirds.

    Of any two spaces of one size each keeps more than the other in one of the patterns, and any two others keep unequal
    shares. Of two channels one or both stay.

    Args:
        sizes: Numbers of channels, each at least 2.
        most: So many patterns at most, even if some widths cannot be told apart by them.

    Returns:
        For each pattern a number for each space.

    Example:
        >>> counts([2, 2, 2])
        [[2, 1, 1], [1, 1, 2], [1, 2, 1]]
    """
    generator = torch.Generator().manual_seed(0)
    low = [max(size // 3, 1) for size in sizes]
    levels = [(2 * size + 2) // 3 - least + 1 for size, least in zip(sizes, low, strict=True)]
    alike: dict[int, list[int]] = defaultdict(list)
    for i, size in enumerate(sizes):
        alike[size].append(i)
    above: list[list[int]] = [[] for _ in sizes]  # the least
    for own in alike.values():
        found = codes(levels[own[0]], len(own), most)
        order = torch.randperm(max(len(found), len(own)), generator=generator)
        for i, k in zip(own, order.tolist(), strict=False):
            above[i] += found[k % len(found)]
    length = max(map(len, above), default=FEWEST)
    size = torch.tensor(sizes, dtype=torch.int64)
    while True:
        for i, code in enumerate(above):
            code += torch.randint(levels[i], (length - len(code),), generator=generator).tolist()
        stay = torch.tensor(above, dtype=torch.int64).view(len(sizes), length) + torch.tensor(low)[:, None]
        shares = stay / size[:, None]
        if most == length or len(torch.unique(shares, dim=0)) == len(sizes):
            return stay.T.tolist()
        length += 1


def codes(levels: int, count: int, most: int | None = None) -> list[tuple[int, ...]]:
    """``count`` or more tuples of numbers below ``levels``, as short as can be; of any two each is larger somewhere.

    For they all have the same sum, in the middle, where there are most of them (de Bruijn, Tengbergen, Kruyswijk 1951).
    None is the same number all over.

    Example:
        >>> codes(2, 3)
        [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    """
    length = FEWEST
    while True:
        total = length * (levels - 1) // 2
        every = ((*head, total - sum(head)) for head in product(range(levels), repeat=length - 1))
        found = [code for code in every if 0 <= code[-1] < levels and len(set(code)) > 1]
        if len(found) >= count or length == most:
            return found
        length += 1
