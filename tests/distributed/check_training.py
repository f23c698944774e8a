"""What each process does in a training of dither: whole, interrupted, gone on with, and under noise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dither import pruning
from dither.training import Engine, Fit, Images, Penalty, Progress
from dither.training._launch import make_accelerator
from dither.training._shrinking import Shrinking

FIT = Fit(epochs=2, batch_size=12, lr=1e-2, shift=1, flip=True)
STEPS, INTERRUPTED = 20, 7  # steps in all; the one that ends an interrupted training. States are saved every third
IMAGES = 120


class Wide(nn.Module):
    """Everything behind it is in float64, so that rounding stays far below what a wrong step would do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class InterruptedError(RuntimeError):
    pass


class Ends(Progress):
    def step(self, step: int, *args: Any) -> None:
        if step == INTERRUPTED:
            raise InterruptedError(f"step {step}")


def images(count: int, seed: int = 1) -> Images:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 100, (count, 1, 6, 6), generator=generator)
    return Images((pixels + 50 * labels.view(-1, 1, 1, 1) % 156).to(torch.uint8), labels, 4)


def make_net(*, norm: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    middle = nn.BatchNorm2d(8) if norm else nn.Identity()
    net = nn.Sequential(Wide(), nn.Conv2d(1, 8, 3), middle, nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).double()
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.1, generator)
    return net


def fit(folder: Path, net: nn.Module, progress: Progress | None = None, name: str = "base", **options: Any) -> Any:
    accelerator = make_accelerator()
    engine = Engine(accelerator, folder, progress or Progress(), seed=1, checkpoint_steps=3)
    return engine.fit(net, images(IMAGES), images(23, seed=2), FIT, name, **options)


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def whole(folder: Path) -> dict[str, Any]:
    net = fit(folder, make_net())
    return {"state": state(net), "history": (folder / "history.jsonl").read_text(encoding="utf-8")}


def interrupt(folder: Path) -> None:
    with pytest.raises(InterruptedError):
        fit(folder, make_net(), Ends())


def own(name: str) -> Path:
    return Path(os.environ["CHECK_FOLDER"], name)


def train_whole(rank: int, world: int) -> dict[str, Any]:
    return whole(own("whole"))


def train_interrupted(rank: int, world: int) -> str:
    interrupt(own("interrupted"))
    torch.distributed.barrier()
    return ", ".join(sorted(path.name for path in own("interrupted/checkpoint/base").glob("step-*")))


def train_on(rank: int, world: int) -> dict[str, Any]:
    """Goes on from what one process left."""
    if rank == 0:
        shutil.copytree(own("one"), own("on"))
    torch.distributed.barrier()
    return whole(own("on"))


def train_under_noise(rank: int, world: int) -> dict[str, Any]:
    """With BatchNorm, and with channels that go after the first epoch."""
    example = torch.zeros(1, 1, 6, 6)
    net = pruning.attach(make_net(norm=True), example)
    for gate in pruning.gates(net).values():
        nn.init.constant_(gate.log_scale[:3], 3.0)
    small = fit(
        own("noise"),
        net,
        name="prune",
        groups=lambda gated: pruning.param_groups(gated, lr=1e-2),
        penalty=Penalty(lambda gated: pruning.kl(gated) / IMAGES),
        shrinking=Shrinking(1, lambda gated: pruning.plan(gated, example), example),
    )
    return {"state": state(small), "draw": torch.rand(3)}


CHECKS: dict[str, Callable[[int, int], Any]] = {
    "training, whole": train_whole,
    "training, interrupted": train_interrupted,
    "training, on": train_on,
    "training, under noise": train_under_noise,
}
