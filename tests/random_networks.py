"""Random networks: a program of operators, drawn by a seed, with the layers that it needs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Values = list[Tensor]
SIZE = 6  # of an image, in and out of every step


class Program(nn.Module):
    """Steps on a list of feature maps (B, C, 6, 6); each reads some of them and appends one.

    No step writes a number of channels into its code: such networks must be exact, not just refused.
    """

    def __init__(self, seed: int, length: int = 12) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, Callable[[Values], Tensor]]] = []
        self.channels = [3]
        self.add("conv", 0)
        for _ in range(length):
            name = self.draw.choice(sorted(STEPS))
            if name not in MIXERS or self.draw.random() < 0.2:
                self.add(name, self.draw.randrange(len(self.channels)))
        last = len(self.channels) - 1
        self.head = nn.Linear(self.channels[last] * (SIZE * SIZE if self.draw.random() < 0.5 else 1), 4)
        self.flat = self.head.in_features != self.channels[last]

    def add(self, name: str, at: int) -> None:
        made = STEPS[name](self, at)
        if made is not None:
            step, channels = made
            self.steps.append((f"{name}({at})", step))
            self.channels.append(channels)

    def layer(self, module: nn.Module) -> nn.Module:
        self.layers.append(module)
        return module

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for _, step in self.steps:
            values.append(step(values))
        y = values[-1]
        return self.head(y.flatten(1) if self.flat else y.mean((2, 3)))

    def extra_repr(self) -> str:
        return " ".join(name for name, _ in self.steps)


Made = tuple[Callable[[Values], Tensor], int] | None


def layered(make: Callable[[Program, int], tuple[nn.Module, int]]) -> Callable[[Program, int], Made]:
    """A step that is one module of its own; its index, not the module, is captured, so that copies run their own."""

    def build(p: Program, at: int) -> Made:
        module, channels = make(p, p.channels[at])
        p.layer(module)
        return Apply(p, len(p.layers) - 1, at), channels

    return build


class Apply:
    """``layers[index](values[at])`` of the program that runs, also after a deep copy."""

    def __init__(self, program: Program, index: int, at: int) -> None:
        self.program, self.index, self.at = program, index, at

    def __call__(self, values: Values) -> Tensor:
        return self.program.layers[self.index](values[self.at])


def plain(change: Callable[[Tensor], Tensor], factor: float = 1.0) -> Callable[[Program, int], Made]:
    """A step without layers; it needs an even number of channels if it halves them."""

    def build(p: Program, at: int) -> Made:
        channels = p.channels[at] * factor
        even = p.channels[at] % 2 == 0 and p.channels[at] >= 4
        return (lambda values: change(values[at]), int(channels)) if even else None

    return build


def width(p: Program) -> int:
    return p.draw.choice([4, 6, 8])


def conv(p: Program, c: int) -> tuple[nn.Module, int]:
    n, k = width(p), p.draw.choice([1, 3])
    return nn.Conv2d(c, n, k, padding=k // 2, bias=p.draw.random() < 0.5), n


def transposed(p: Program, c: int) -> tuple[nn.Module, int]:
    return nn.ConvTranspose2d(c, n := width(p), 3, padding=1), n


def depthwise(p: Program, c: int) -> tuple[nn.Module, int]:
    m = p.draw.choice([1, 1, 2])
    return nn.Conv2d(c, m * c, 3, padding=1, groups=c, bias=p.draw.random() < 0.5), m * c


def shuffle(x: Tensor) -> Tensor:
    return x.view(len(x), 2, -1, SIZE, SIZE).transpose(1, 2).reshape(len(x), -1, SIZE, SIZE)


def add(p: Program, at: int) -> Made:
    others = [i for i, c in enumerate(p.channels) if c == p.channels[at] and i != at and i > 0]
    if not others or at == 0:
        return None
    other, product = p.draw.choice(others), p.draw.random() < 0.3
    return (lambda v: v[at] * v[other].sigmoid() if product else v[at] + v[other]), p.channels[at]


def concat(p: Program, at: int) -> Made:
    other = p.draw.randrange(len(p.channels))
    return (lambda v: torch.cat([v[at], v[other]], 1)), p.channels[at] + p.channels[other]


def reuse(p: Program, at: int) -> Made:
    """A layer that is there already, on another input of the same width."""
    fitting = [i for i, m in enumerate(p.layers) if isinstance(m, nn.Conv2d) and m.groups == 1]
    fitting = [i for i in fitting if p.layers[i].in_channels == p.channels[at]]
    if not fitting:
        return None
    index = p.draw.choice(fitting)
    return Apply(p, index, at), p.layers[index].out_channels


class Pixelwise(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def pixelwise(p: Program, at: int) -> Made:
    """A linear layer over the channels of each pixel."""
    n = width(p)
    p.layer(Pixelwise(p.channels[at], n))
    return Apply(p, len(p.layers) - 1, at), n


STEPS: dict[str, Callable[[Program, int], Any]] = {
    "conv": layered(conv),
    "conv again": layered(conv),
    "transposed": layered(transposed),
    "depthwise": layered(depthwise),
    "norm": layered(lambda p, c: (nn.BatchNorm2d(c), c)),
    "prelu": layered(lambda p, c: (nn.PReLU(c), c)),
    "group norm": layered(lambda p, c: (nn.GroupNorm(1, c), c)),
    "reuse": reuse,
    "pixelwise": pixelwise,
    "add": add,
    "concat": concat,
    "relu": plain(F.relu),
    "pool": plain(lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2)),
    "glu": plain(lambda x: F.glu(x, 1), 0.5),
    "first half": plain(lambda x: x[:, : x.shape[1] // 2], 0.5),
    "second half": plain(lambda x: x.chunk(2, 1)[1], 0.5),
    "shuffle": plain(shuffle),
    "softmax": plain(lambda x: x.softmax(1)),
    "squeeze": plain(lambda x: x * x.mean((2, 3), keepdim=True).tanh()),
}

MIXERS = {"group norm", "softmax"}  # pin whatever they touch: rarely, or little would be left to test
