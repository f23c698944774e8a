"""The files that are damaged: one of each kind that `dither.save` and `dither.export` write, as small as can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import dither
from dither import batchnorm, pruning

IMAGES = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))


@dataclass(frozen=True)
class Sample:
    """What was saved, what it is loaded into, and the inputs of both."""

    name: str
    saved: Callable[[], nn.Module]
    fresh: Callable[[], nn.Module]
    inputs: Tensor
    suffix: str = ".safetensors"

    def write(self, folder: Path) -> Path:
        """The file; made once in a folder."""
        path = folder / f"{self.name}{self.suffix}"
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                net, notes = self.saved().eval(), {"error_pct": 0.7, "note": "σ", "widths": [2, 4]}
                if self.suffix == ".safetensors":
                    cost = dither.cost(net, self.inputs[:1], batch_sizes=(1,), repeats=1)
                    dither.save(net, path, notes, cost=cost)
                else:
                    dither.export(net, path, self.inputs, metadata=notes)
        return path


class Tied(nn.Module):
    """Tied weights, a scalar, an integer and an empty buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.three.weight = self.two.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.three(self.two(self.one(x).relu()).relu())


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def hand_placed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), pruning.LogNormalNoise(4), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, bias=False), pruning.LogNormalNoise(4), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(64, 3, bias=False),
    )  # fmt: skip


def drowned(noisy: nn.Module) -> nn.Module:
    """Half of all channels in more noise than signal."""
    with torch.no_grad():
        for gate in pruning.gates(noisy).values():
            gate.loc[::2], gate.log_scale[::2] = -8.0, 3.0
    return noisy


def shrunk(net: nn.Module, x: Tensor, **options: bool) -> nn.Module:
    noisy = drowned(pruning.attach(net.eval(), x, **options))
    return pruning.shrink(noisy, pruning.plan(noisy, x), x)


def shrunk_by_hand() -> nn.Module:
    net = drowned(hand_placed().eval())
    return pruning.shrink(net, pruning.plan(net, IMAGES), IMAGES)


def shrunk_while_training() -> nn.Module:
    noisy = drowned(pruning.attach(convnet(), IMAGES))
    optimizer = torch.optim.SGD(noisy.parameters(), lr=0.1)
    return pruning.shrink(noisy, pruning.plan(noisy, IMAGES), IMAGES, optimizer=optimizer)[0]


def fitted(net: nn.Module, law: batchnorm.Law) -> nn.Module:
    net = batchnorm.convert(net)
    batchnorm.fit(net, torch.randn(24, 2, 6, 6).split(6), law=law)
    return net


SAMPLES = (
    Sample("tied", Tied, Tied, VECTORS),
    Sample("half", lambda: perceptron().bfloat16(), perceptron, VECTORS.bfloat16()),
    Sample("attached", lambda: drowned(pruning.attach(convnet(), IMAGES)), lambda: pruning.attach(convnet(), IMAGES),
           IMAGES),
    Sample("shrunk", lambda: shrunk(convnet(), IMAGES), convnet, IMAGES),
    Sample("twice", lambda: shrunk(shrunk(perceptron(), VECTORS, features=True), VECTORS), perceptron, VECTORS),
    Sample("by_hand", shrunk_by_hand, hand_placed, IMAGES),
    Sample("training", shrunk_while_training, lambda: pruning.attach(convnet(), IMAGES), IMAGES),
    Sample("fitted", lambda: fitted(convnet(), batchnorm.Factorized()), lambda: batchnorm.convert(convnet()), IMAGES),
    Sample("both", lambda: fitted(shrunk(convnet(), IMAGES), batchnorm.Empirical()),
           lambda: batchnorm.convert(convnet()), IMAGES),
)  # fmt: skip
EXPORTED = (
    Sample("program", perceptron, perceptron, VECTORS, ".pt2"),
    Sample("graph", perceptron, perceptron, VECTORS, ".onnx"),
)
