"""Which share of a network's parameters can go with a channel, and what holds the others back."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.pruning import Analysis

Marks = dict[str, dict[int, Tensor]]
"""By tensor name and dimension, a mask of indices."""


def shares(net: nn.Module, analysis: Analysis, whole: Mapping[str, str]) -> dict[str, Any]:
    """Shares of the parameters of ``net``.

    Args:
        net: The network.
        analysis: Its channel spaces.
        whole: Why a space stays whole, by its name; the others can lose channels.

    Returns:
        ``removable``, the share that lies in a row, column or filter of a channel that can go, and ``pinned``, the
        share of the others that each reason touches; one parameter may be held by two reasons, one on each side.
    """
    free: Marks = defaultdict(dict)
    held: dict[str, Marks] = defaultdict(lambda: defaultdict(dict))
    for space in analysis.spaces:
        marks = held[plain(whole[space.name])] if space.name in whole else free
        for (name, dim), channel in space.slots.items():
            marks[name][dim] = marks[name].get(dim, torch.zeros_like(channel, dtype=torch.bool)) | (channel >= 0)
    total = removable = 0
    pinned: dict[str, int] = defaultdict(int)
    for name, tensor in net.named_parameters():
        rest = {d: ~free[name].get(d, torch.zeros(size, dtype=torch.bool)) for d, size in enumerate(tensor.shape)}
        left = _product(rest)
        total, removable = total + tensor.numel(), removable + tensor.numel() - left
        touched = {reason: marks[name] for reason, marks in held.items() if name in marks}
        for reason, marks in touched.items():
            pinned[reason] += left - _product({d: r & ~marks[d] if d in marks else r for d, r in rest.items()})
        if not touched:
            pinned["this run does not use them as weights"] += left
    shares_of = {reason: number / total for reason, number in sorted(pinned.items(), key=lambda p: -p[1]) if number}
    return {"removable": removable / total, "pinned": shares_of}


def plain(reason: str) -> str:
    """A reason without the names, numbers and files of one network, so that the same reason is the same text.

    >>> plain('"layer1.0.conv1" reads them, but "conv2" pads 12 rows')
    '"…" reads them, but "…" pads … rows'
    >>> plain("native_layer_norm in h.0.ln normalises over them")
    'native_layer_norm in … normalises over them'
    """
    reason = re.sub(r'"[^"]*"', '"…"', plain_paths(reason))
    reason = reason.removeprefix('as "…": ').partition(" that would have to change")[0]
    reason = re.sub(r"\bin [\w.]+\.\w+(?= |$)", "in …", reason)
    return re.sub(r"(?<![\w/])\d[\d.]*(e[+-]\d+)?", "…", reason)


def plain_paths(text: str) -> str:
    """A text with files named from their package on, not from the root of this machine.

    >>> plain_paths("in site-packages/timm/layers/mlp.py:40 `x.view(12)`")
    'in timm/layers/mlp.py:40 `x.view(12)`'
    """
    return re.sub(r"\S*(?:site-packages|dist-packages|lib/python[\d.]+)/", "", text)


def _product(marks: Mapping[int, Tensor]) -> int:
    product = 1
    for mark in marks.values():
        product *= int(mark.sum())
    return product
