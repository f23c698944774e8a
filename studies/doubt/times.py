"""The time of networks that are sampled, in passes of the one that is not, in turns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

import dither
from dither._cost import Spread, ratio, time_in_turns

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def in_passes(
    nets: Mapping[str, tuple[nn.Module, int]], x: Tensor, how: AbstractContextManager[object], repeats: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of every network for one batch, and their ratio to one pass of the first.

    Every network runs in both memory formats. The first ratio gives each the one that is faster for it, the first
    network too; the second is that of networks as they come, contiguous.

    Args:
        nets: each with the number of its samples; 0 is one pass.
        x: the batch.
        how: the precision.
        repeats: of each.
    """
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (net, num_samples) in nets.items():
        for layout, memory_format in FORMATS.items():
            laid_out = copy.deepcopy(net)
            laid_out.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
            runs[name, layout] = sampled(laid_out, x, num_samples, how) if num_samples else one_pass(laid_out, x, how)
    seconds = dict(zip(runs, time_in_turns(list(runs.values()), repeats, warmup=5), strict=True))
    fastest = {
        name: min((seconds[name, layout] for layout in FORMATS), key=lambda values: Spread.of(values).median)
        for name in nets
    }
    first, result = next(iter(nets)), {}
    for name in nets:
        relative = ratio(fastest[name], fastest[first])
        as_made = ratio(seconds[name, "contiguous"], seconds[first, "contiguous"])
        result[name] = {
            f"latency_ms_b{len(x)}": Spread.of(fastest[name]).median * 1e3,
            "time_of_dense_passes": relative.median,
            "time_of_dense_passes_quartiles": [relative.lower, relative.upper],
            "time_of_dense_passes_contiguous": as_made.median,
            "latency_ms_by_format": {f: Spread.of(seconds[name, f]).median * 1e3 for f in FORMATS},
        }
    return result


def one_pass(net: nn.Module, x: Tensor, how: AbstractContextManager[object]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad(), how:
            return net(x).softmax(1)

    return run


def sampled(net: nn.Module, x: Tensor, num_samples: int, how: AbstractContextManager[object]) -> Callable[[], object]:
    def run() -> object:
        with how:
            return dither.predict(net, x, num_samples).mean

    return run
