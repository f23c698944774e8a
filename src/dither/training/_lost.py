"""A job of which one process is gone: what the others say."""

from __future__ import annotations

import re

import torch.distributed as distributed

# How Gloo and NCCL say it: the types of their errors differ between backends, versions and operations.
_WORDS = re.compile(r"by peer|remote worker|remote process|timed? ?out|heartbeat|unhandled system error", re.IGNORECASE)


class LostProcess(RuntimeError):
    """Another process of this job is gone, or does not answer. The last complete checkpoint is kept."""


def is_lost(error: RuntimeError) -> bool:
    """Whether an error is that another process of this job does not take part any more.

    Example:
        >>> is_lost(RuntimeError("Connection closed by peer"))  # there is no job here
        False
    """
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return False
    return isinstance(error, distributed.DistError) or bool(_WORDS.search(str(error)))


def lost(error: RuntimeError, kept: str) -> LostProcess:
    """The error for the user, from that of the backend and what is on the disk."""
    first = str(error).strip().splitlines()[0][:200]
    return LostProcess(
        f"another process of this job is gone or does not answer ({first}). Its own last lines say why; {kept}; the "
        "same command goes on from there"
    )
