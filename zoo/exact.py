"""One network through dither: analyse, attach, drop half of everything that can go, compare.

The network is attached in float32, as its user does, and compared in float64: the masked network (full size, zeros
where the plan drops) against the shrunk one, on inputs and a batch size that neither has seen.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import dither
from dither import pruning
from dither._inputs import call, evaluating, tensors
from dither.pruning.noise._gates import find_bank
from zoo.networks import Entry, doubled
from zoo.shares import shares

T = TypeVar("T")
TOLERANCE = 1e-10  # of the scale of the output, in float64
FRESH = 1000  # added to the seed for the inputs of the comparison


def examine(entry: Entry, seed: int) -> dict[str, Any]:
    """What dither makes of a network, as JSON-able values.

    ``result`` is "exact", "refused" (with ``reason``) or "wrong"; anything else that is raised is the caller's to name.
    """
    net = entry.build(seed)
    x = entry.inputs(1, seed)
    _warm_up()
    record: dict[str, Any] = {"params": count(net)}
    analysis, record["analyse_s"] = timed(lambda: pruning.analyse(net, x))
    record["spaces"] = len(analysis.spaces)
    try:
        noisy, record["attach_s"] = timed(lambda: pruning.attach(net, x))
    except ValueError as error:
        pinned = {space.name: space.reason or "the code fixes their number" for space in analysis.spaces}
        return {**record, "result": "refused", "reason": str(error), **shares(net, analysis, pinned)}
    bank = find_bank(noisy)
    whole = {**{s.name: s.reason for s in analysis.spaces if s.reason}, **getattr(bank, "whole", {})}
    record |= {"free": len(pruning.gates(noisy)), **shares(net, analysis, whole)}
    try:
        return {**record, **compare(entry, net.double(), noisy.double(), seed)}
    except pruning.ShrinkError as error:
        return {**record, "result": "refused", "reason": f"shrink: {error}"}


def compare(entry: Entry, net: nn.Module, noisy: nn.Module, seed: int) -> dict[str, Any]:
    """Half of all units of ``noisy`` dropped at random: the masked network against the shrunk one, in float64."""
    x, fresh = (doubled(entry.inputs(batch, at)) for batch, at in ((1, seed), (2, seed + FRESH)))
    drown_half(noisy, seed)
    plan = pruning.plan(noisy, x)
    masked = pruning.masked(noisy, plan)
    small, seconds = timed(lambda: pruning.shrink(noisy, plan, x))
    outputs = [run(model, fresh) for model in (net, masked, small)]
    error = largest_difference(outputs[1], outputs[2])
    return {
        "result": "exact" if error <= TOLERANCE else "wrong",
        "shrink_s": seconds,
        "difference": error,
        "effect": largest_difference(outputs[0], outputs[1]),
        "params_left": count(small),
        "difference_32": largest_difference(*(run(m.float(), entry.inputs(2, seed + FRESH)) for m in (masked, small))),
        "reloaded": reloads(entry, small, seed),
    }


def reloads(entry: Entry, small: nn.Module, seed: int) -> str:
    """Whether ``small`` (float32 by now), saved and loaded into a fresh network, gives the same bits: "same" if so."""
    x = entry.inputs(2, seed + FRESH)
    try:
        with tempfile.TemporaryDirectory() as folder:
            dither.save(small, Path(folder) / "small.safetensors")
            again = dither.load(entry.build(seed + 1), Path(folder) / "small.safetensors")
        same = all(torch.equal(a, b) for a, b in zip(run(small, x), run(again, x), strict=True))
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return "same" if same else "other outputs"


def drown_half(net: nn.Module, seed: int) -> None:
    """Give about half of all units, at random, so much noise that their signal-to-noise ratio is far below 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in pruning.gates(net).values():
            drop = torch.rand(layer.num_features, generator=generator) < 0.5
            layer.loc.copy_(torch.where(drop, -10.0, -0.3 * torch.rand(layer.num_features, generator=generator)))
            layer.log_scale.copy_(torch.where(drop, 2.0, -3.0))


def run(net: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """The tensors that ``net`` returns in eval mode."""
    with evaluating(net):
        return tensors(call(net, inputs))


def largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Over all outputs, the largest difference on that output's scale; infinity where it cannot be told."""
    worst = 0.0
    for one, other in zip(a, b, strict=True):
        if one.shape != other.shape or not bool(one.isfinite().all() and other.isfinite().all()):
            return float("inf")
        if one.is_floating_point() and one.numel() and float(one.abs().max()) > 0:
            worst = max(worst, float((one - other).abs().max() / one.abs().max()))
    return worst


def timed(task: Callable[[], T]) -> tuple[T, list[float]]:
    """The answer of ``task``, with seconds on the clock and of the processor (one thread)."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = task()
    return answer, [time.perf_counter() - wall, time.process_time() - cpu]


def count(net: nn.Module) -> int:
    """Number of parameters, each shared one once."""
    return sum(p.numel() for p in net.parameters())


def _warm_up() -> None:
    """What torch imports on first use is no part of the time of the first network."""
    tiny = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    pruning.attach(copy.deepcopy(tiny), torch.randn(1, 3, 2, 2))
