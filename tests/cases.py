"""The table of networks: one idea each, small enough to read, and what dither must say about it.

``removable`` are the channel spaces that can lose channels, by the name of the layer that writes them, with their size.
``whole`` are those that cannot, with a word of the reason. Whatever is removable must also be *exact*: half of all
channels are dropped at random, and the shrunk network must compute what the masked one does, to rounding in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    removable: Mapping[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:  # the name in test ids: the functions print an address that every worker has another of
        return self.name

    def inputs(self, seed: int = 1) -> Any:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """Layers by name and the forward pass as a function of them: ``Net(lambda m, x: m.b(m.a(x)), a=..., b=...)``."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def conv(c_in: int, c_out: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, padding=k // 2, **options)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


IMAGE, OUTPUT = (2, 3, 8, 8), {"head.2": "returns"}

# --- chains ----------------------------------------------------------------------------------------------------------
CHAINS = [
    Case(
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        (4, 5),
        {"0": 8, "2": 6},
        {"4": "returns"},
    ),
    Case(
        "mlp over positions",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3, bias=False)),
        (2, 7, 5),
        {"0": 8},
        {"2": "returns"},
    ),
    Case(
        "convolutions, flatten",
        lambda: nn.Sequential(conv(3, 6), nn.MaxPool2d(2), conv(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)),
        IMAGE,
        {"0": 6, "2": 8},
        {"5": "returns"},
    ),
    Case(
        "view that follows the tensor",
        lambda: Net(lambda m, x: m.head((y := m.a(x)).view(y.shape[0], -1)), a=conv(3, 6), head=nn.Linear(384, 3)),
        IMAGE,
        {"a": 6},
        {"head": "returns"},
    ),
    Case(
        "BatchNorm between",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.norm(m.a(x)))), a=conv(3, 6, bias=False), norm=nn.BatchNorm2d(6), head=head(6)
        ),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "BatchNorm without affine or statistics",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3)),
        (4, 5),
        {"0": 8},
        {"3": "returns"},
    ),
    Case(
        "one dimension",
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 4, 1), nn.Flatten()),
        (2, 2, 10),
        {"0": 6},
        {"3": "returns"},
    ),
    Case(
        "three dimensions",
        lambda: nn.Sequential(nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.MaxPool3d(2), nn.Conv3d(6, 4, 1)),
        (2, 1, 6, 6, 6),
        {"0": 6},
        {"3": "returns"},
    ),
    Case(
        "transposed convolution",
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, 2), nn.ReLU(), conv(8, 2)),
        IMAGE,
        {"0": 6, "2": 8},
        {"4": "returns"},
    ),
    Case(
        "depthwise",
        lambda: Net(lambda m, x: m.head(m.d(m.a(x))), a=conv(3, 6), d=conv(6, 6, groups=6), head=head(6)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "depthwise, two filters a channel",
        lambda: Net(lambda m, x: m.head(m.d(m.a(x))), a=conv(3, 6), d=conv(6, 12, groups=6), head=head(12)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
]

# --- joins -----------------------------------------------------------------------------------------------------------
JOINS = [
    Case(
        "residual block: the stream and the inside",
        lambda: Net(
            lambda m, x: m.head(F.relu((y := m.stem(x)) + m.b(F.relu(m.a(y))))),
            stem=conv(3, 6),
            a=conv(6, 8),
            b=conv(8, 6),
            head=head(6),
        ),
        IMAGE,
        {"stem": 6, "a": 8},
        OUTPUT,
    ),
    Case(
        "residual add in place",
        lambda: Net(
            lambda m, x: m.head(F.relu_(m.b(y := m.stem(x)).add_(y))), stem=conv(3, 6), b=conv(6, 6), head=head(6)
        ),
        IMAGE,
        {"stem": 6},
        OUTPUT,
    ),
    Case(
        "residual add to the network's input",
        lambda: Net(lambda m, x: m.head(x + m.b(m.a(x))), a=conv(3, 6), b=conv(6, 3), head=head(3)),
        IMAGE,
        {"a": 6},
        {"b": "network input", **OUTPUT},
    ),
    Case(
        "concat",
        lambda: Net(
            lambda m, x: m.head(m.c(torch.cat([m.a(x), m.b(x)], 1))),
            a=conv(3, 4),
            b=conv(3, 6),
            c=conv(10, 5),
            head=head(5),
        ),
        IMAGE,
        {"a": 4, "b": 6, "c": 5},
        OUTPUT,
    ),
    Case(
        "concat with the network's input",
        lambda: Net(lambda m, x: m.head(torch.cat([x, m.a(x)], 1)), a=conv(3, 4), head=head(7)),
        IMAGE,
        {"a": 4},
        OUTPUT,
    ),
    Case(
        "dense block",
        lambda: Net(
            lambda m, x: m.head(torch.cat([y := m.a(x), z := m.b(y), m.c(torch.cat([y, z], 1))], 1)),
            a=conv(3, 4),
            b=conv(4, 5),
            c=conv(9, 6),
            head=head(15),
        ),
        IMAGE,
        {"a": 4, "b": 5, "c": 6},
        OUTPUT,
    ),
    Case(
        "squeeze and excitation",
        lambda: Net(
            lambda m, x: m.head((y := m.a(x)) * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))),
            a=conv(3, 6),
            down=conv(6, 4, 1),
            up=conv(4, 6, 1),
            head=head(6),
        ),
        IMAGE,
        {"a": 6, "down": 4},
        OUTPUT,
    ),
    Case(
        "attention over positions broadcasts one channel",
        lambda: Net(
            lambda m, x: m.head((y := m.a(x)) * torch.sigmoid(m.gate(y))), a=conv(3, 6), gate=conv(6, 1), head=head(6)
        ),
        IMAGE,
        {"a": 6},
        {**OUTPUT},
    ),
    Case(
        "shortcut padded with zero channels",
        lambda: Net(
            lambda m, x: m.head(F.pad((y := m.a(x)), (0, 0, 0, 0, 2, 2)) + m.b(y)),
            a=conv(3, 4),
            b=conv(4, 8),
            head=head(8),
        ),
        IMAGE,
        {},
        {"a": "constant_pad_nd", "b": "constant", **OUTPUT},
    ),
]

# --- splits ----------------------------------------------------------------------------------------------------------
SPLITS = [
    Case(
        "chunk: the same positions of both halves",
        lambda: Net(
            lambda m, x: m.head((h := m.a(x).chunk(2, 1))[0] * torch.sigmoid(h[1])), a=conv(3, 8), head=head(4)
        ),
        IMAGE,
        {"a": 4},
        OUTPUT,
    ),
    Case(
        "chunk into two readers",
        lambda: Net(
            lambda m, x: m.head(m.b((h := m.a(x).chunk(2, 1))[0]) + m.c(h[1])),
            a=conv(3, 8),
            b=conv(4, 5),
            c=conv(4, 5),
            head=head(5),
        ),
        IMAGE,
        {"a": 4, "b": 5},
        OUTPUT,
    ),
    Case(
        "gated linear unit",
        lambda: Net(lambda m, x: m.head(F.glu(m.a(x), 1)), a=conv(3, 8), head=head(4)),
        IMAGE,
        {"a": 4},
        OUTPUT,
    ),
    Case(
        "split into fixed, unequal parts",
        lambda: Net(
            lambda m, x: m.head(torch.cat([(p := m.a(x).split([3, 5], 1))[1], p[0]], 1)), a=conv(3, 8), head=head(8)
        ),
        IMAGE,
        {},
        {"a": "fixed part", **OUTPUT},
    ),
    Case(
        "the first channels by position",
        lambda: Net(lambda m, x: m.head(m.a(x)[:, :5]), a=conv(3, 8), head=head(5)),
        IMAGE,
        {},
        {"a": "fixed part", **OUTPUT},
    ),
    Case(
        "one channel by position",
        lambda: Net(lambda m, x: m.head(m.a(x)[:, 2].unsqueeze(1)), a=conv(3, 8), head=head(1)),
        IMAGE,
        {},
        {"a": "fixed part", **OUTPUT},
    ),
    Case(
        "channel shuffle",
        lambda: Net(
            lambda m, x: m.head((y := m.a(x)).view(len(y), 2, -1, 8, 8).transpose(1, 2).reshape(len(y), -1, 8, 8)),
            a=conv(3, 8),
            head=head(8),
        ),
        IMAGE,
        {"a": 4},
        OUTPUT,
    ),
]

# --- sharing ---------------------------------------------------------------------------------------------------------
SHARING = [
    Case(
        "a layer used twice",
        lambda: Net(lambda m, x: m.head(m.b(F.relu(m.b(m.a(x))))), a=conv(3, 6), b=conv(6, 6), head=head(6)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "one layer, two inputs",
        lambda: Net(
            lambda m, x: m.head(m.s(m.a(x)) + m.s(m.b(x))), a=conv(3, 6), b=conv(3, 6), s=conv(6, 5), head=head(5)
        ),
        IMAGE,
        {"a": 6, "s": 5},
        OUTPUT,
    ),
    Case(
        "a weight held by two layers",
        lambda: _tie(
            nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
        ),
        (4, 5),
        {"0": 6},
        {"5": "returns"},
    ),
    Case(
        "functional calls on parameters",
        lambda: Net(
            lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)) * m.scale, m.v),
            w=nn.Parameter(torch.randn(8, 5)),
            b=nn.Parameter(torch.randn(8)),
            scale=nn.Parameter(torch.randn(8)),
            v=nn.Parameter(torch.randn(3, 8)),
        ),
        (4, 5),
        {"w": 8},
        {},
    ),
    Case(
        "x @ W, with W stored inputs first",
        lambda: Net(
            lambda m, x: F.relu(x @ m.w) @ m.v, w=nn.Parameter(torch.randn(5, 8)), v=nn.Parameter(torch.randn(8, 3))
        ),
        (4, 5),
        {"w": 8},
        {},
    ),
    Case(
        "W @ x with a bias",
        lambda: Net(
            lambda m, x: m.v @ F.relu(m.w @ x.mT + m.b[:, None]),
            w=nn.Parameter(torch.randn(8, 5)),
            b=nn.Parameter(torch.randn(8)),
            v=nn.Parameter(torch.randn(3, 8)),
        ),
        (4, 5),
        {"w": 8},
    ),
    Case(
        "an embedding tied to the output layer",
        lambda: Net(
            lambda m, x: F.linear(m.b(F.relu(m.a(F.linear(x, m.e.weight.mT)))), m.e.weight),
            e=nn.Embedding(5, 6),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 6),
        ),
        (4, 5),
        {"a": 8},
        {"e": "both writes and reads"},
    ),
]


def _tie(net: nn.Sequential) -> nn.Sequential:
    net[4].weight = net[2].weight
    return net


# --- what mixes channels stays whole ---------------------------------------------------------------------------------
MIXERS = [
    Case(
        "softmax over channels",
        lambda: Net(lambda m, x: m.head(m.a(x).softmax(1)), a=conv(3, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "softmax", **OUTPUT},
    ),
    Case(
        "LayerNorm",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        (4, 5),
        {"2": 6},
        {"0": "layer_norm", "4": "returns"},
    ),
    Case(
        "GroupNorm",
        lambda: Net(lambda m, x: m.head(m.norm(m.a(x))), a=conv(3, 6), norm=nn.GroupNorm(2, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "group_norm", **OUTPUT},
    ),
    Case(
        "grouped convolution",
        lambda: Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 6), g=conv(6, 8, groups=2), head=head(8)),
        IMAGE,
        {},
        {"a": "convolution", **OUTPUT},
    ),
    Case(
        "mean over channels",
        lambda: Net(lambda m, x: m.head(m.a(x).mean(1, keepdim=True)), a=conv(3, 6), head=head(1)),
        IMAGE,
        {},
        {"a": "mean", **OUTPUT},
    ),
    Case(
        "local response norm",
        lambda: Net(lambda m, x: m.head(m.norm(m.a(x))), a=conv(3, 6), norm=nn.LocalResponseNorm(2), head=head(6)),
        IMAGE,
        {},
        {"a": "in norm mixes", **OUTPUT},
    ),
    Case(
        "normalised over channels",
        lambda: Net(lambda m, x: m.head(F.normalize(m.a(x))), a=conv(3, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "vector_norm", **OUTPUT},
    ),
    Case(
        "a constant with one value a channel",
        lambda: Net(lambda m, x: m.head(m.a(x) + torch.arange(6.0).view(-1, 1, 1)), a=conv(3, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "constant", **OUTPUT},
    ),
    Case(
        "the product of two activations",
        lambda: Net(lambda m, x: m.head((y := m.a(x).flatten(2)) @ y.mT @ y), a=conv(3, 6), head=nn.Flatten()),
        IMAGE,
        {},
        {"a": "bmm"},
    ),
]

# --- every pooling and activation of torch.nn ------------------------------------------------------------------------
POOLINGS = [
    nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2),
    nn.LPPool2d(2, 2), nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(1),
    nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5), nn.Dropout(), nn.Dropout2d(),
    nn.Identity(), nn.BatchNorm2d(6),
]  # fmt: skip
ACTIVATIONS = [
    nn.ELU(), nn.Hardshrink(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardswish(), nn.LeakyReLU(), nn.LogSigmoid(),
    nn.PReLU(), nn.PReLU(6), nn.ReLU(), nn.ReLU6(), nn.RReLU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"),
    nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softshrink(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
    nn.Threshold(0.1, 0.2), nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardswish(inplace=True),
    nn.LeakyReLU(0.1, inplace=True), nn.Hardtanh(inplace=True), nn.ELU(inplace=True), nn.Mish(inplace=True),
]  # fmt: skip
LAYERS = [
    Case(
        f"between: {layer!r}",
        lambda layer=layer: Net(
            lambda m, x: m.head(m.b(m.f(m.a(x)))), a=conv(3, 6), f=layer, b=conv(6, 4), head=head(4)
        ),
        IMAGE,
        {"a": 6, "b": 4},
        OUTPUT,
    )
    for layer in [*ACTIVATIONS, *POOLINGS]
]

CASES = [*CHAINS, *JOINS, *SPLITS, *SHARING, *MIXERS, *LAYERS]
