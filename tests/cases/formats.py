"""The same small network as its user keeps it: in another layout or dtype, half frozen, on several inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor | None = None


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


def small() -> nn.Sequential:
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 8), nn.ReLU(), head(8))


def frozen() -> nn.Sequential:
    net = small()
    net[0].requires_grad_(False)
    net[3].bias.requires_grad_(False)
    return net


def mlp(ending: Callable[[Tensor, Tensor], Any]) -> Net:
    """Two layers; ``ending`` packs their outputs."""
    return Net(lambda m, x: ending(m.b(h := F.relu(m.a(x))), h), a=nn.Linear(5, 8), b=nn.Linear(8, 3))


SMALL, MLP = ({"0": 6, "3": 8}, {"5.2": "returns"}), ({"a": 8}, {"b": "returns"})

STORAGE = [
    Case("half precision", small, IMAGE, *SMALL, dtype=torch.float16),
    Case("bfloat16", small, IMAGE, *SMALL, dtype=torch.bfloat16),
    Case("channels last", lambda: small().to(memory_format=torch.channels_last), IMAGE, *SMALL),
    Case("frozen layers", frozen, IMAGE, *SMALL),
    Case(
        "in double precision inside",
        lambda: Net(lambda m, x: m.b(F.relu(m.a(x).double()).to(x.dtype)), a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        (4, 5),
        *MLP,
    ),
]

SIGNATURES = [
    Case("outputs in a dict", lambda: mlp(lambda y, h: {"logits": y, "size": len(y)}), (4, 5), *MLP),
    Case("outputs in a dataclass", lambda: mlp(lambda y, h: Output(y)), (4, 5), *MLP),
    Case(
        "outputs in a named tuple, one of them a summary",
        lambda: mlp(lambda y, h: Pair(y, y.mean(0))),
        (4, 5),
        *MLP,
    ),
    Case(
        "a dataclass that returns the hidden units",
        lambda: mlp(Output),
        (4, 5),
        {},
        {"a": "returns", "b": "returns"},
    ),
    Case(
        "two inputs",
        lambda: Net(
            lambda m, x, z: m.c(F.relu(m.a(x) + m.b(z))), a=nn.Linear(5, 8), b=nn.Linear(4, 8), c=nn.Linear(8, 3)
        ),
        lambda: (torch.randn(4, 5), torch.randn(4, 4)),
        {"a": 8},
        {"c": "returns"},
    ),
    Case(
        "keyword inputs, one of them left out",
        lambda: Net(
            lambda m, *, image, mask=None: m.head(m.a(image) if mask is None else m.a(image) * mask),
            a=conv(3, 6),
            head=head(6),
        ),
        lambda: {"image": torch.randn(IMAGE)},
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "a mask over positions",
        lambda: Net(lambda m, image, mask: m.head(m.a(image) * mask), a=conv(3, 6), head=head(6)),
        lambda: {"image": torch.randn(IMAGE), "mask": torch.rand(2, 1, 8, 8) > 0.3},
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "a number and a flag beside the tensor",
        lambda: Net(
            lambda m, x, scale, activate: m.b(F.relu(m.a(x)) if activate else m.a(x)) * scale,
            a=nn.Linear(5, 8),
            b=nn.Linear(8, 3),
        ),
        lambda: (torch.randn(4, 5), 2.0, True),
        *MLP,
    ),
    Case(
        "a dict of tensors as one input",
        lambda: Net(lambda m, batch: m.b(F.relu(m.a(batch["x"]))), a=nn.Linear(5, 8), b=nn.Linear(8, 3)),
        lambda: ({"x": torch.randn(4, 5)},),
        *MLP,
    ),
    Case(
        "two heads",
        lambda: Net(
            lambda m, x: (m.label(y := F.relu(m.a(x))), m.box(y)),
            a=nn.Linear(5, 8),
            label=nn.Linear(8, 3),
            box=nn.Linear(8, 4),
        ),
        (4, 5),
        {"a": 8},
        {"label": "returns", "box": "returns"},
    ),
    Case(
        "the path that the values choose",
        lambda: Net(
            lambda m, x: m.c(m.a(x) if x.sum() > -1e9 else m.b(x)),
            a=nn.Linear(5, 8),
            b=nn.Linear(5, 8),
            c=nn.Linear(8, 3),
        ),
        (4, 5),
        {"a": 8},
        {"c": "returns"},
    ),
]

FORMATS = [*STORAGE, *SIGNATURES]
