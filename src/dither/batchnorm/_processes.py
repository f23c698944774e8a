"""What the processes of a distributed job saw, as if one process had seen it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, zip_longest

import torch
from torch import Tensor

from .._processes import gathered, num_processes
from ._moments import Moments
from ._observe import PICTURED_BATCHES, Observed


def together(observe: Callable[[], Observed], num_records: int) -> Observed:
    """What all processes observe, the same in each of them; ``observe()`` alone where there is one process.

    Processes may see unequal numbers of batches, also none. Records are taken in turn, one from each process.

    Raises:
        RuntimeError: If another process failed; this one would wait for it forever.
        ValueError: If processes saw batches of different sizes or different networks.
    """
    if num_processes() == 1:
        return observe()
    parts = gathered(lambda: _sent(observe()))
    batches = {part.ranks or (rank,): part for rank, part in enumerate(parts) if part.moments is not None}
    united = _united(list(batches.values()), num_records)
    united.left_out = sum(part.left_out for part in parts)
    return united


def _sent(own: Observed) -> Observed:
    """With its sums on the CPU, as it travels."""
    moments = own.moments
    return replace(own, moments=moments and Moments.unstacked(moments.count, moments.stacked().cpu()))


def _united(parts: list[Observed], num_records: int) -> Observed:
    """In the order of the ranks, so that the last bit is the same everywhere."""
    united = Observed()
    if not parts:
        return united
    sizes = sorted({part.batch_size for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"processes see batches of {' and '.join(map(str, sizes))} examples; give all the same size")
    if len({part.places for part in parts}) > 1:
        raise ValueError("processes run different networks: their BatchNorm layers are called differently")
    for moments in (part.moments for part in parts if part.moments):
        united.moments = moments if united.moments is None else united.moments.merge(moments)
    united.places, united.batch_size = parts[0].places, sizes[0]
    united.records = _in_turn([part.records for part in parts])[:num_records]
    united.pictures = _in_turn([part.pictures for part in parts])[:PICTURED_BATCHES]
    return united


def _in_turn(lists: list[list[Tensor]]) -> list[Tensor]:
    return [item for item in chain.from_iterable(zip_longest(*lists)) if isinstance(item, torch.Tensor)]
