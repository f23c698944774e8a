"""The processes of a ``torch.distributed`` job: what each found, what one decides for all, and whether they agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

T = TypeVar("T")

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Generator[None]:
    """Inside, dither talks to no other process, as if there were none.

    `dither.pruning.plan`, `dither.batchnorm.fit` and the others that are named in the page on many processes are called
    by every process of a job and give the same answer in all. Where one process acts for itself, because it trains a
    network of its own or because the others do not take part, say so::

        if torch.distributed.get_rank() == 0:
            with dither.alone():
                print(dither.pruning.plan(net, x))

    Example:
        >>> with alone():
        ...     num_processes()
        1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def num_processes() -> int:
    """How many processes work together: 1 without a process group, and inside `alone`."""
    if _alone.get() or not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def gathered(work: Callable[[], T], group: distributed.ProcessGroup | None = None) -> list[T]:
    """What ``work()`` gave in each process, in the order of the ranks, in all of them.

    Args:
        work: What each process does.
        group: Which processes; None is all of them.

    Returns:
        One value for each process.

    Raises:
        RuntimeError: If another process failed; this one would wait for it forever.
    """
    if num_processes() == 1:
        return [work()]
    own: list[T] = []
    failure: Exception | None = None
    try:
        own.append(work())
    except Exception as error:
        failure = error
    messages: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(messages, (_told(failure), own), group)
    if failure is not None:
        raise failure
    for rank, (problem, _) in zip(distributed.get_process_group_ranks(group), messages, strict=True):
        if problem:
            raise RuntimeError(f"process {rank} failed: {problem}")
    return [found for _, (found,) in messages]


def decided(decide: Callable[[], T]) -> T:
    """What ``decide()`` gives in the first process, in all of them; the others do not call it.

    Raises:
        RuntimeError: If it failed there.
    """
    if num_processes() == 1:
        return decide()
    message: list[Any] = ["", None]
    failure: Exception | None = None
    if distributed.get_rank() == 0:
        try:
            with alone():
                message[1] = decide()
        except Exception as error:
            failure, message = error, [_told(error), None]
    distributed.broadcast_object_list(message, src=0)
    if failure is not None:
        raise failure
    if message[0]:
        raise RuntimeError(f"process 0 failed: {message[0]}")
    return message[1]


def check_same(net: nn.Module) -> None:
    """Does every process hold the same parameters, bit for bit?

    Buffers are not compared: running statistics belong to each process until DistributedDataParallel sends those of the
    first one around.

    Raises:
        ValueError: If one does not. The message names the process and the first parameter that differs.
    """
    if num_processes() == 1:
        return
    ranks = gathered(lambda: {name: _digest(p) for name, p in net.named_parameters()})
    for rank, digests in enumerate(ranks):
        for name in {**ranks[0], **digests}:
            if ranks[0].get(name) != digests.get(name):
                raise ValueError(
                    f'process {rank} and process 0 hold different values in "{name}": train with '
                    "DistributedDataParallel, which keeps them the same, or send those of one process around first. "
                    "Processes that train networks of their own decide alone: with dither.alone(): ..."
                )


def check_whole(net: nn.Module) -> None:
    """Does this process hold the network, and not a part of it?

    Raises:
        ValueError: If FSDP2 has sharded it. The message says how to have it whole.
    """
    for name, p in net.named_parameters():
        if hasattr(p, "full_tensor"):
            raise ValueError(
                f'"{name}" is sharded over processes (fully_shard), and a plan is made and carried out on a whole '
                "network: load torch.distributed.checkpoint.state_dict.get_model_state_dict(net, "
                "options=StateDictOptions(full_state_dict=True)) into what pruning.attach gave before fully_shard."
            )


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and DataParallel.

    Example:
        >>> unwrapped(DataParallel(nn.Linear(2, 1)))
        Linear(in_features=2, out_features=1, bias=True)
    """
    while isinstance(net, (DataParallel, DistributedDataParallel)):
        net = net.module
    return net


def _told(failure: Exception | None) -> str:
    return "" if failure is None else f"{type(failure).__name__}: {failure}"


def _digest(tensor: Tensor) -> str:
    """Of the bytes, so that a NaN equals itself."""
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(data.numpy().tobytes()).hexdigest()}"
