"""Real processes that talk over Gloo, on no fixed port: they meet in a file. Nothing here waits forever."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import distributed
from torch import multiprocessing as processes

Check: TypeAlias = Callable[[int, int], Any]  # from rank and number of processes to tensors, numbers and texts

SEED = 20171204  # before each check, as before each test
SECONDS = 60  # that a process waits for another
PRELOADED = ["torch", "torch.distributed.fsdp", "accelerate", "dither.training", "dither.batchnorm", "dither.pruning"]


def run(checks: Mapping[str, Check], world: int, folder: Path) -> list[dict[str, Any]]:
    """What every check gave in every process; errors as text."""
    # Forked from a server that has imported torch once, and not from here: this process may have threads.
    multiprocessing.set_forkserver_preload(PRELOADED)
    context = processes.start_processes(
        _work, (world, str(folder), dict(checks)), nprocs=world, join=False, start_method="forkserver"
    )
    assert context is not None
    deadline = time.monotonic() + 2 * SECONDS
    try:
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{world} processes were not done after {2 * SECONDS} seconds")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _work(rank: int, world: int, folder: str, checks: dict[str, Check]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # gloo talks about host names
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), CHECK_FOLDER=folder)
    os.environ.update(WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=SECONDS),
    )
    found: dict[str, Any] = {}
    for name, check in checks.items():
        torch.manual_seed(SEED)
        try:
            found[name] = check(rank, world)
        except (ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
