"""Random networks with noise that was placed by hand: what is removed is exact, at other sizes too, and never wrong."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning import LogNormalNoise
from tests.cases import conv
from tests.pruning.test_cases import assert_same, drown_half

NETWORKS = 30  # beside the 200 of test_random.py, which have other steps
LOSE = 0.3  # at least this share of all networks loses channels, and a tenth of them constants
STREAM = [  # one tensor in, one of the same shape out
    lambda a: a + 1.0,
    lambda a: 0.5 - a,
    lambda a: a + torch.ones_like(a),
    lambda a: torch.where(a > 0, a, torch.zeros_like(a) - 1),
    lambda a: F.interpolate(a, scale_factor=2)[:, :, ::2, ::2],
    lambda a: torch.zeros_like(a).add_(a).mul_(2),
    lambda a: in_place(a, lambda part: part.add_(1.0)),
    lambda a: in_place(a, lambda part: part.sigmoid_()),
    lambda a: a.flip(-1).transpose(2, 3),
]
MEETING = [  # two tensors of one shape in
    lambda a, b: a + b,
    lambda a, b: a * torch.sigmoid(b),
    torch.maximum,
    lambda a, b: torch.cat([a, b], 1),
    lambda a, b: in_place(a, lambda part: part.copy_(b[:, :, : part.shape[2]])),
]


def in_place(a: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
    """Through views of the upper and the lower part."""
    a = a.clone()
    write(a[:, :, :3])
    write(a[:, :, 3:])
    return a


def layers(width: int) -> list[nn.Module]:
    """Layers that keep the width; noise and BatchNorm more often than others."""
    return [
        *(LogNormalNoise(width) for _ in range(4)),
        *(nn.BatchNorm2d(width) for _ in range(3)),
        nn.InstanceNorm2d(width, affine=True),
        nn.PReLU(width),
        *(nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.LeakyReLU(), nn.Hardtanh(0.2, 1.0), nn.Softplus(), nn.Hardswish()),
        *(nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.Conv2d(width, width, 1, groups=width, bias=False),
        nn.Conv2d(width, width, 1, groups=2),
    ]


class Drawn(nn.Module):
    """A random network: each step takes the newest tensor, or now and then an older one."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.layers, self.steps, widths = nn.ModuleList([conv(3, 6), LogNormalNoise(6)]), [], [6]
        for _ in range(draw.randint(4, 10)):
            at = -1 if draw.random() < 0.8 else draw.randrange(len(widths))
            width, kind = widths[at], draw.choice(["layer"] * 4 + ["read", "stream", "meet"])
            same = [i for i, w in enumerate(widths) if w == width]
            if kind == "layer":
                self.layers.append(draw.choice(layers(width)))
            elif kind == "read":
                size = draw.choice([1, 3])
                reader = nn.Conv2d(width, 6, size, padding=size // 2, bias=draw.random() < 0.5)
                self.layers.append(nn.Sequential(reader, LogNormalNoise(6)))
                width = 6
            chosen = draw.choice(STREAM if kind == "stream" else MEETING)
            self.steps.append((kind, at, draw.choice(same), chosen, len(self.layers) - 1))
            widths.append(2 * width if kind == "meet" and chosen is MEETING[3] else width)
        self.heads = nn.ModuleList([conv(widths[-1], 2), nn.Conv2d(widths[-1], 2, 1, bias=False)])
        self.linear = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[1](self.layers[0](x))]
        for kind, at, other, function, layer in self.steps:
            a = values[at]
            value = self.layers[layer](a) if kind in ("layer", "read") else None
            if value is None:
                value = function(a) if kind == "stream" else function(a, values[other])
            values.append(value)
        last = values[-1]
        return sum(head(last).mean((2, 3)) for head in self.heads) + self.linear(last.mean((2, 3)))


def build(seed: int) -> nn.Module:
    net = Drawn(seed).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            nn.init.uniform_(module.weight, -2.0, 2.0)
            nn.init.normal_(module.bias)
    drown_half(net, seed)
    return net


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(NETWORKS))
def test_exact_or_refused(seed: int) -> None:
    net, x = build(seed), images(2, 3, 8, 8)
    plan = pruning.plan(net, x)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    for other in (images(3, 3, 8, 8), images(1, 3, 12, 12)):
        assert_same(whole(other) + 1, small(other) + 1)  # of a network that is all dead, too


def test_the_random_networks_are_no_idle_ones() -> None:
    found = [[s for s in pruning.analyse(build(seed), images(1, 3, 8, 8)).spaces if s.noise] for seed in range(30)]
    assert sum(any(s.reason is None for s in spaces) for spaces in found) > LOSE * len(found)
    assert sum(any(s.constants for s in spaces) for spaces in found) > LOSE / 3 * len(found)
