"""Where removing channels by the shapes of layers alone runs without an error and computes something else.

Each network is the smallest one in which that happened to other tools, or would have happened here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


def shifted(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm that turns a channel of zeros into one of ones."""
    norm = nn.BatchNorm2d(channels)
    nn.init.ones_(norm.bias)
    return norm


def regrouped(m: Net, x: Tensor) -> Tensor:
    """Grouped queries: two heads of queries, of width 2, to each head of keys and values."""
    q = m.q(x).unflatten(-1, (-1, 2)).transpose(1, 2)
    k, v = (f(x).unflatten(-1, (-1, 2)).transpose(1, 2).repeat_interleave(2, 1) for f in (m.k, m.v))
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


SILENT = [
    # What is zero before BatchNorm is a constant behind it, and the next convolution pads that constant with zeros.
    Case(
        "zero before BatchNorm is not zero behind it",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.b(F.relu(m.norm(m.a(x)))))),
            a=conv(3, 6),
            norm=shifted(6),
            b=conv(6, 5),
            head=head(5),
        ),
        IMAGE,
        {"a": 6, "b": 5},
        OUTPUT,
    ),
    # A channel of the stream is dead only where every branch that is added to it is dead.
    Case(
        "a branch that is zero does not make the sum zero",
        lambda: Net(
            lambda m, x: m.head(F.relu((z := F.relu((y := m.stem(x)) + m.a(y))) + m.b(z))),
            stem=conv(3, 6),
            a=nn.Sequential(conv(6, 6), nn.BatchNorm2d(6)),
            b=nn.Sequential(conv(6, 4), nn.ReLU(), conv(4, 6)),
            head=head(6),
        ),
        IMAGE,
        {"stem": 6, "b.0": 4},
        OUTPUT,
    ),
    # Filter i of a depthwise convolution makes its bias of a channel of zeros.
    Case(
        "a depthwise convolution has biases",
        lambda: Net(
            lambda m, x: m.head(m.out(F.relu(m.deep(m.wide(x))))),
            wide=conv(3, 6, 1),
            deep=nn.Sequential(conv(6, 6, groups=6), shifted(6)),
            out=conv(6, 4, 1),
            head=head(4),
        ),
        IMAGE,
        {"wide": 6, "out": 4},
        OUTPUT,
    ),
    # One channel less, and every other channel of its group is normalised by something else.
    Case(
        "GroupNorm counts the channels of its groups",
        lambda: Net(
            lambda m, x: m.head(m.out(F.relu(m.norm(m.a(x))))),
            a=conv(3, 12),
            norm=nn.GroupNorm(3, 12),
            out=conv(12, 4),
            head=head(4),
        ),
        IMAGE,
        {"a": 3, "out": 4},
        OUTPUT,
    ),
    # The same over the whole width; the hidden units of the block are free.
    Case(
        "LayerNorm counts the channels of the stream",
        lambda: Net(
            lambda m, x: m.out(m.norm((y := m.a(x)) + m.down(m.up(y).relu())).mean(1)),
            a=nn.Linear(5, 6),
            up=nn.Linear(6, 8),
            down=nn.Linear(8, 6),
            norm=nn.LayerNorm(6),
            out=nn.Linear(6, 3),
        ),
        (2, 7, 5),
        {"up": 8},
        {"a": "layer_norm", "out": "returns"},
    ),
    # Without the first channel, the second group begins one channel later.
    Case(
        "a grouped convolution deals its inputs out by position",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.b(F.relu(m.a(x))))),
            a=conv(3, 16),
            b=conv(16, 16, groups=2),
            head=head(16),
        ),
        IMAGE,
        {"a": 8, "b": 8},
        OUTPUT,
    ),
    # A head of queries that goes alone hands the next one to other keys.
    Case(
        "heads that a view deals out",
        lambda: Net(regrouped, q=nn.Linear(8, 12), k=nn.Linear(8, 6), v=nn.Linear(8, 6), out=nn.Linear(12, 3)),
        (2, 5, 8),
        {"q": 3},
        {"out": "returns"},
    ),
    # Its inputs and its outputs are one set of channels, in every call.
    Case(
        "a layer that is called on its own output",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.b(y := F.relu(m.b(F.relu(m.a(x)))))) + y),
            a=conv(3, 6),
            b=conv(6, 6),
            head=head(6),
        ),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    # One norm, two streams: its statistics belong to both.
    Case(
        "a BatchNorm that two streams share",
        lambda: Net(
            lambda m, x: m.head(torch.cat([m.norm(m.a(x)), m.norm(m.b(x))], 1)),
            a=conv(3, 6),
            b=conv(3, 6),
            norm=shifted(6),
            head=head(12),
        ),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
]
