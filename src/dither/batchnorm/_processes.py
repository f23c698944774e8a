"""What the processes of a distributed job saw, as if one process had seen it all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import torch
from torch import Tensor, distributed

from ._moments import Moments
from ._observe import PICTURED_BATCHES, Observed, Place


@dataclass(frozen=True)
class _Message:
    """What a process tells the others; tensors are on the CPU."""

    problem: str
    places: tuple[Place, ...]
    count: int
    sums: Tensor | None
    records: list[Tensor]
    pictures: list[Tensor]
    batch_size: int
    left_out: int


def together(observe: Callable[[], Observed], num_records: int) -> Observed:
    """What all processes observe, the same in each of them; ``observe()`` alone where there is one process.

    Processes may see unequal numbers of batches, also none. Records are taken in turn, one from each process.

    Raises:
        RuntimeError: If another process failed; this one would wait for it forever.
        ValueError: If processes saw batches of different sizes or different networks.
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return observe()
    own, failure = Observed(), None
    try:
        own = observe()
    except Exception as error:
        failure = error
    messages = _exchange(_message(own, failure))
    if failure is not None:
        raise failure
    for rank, message in enumerate(messages):
        if message.problem:
            raise RuntimeError(f"process {rank} failed: {message.problem}")
    return _united([message for message in messages if message.count], num_records)


def _message(own: Observed, failure: Exception | None) -> _Message:
    moments = own.moments
    return _Message(
        problem="" if failure is None else f"{type(failure).__name__}: {failure}",
        places=own.places,
        count=0 if moments is None else moments.count,
        sums=None if moments is None else moments.stacked().cpu(),
        records=own.records,
        pictures=own.pictures,
        batch_size=own.batch_size,
        left_out=own.left_out,
    )


def _exchange(message: _Message) -> list[_Message]:
    messages: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(messages, message)
    return messages


def _united(messages: list[_Message], num_records: int) -> Observed:
    """In the order of the ranks, so that the last bit is the same everywhere."""
    united = Observed()
    if not messages:
        return united
    sizes = sorted({message.batch_size for message in messages})
    if len(sizes) > 1:
        raise ValueError(f"processes see batches of {' and '.join(map(str, sizes))} examples; give all the same size")
    if len({message.places for message in messages}) > 1:
        raise ValueError("processes run different networks: their BatchNorm layers are called differently")
    for message in messages:
        if message.sums is not None:
            part = Moments.unstacked(message.count, message.sums)
            united.moments = part if united.moments is None else united.moments.merge(part)
    united.places, united.batch_size = messages[0].places, sizes[0]
    united.records = _in_turn([message.records for message in messages])[:num_records]
    united.pictures = _in_turn([message.pictures for message in messages])[:PICTURED_BATCHES]
    united.left_out = sum(message.left_out for message in messages)
    return united


def _in_turn(lists: list[list[Tensor]]) -> list[Tensor]:
    return [item for item in chain.from_iterable(zip_longest(*lists)) if isinstance(item, torch.Tensor)]
