"""Where tensors meet: what is added or multiplied goes together, what is concatenated goes on its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

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
