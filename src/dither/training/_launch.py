"""The processes of one job: found as the launcher started them, with one run folder for all."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import distributed, nn

from .._processes import gathered


def make_accelerator(**settings: Any) -> Accelerator:
    """An `Accelerator` for the processes that ``accelerate launch`` or ``torchrun`` started, also without a GPU.

    Args:
        settings: what `Accelerator` takes.

    Returns:
        The accelerator, with its own precision: Accelerate keeps the first one for the life of the process, and one
        process may do several runs.
    """
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    # Accelerate talks over Gloo only if it is told that there is no GPU; torchrun does not tell.
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(cpu=many and not _has_device(), **settings)
    if accelerator.num_processes == 1 and not many and os.environ.get("MASTER_ADDR") and _told_to_use_cpu():
        warnings.warn(
            "accelerate launch --cpu starts one process, whatever --num_processes says. On CPUs, start them with "
            "torchrun --nproc-per-node 2 -m dither ...",
            stacklevel=2,
        )
    return accelerator


def _has_device() -> bool:
    kinds = ("cuda", "xpu", "npu", "hpu", "mlu")  # with processes that talk to each other
    return any(getattr(torch, kind).is_available() for kind in kinds if hasattr(torch, kind))


def _told_to_use_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"


def check_folder_is_shared(file: Path, text: str) -> None:
    """Does every process see what the first one wrote?

    Raises:
        ValueError: If this one does not.
        RuntimeError: If another one does not.
    """

    def look() -> None:
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"this process does not see {file} as the first process wrote it: the run folder must be on a disk "
                "that all machines of the job share"
            )

    gathered(look)


def seed_processes(seed: int, step: int = 0) -> None:
    """Seeds the global generators: process r of a job draws its own noise, from seed + r.

    Args:
        seed: of the run.
        step: where a training goes on with another number of processes; its generators cannot be shared out anew, so
            all are seeded with a number that follows from (seed, step), plus r.
    """
    set_seed(random.Random(f"{seed}, {step}").randrange(2**31) if step else seed, device_specific=True)


@torch.no_grad()
def share_buffers(net: nn.Module, accelerator: Accelerator) -> None:
    """Gives every process the buffers of the first one, as DistributedDataParallel does before a forward pass."""
    if accelerator.num_processes > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, src=0)
