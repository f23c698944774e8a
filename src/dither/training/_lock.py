"""One process works in a run folder at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

LOCK = ".lock"
COMMANDS = "commands.jsonl"  # see _record.py


def hold(folder: Path, accelerator: Accelerator) -> Callable[[], None]:
    """Keeps other processes out of a folder until the function that is returned is called, or this process ends.

    The lock belongs to the open file, not to its existence: the operating system drops it with the process, however
    that ends, so what a killed run leaves behind blocks nobody. Within one process a folder can be held several times.
    Of the processes of one job the first one holds it, for all.

    Args:
        folder: run folder; made if missing.
        accelerator: tells the processes of one job from each other.

    Returns:
        What releases it.

    Raises:
        BlockingIOError: If another process holds the folder. On every process of the job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.resolve() / LOCK, timeout=0, thread_local=False, is_singleton=True)
    refused: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            lock.acquire()
        except Timeout:
            refused[0] = (
                f"{folder} is in use by another process{_holder(folder)}. Wait until it has ended, or use another "
                "folder; nothing was changed"
            )
    if (problem := broadcast_object_list(refused)[0]) is not None:
        raise BlockingIOError(problem)
    return lock.release if accelerator.is_main_process else lambda: None


def _holder(folder: Path) -> str:
    """Who holds it, as far as the last line of the record says so."""
    try:
        last = json.loads((folder / COMMANDS).read_text(encoding="utf-8").splitlines()[-1])
        return f" ({last['command']}, process {last['pid']}, begun {last['time']})"
    except (OSError, ValueError, LookupError, TypeError):
        return ""
