"""Numbers that go bad in one process, and folders that are in use: what every process says."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dither.training import Batches, Engine, Fit, Images, NonFiniteLoss, Penalty, Progress

FIT = Fit(epochs=2, batch_size=12, lr=1e-2)


class NaNBackwards(torch.autograd.Function):
    """1 forwards, NaN backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_ones(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full((4,), math.nan)


@contextmanager
def shared_folder(rank: int) -> Iterator[Path]:
    """One folder for all processes."""
    shared = [tempfile.mkdtemp() if rank == 0 else None]
    torch.distributed.broadcast_object_list(shared)
    name = str(shared[0])
    try:
        yield Path(name)
    finally:
        torch.distributed.barrier()
        if rank == 0:
            shutil.rmtree(name)


def images() -> Images:
    return Images(torch.arange(72 * 9, dtype=torch.uint8).view(72, 1, 3, 3), torch.arange(72) % 4, 4)


def train(folder: Path, penalty: Penalty | None = None) -> str:
    """Six steps an epoch; the error, and what it left."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    engine = Engine(Accelerator(cpu=True), folder, Progress(), seed=1, checkpoint_steps=2)
    try:
        engine.fit(net, images(), images(), FIT, "base", penalty=penalty)
    except NonFiniteLoss as error:
        finite = all(bool(p.isfinite().all()) for p in net.parameters())
        return f"{error} | weights finite: {finite}"
    return "no error"


def bad_pixel(rank: int, world: int) -> str:
    """In process 1, at step 7."""
    epoch = Batches.epoch

    def spoiled(self: Batches, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (x, y) in enumerate(epoch(self, number, start)):
            if rank == 1 and number == 1 and step == 1:
                x[2, 0, 0, 1] = math.nan
            yield x, y

    with shared_folder(rank) as folder, mock.patch.object(Batches, "epoch", spoiled):
        return train(folder)


def bad_gradient(rank: int, world: int) -> str:
    """In the last process, at step 3; its loss is finite."""
    calls: list[int] = []

    def value(net: nn.Module) -> Tensor:
        calls.append(0)
        bad = len(calls) == 4 and rank == world - 1
        return NaNBackwards.apply(net[1].bias) if bad else 0 * net[1].bias.sum()

    with shared_folder(rank) as folder:
        return train(folder, Penalty(value))


def damaged_state(rank: int, world: int) -> list[str]:
    """Process 0 reads the files, all use its answer; the weights that come out are those of an undisturbed training."""
    with shared_folder(rank) as folder:
        first = train(folder)
        newest = folder / "checkpoint" / "base" / "step-00000012"
        torch.distributed.barrier()
        if rank == 0:
            content = bytearray((newest / "model.safetensors").read_bytes())
            content[-3] ^= 16
            (newest / "model.safetensors").write_bytes(content)
        torch.distributed.barrier()
        second = train(folder)
        torch.distributed.barrier()
        return [first, second, *sorted(path.name for path in newest.parent.iterdir())]


CHECKS = {"bad_pixel": bad_pixel, "bad_gradient": bad_gradient, "damaged_state": damaged_state}
