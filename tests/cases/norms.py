"""Norms: those that look at one channel at a time, those of groups, and those that need all channels."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head


def normed(name: str, channels: int, norm: nn.Module, removable: dict[str, int], whole: dict[str, str]) -> Case:
    """A convolution, a norm, a convolution, a head."""
    return Case(
        name,
        lambda: Net(
            lambda m, x: m.head(m.b(F.relu(m.norm(m.a(x))))),
            a=conv(3, channels),
            norm=copy.deepcopy(norm),
            b=conv(channels, 4),
            head=head(4),
        ),
        IMAGE,
        {**removable, "b": 4},
        {**whole, **OUTPUT},
    )


def tokens(name: str, norm: nn.Module, removable: dict[str, int], whole: dict[str, str]) -> Case:
    """The residual stream of a transformer and the hidden units of its block, with the norm in front of both."""
    return Case(
        name,
        lambda: Net(
            lambda m, x: m.head(m.norm((y := m.a(x)) + m.down(F.gelu(m.up(m.norm(y)))))),
            a=nn.Linear(5, 6),
            norm=copy.deepcopy(norm),
            up=nn.Linear(6, 12),
            down=nn.Linear(12, 6),
            head=nn.Linear(6, 3),
        ),
        (2, 7, 5),
        {**removable, "up": 12},
        {**whole, "head": "returns"},
    )


NORMS = [
    normed("InstanceNorm", 6, nn.InstanceNorm2d(6), {"a": 6}, {}),
    normed("InstanceNorm with a scale", 6, nn.InstanceNorm2d(6, affine=True), {"a": 6}, {}),
    normed("InstanceNorm with statistics", 6, nn.InstanceNorm2d(6, track_running_stats=True), {"a": 6}, {}),
    normed("GroupNorm: whole groups", 8, nn.GroupNorm(4, 8), {"a": 4}, {}),
    normed("GroupNorm without a scale", 8, nn.GroupNorm(4, 8, affine=False), {"a": 4}, {}),
    normed("GroupNorm of single channels", 6, nn.GroupNorm(6, 6), {"a": 6}, {}),
    normed("GroupNorm of all channels", 6, nn.GroupNorm(1, 6), {}, {"a": "group_norm"}),
    tokens("a stream under LayerNorm, hidden units without", nn.LayerNorm(6), {}, {"a": "layer_norm"}),
    tokens("a stream under RMSNorm", nn.RMSNorm(6), {}, {"a": "mean"}),
    Case(
        "LayerNorm over hidden units",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        (4, 5),
        {"2": 6},
        {"0": "layer_norm", "4": "returns"},
    ),
    Case(
        "LayerNorm over positions only",
        lambda: Net(lambda m, x: m.head(m.norm(m.a(x))), a=conv(3, 6), norm=nn.LayerNorm([8, 8]), head=head(6)),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "LayerNorm of channels that come last",
        lambda: Net(
            lambda m, x: m.head(m.b(m.norm(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
            a=conv(3, 6),
            norm=nn.LayerNorm(6),
            b=conv(6, 4),
            head=head(4),
        ),
        IMAGE,
        {"b": 4},
        {"a": "layer_norm", **OUTPUT},
    ),
    Case(
        "local response norm",
        lambda: Net(lambda m, x: m.head(m.norm(m.a(x))), a=conv(3, 6), norm=nn.LocalResponseNorm(2), head=head(6)),
        IMAGE,
        {},
        {"a": "in norm", **OUTPUT},
    ),
    Case(
        "normalised over channels",
        lambda: Net(lambda m, x: m.head(F.normalize(m.a(x))), a=conv(3, 6), head=head(6)),
        IMAGE,
        {},
        {"a": "vector_norm", **OUTPUT},
    ),
]
