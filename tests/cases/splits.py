"""Where a tensor is taken apart: parts of equal size, parts of a fixed size, and the shuffle of a split."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

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
