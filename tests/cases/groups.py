"""Grouped convolutions: whole groups go where they are small, else the same positions of every group."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


def shuffled(x: Tensor, groups: int) -> Tensor:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


GROUPS = [
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
    Case(
        "depthwise after a concat",
        lambda: Net(
            lambda m, x: m.head(m.d(torch.cat([m.a(x), m.b(x)], 1))),
            a=conv(3, 4),
            b=conv(3, 6),
            d=conv(10, 10, groups=10),
            head=head(10),
        ),
        IMAGE,
        {"a": 4, "b": 6},
        OUTPUT,
    ),
    Case(
        "an inverted residual block",
        lambda: Net(
            lambda m, x: m.head((y := m.stem(x)) + m.down(F.relu6(m.d(F.relu6(m.up(y)))))),
            stem=conv(3, 4),
            up=conv(4, 12, 1),
            d=conv(12, 12, groups=12),
            down=conv(12, 4, 1),
            head=head(4),
        ),
        IMAGE,
        {"stem": 4, "up": 12},
        OUTPUT,
    ),
    Case(
        "two large groups",
        lambda: Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 12), g=conv(12, 8, groups=2), head=head(8)),
        IMAGE,
        {"a": 6, "g": 4},
        OUTPUT,
    ),
    Case(
        "many small groups",
        lambda: Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 12), g=conv(12, 12, groups=6), head=head(12)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "a ResNeXt block",
        lambda: Net(
            lambda m, x: m.head(
                F.relu((y := m.stem(x)) + m.c(F.relu(m.norm2(m.b(F.relu(m.norm1(m.a(y)))))))),
            ),
            stem=conv(3, 6),
            a=conv(6, 16, 1, bias=False),
            norm1=nn.BatchNorm2d(16),
            b=conv(16, 16, groups=8, bias=False),
            norm2=nn.BatchNorm2d(16),
            c=conv(16, 6, 1),
            head=head(6),
        ),
        IMAGE,
        {"stem": 6, "a": 8},
        OUTPUT,
    ),
    Case(
        "grouped, shuffled, grouped",
        lambda: Net(
            lambda m, x: m.head(m.c(shuffled(m.b(m.a(x)), 2))),
            a=conv(3, 8),
            b=conv(8, 8, 1, groups=2),
            c=conv(8, 8, 1, groups=2),
            head=head(8),
        ),
        IMAGE,
        {"a": 4, "b": 2, "c": 4},
        OUTPUT,
    ),
    Case(
        "grouped in one dimension",
        lambda: nn.Sequential(
            nn.Conv1d(2, 12, 3), nn.ReLU(), nn.Conv1d(12, 12, 3, groups=6), nn.Conv1d(12, 4, 1), nn.Flatten()
        ),
        (2, 2, 12),
        {"0": 6},
        {"3": "returns"},
    ),
    Case(
        "a grouped transposed convolution",
        lambda: Net(
            lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 8), g=nn.ConvTranspose2d(8, 8, 2, 2, groups=4), head=head(8)
        ),
        IMAGE,
        {"a": 4},
        OUTPUT,
    ),
]
