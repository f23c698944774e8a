"""Parameters without a layer of their own: layers used twice, tied weights, functional calls, stored transposed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

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
