"""Learned factors and shifts of channels, in every shape that people store them in."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


def vector(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def scaled(name: str, shape: tuple[int, ...], scale: Callable[[Tensor, Tensor], Tensor]) -> Case:
    """A convolution, then ``scale(its output, a parameter)``, then a head."""
    return Case(
        name,
        lambda: Net(lambda m, x: m.head(F.relu(scale(m.a(x), m.s))), a=conv(3, 6), s=vector(*shape), head=head(6)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    )


SCALES = [
    scaled("a factor of shape (C, 1, 1)", (6, 1, 1), lambda y, s: y * s),
    scaled("a factor of shape (1, C, 1, 1)", (1, 6, 1, 1), lambda y, s: y * s),
    scaled("a shift of shape (C,), reshaped in the code", (6,), lambda y, s: y + s.view(1, -1, 1, 1)),
    scaled("a factor of shape (C,), with channels last", (6,), lambda y, s: (y.permute(0, 2, 3, 1) * s).movedim(-1, 1)),
    scaled("a divisor that is made positive", (6, 1, 1), lambda y, s: y / s.exp()),
    scaled("a mixture of two branches", (6, 1, 1), lambda y, s: torch.lerp(y, y.tanh(), s.sigmoid())),
    scaled("a threshold for each channel", (6, 1, 1), lambda y, s: torch.where(y > s, y, s)),
    scaled("one number for all channels", (1,), lambda y, s: y * s),
    scaled("one number without dimensions", (), lambda y, s: y * s + s),
    Case(
        "a factor for each channel and position",
        lambda: Net(lambda m, x: m.head(m.a(x) * m.s), a=conv(3, 6), s=vector(6, 8, 8), head=head(6)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "LayerScale on a residual branch",
        lambda: Net(
            lambda m, x: m.head((y := m.a(x)) + m.s * m.b(F.gelu(m.up(y)))),
            a=nn.Linear(5, 6),
            up=nn.Linear(6, 12),
            b=nn.Linear(12, 6),
            s=vector(6),
            head=nn.Linear(6, 3),
        ),
        (4, 7, 5),
        {"a": 6, "up": 12},
        {"head": "returns"},
    ),
    Case(
        "features that scale and shift others",
        lambda: Net(
            lambda m, x, z: m.head(m.a(x) * (f := m.film(z)[:, :, None, None].chunk(2, 1))[0] + f[1]),
            a=conv(3, 6),
            film=nn.Linear(4, 12),
            head=head(6),
        ),
        lambda: (torch.randn(IMAGE), torch.randn(2, 4)),
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "a position embedding",
        lambda: Net(
            lambda m, x: m.head(F.gelu(m.a(x) + m.where)), a=nn.Linear(5, 6), where=vector(7, 6), head=nn.Linear(6, 3)
        ),
        (2, 7, 5),
        {"a": 6},
        {"head": "returns"},
    ),
    Case(
        "a class token in front",
        lambda: Net(
            lambda m, x: m.head(F.gelu(m.b(torch.cat([m.token.expand(len(x), -1, -1), m.a(x)], 1)))[:, 0]),
            a=nn.Linear(5, 6),
            token=vector(1, 1, 6),
            b=nn.Linear(6, 8),
            head=nn.Linear(8, 3),
        ),
        (2, 7, 5),
        {"a": 6, "b": 8},
        {"head": "returns"},
    ),
]
