"""Code that takes the width of one tensor for that of another: right until they lose different numbers of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import Case, Net


def confused(
    name: str, wide: tuple[int, int], code: Callable[[Any, Tensor, Tensor], Tensor], removable: str, fixed: str
) -> Case:
    """Two branches ``a`` and ``b``, and ``code`` between the second one and its reader; ``e`` is nobody's business."""
    size = {"a": wide[0], "b": wide[1], "e": 8}

    def run(m: Any, x: Tensor) -> Tensor:
        x = F.relu(m.e(x))
        h, g = F.relu(m.a(x)), F.relu(m.b(x))
        return m.c(h) + m.d(code(m, h, g))

    return Case(
        name,
        lambda: Net(
            run,
            e=nn.Linear(5, 8),
            a=nn.Linear(8, wide[0]),
            b=nn.Linear(8, wide[1]),
            c=nn.Linear(wide[0], 3),
            d=nn.Linear(wide[1], 3),
        ),
        (4, 5),
        {n: size[n] for n in removable.split()},
        {"c": "returns"},
        {n: size[n] for n in fixed.split()},
    )


WIDTHS = [
    confused("the shape of another tensor", (2, 2), lambda m, h, g: g.reshape(h.shape), "e", "a b"),
    confused("the width of another layer", (2, 2), lambda m, h, g: g.view(-1, len(m.a.weight)), "e", "a b"),
    confused("the width of a reader", (3, 3), lambda m, h, g: g.view(-1, m.c.weight.shape[1]), "e", "a b"),
    confused("twice the width of another tensor", (2, 4), lambda m, h, g: g.view(-1, 2 * h.shape[1]), "e", "a b"),
    confused("no more than the width of another tensor", (6, 6), lambda m, h, g: g[:, : h.shape[1]], "e b", "a"),
    confused(
        "filled up to the width of another tensor",
        (6, 6),
        lambda m, h, g: torch.cat([g, g.new_zeros(len(g), max(h.shape[1] - g.shape[1], 0))], 1),
        "e a",
        "b",
    ),
]
