"""Operators that look at all channels at once: what they touch stays whole, and the plan says which operator it was."""

from __future__ import annotations

import torch
from torch import nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

MIXERS = [
    Case(
        "softmax over channels",
        lambda: Net(lambda m, x: m.head(m.a(x).softmax(1)), a=conv(3, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "softmax", **OUTPUT},
    ),
    Case(
        "mean over channels",
        lambda: Net(lambda m, x: m.head(m.a(x).mean(1, keepdim=True)), a=conv(3, 6), head=head(1)),
        IMAGE,
        {},
        {"a": "mean", **OUTPUT},
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
    Case(
        "the strongest channel as a word",
        lambda: Net(
            lambda m, x: m.head(y := m.a(x)) + m.b(m.e(y.mean((2, 3)).argmax(1))),
            a=conv(3, 6),
            head=head(6),
            e=nn.Embedding(6, 8),
            b=nn.Linear(8, 3),
        ),
        IMAGE,
        {"e": 8},
        {"a": "argmax", **OUTPUT},
    ),
]
