"""Weights that are computed from other tensors before they are used: `attach` makes plain ones of them first."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def wrapped(name: str, wrap: Callable[[nn.Module], nn.Module]) -> Case:
    """Two convolutions whose weights are computed, and a head."""
    return Case(
        name,
        lambda: Net(lambda m, x: m.head(m.b(F.relu(m.a(x)))), a=wrap(conv(3, 6)), b=wrap(conv(6, 4)), head=head(4)),
        IMAGE,
        {"a": 6, "b": 4},
        OUTPUT,
    )


def doubled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Doubled())


WEIGHTS = [
    wrapped("weight norm", parametrizations.weight_norm),
    wrapped("spectral norm", parametrizations.spectral_norm),
    wrapped("a parametrization of the user's own", doubled),
]
