"""What a network costs: parameters, multiply-accumulates, bytes and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ._cost_report import Comparison as Comparison
from ._cost_report import Cost as Cost
from ._cost_report import Latency
from ._cost_report import Spread as Spread
from ._flops import counter
from ._inputs import Inputs, call, evaluating, tensors, with_batch
from ._modes import MODES, UnavailableError, eager, prepare

BATCH_SIZES = (1, 64)


def cost(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    modes: Sequence[str] = (),
    repeats: int = 30,
    warmup: int = 5,
) -> Cost:
    """Count and time one forward pass in eval mode without gradients; modes are put back afterwards.

    Multiply-accumulates are half of what ``torch.utils.flop_counter`` counts: contractions only. Normalisation,
    activations and pooling cost time but no MACs, which is why the time is measured as well. Batches are the example
    inputs, repeated along dimension 0. To compare two networks use `compare`: two calls of `cost` see two moods of the
    machine.

    Args:
        net: The network.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments, on the device of ``net``.
        batch_sizes: Batch sizes to time.
        modes: Other ways to run it, timed beside the plain call: "channels_last" (copies of weights and images in that
            memory format), "compiled" (``torch.compile``), "onnxruntime" (on the CPU, with as many threads as torch).
            What does not run here is left out, and the table says why.
        repeats: Timed passes for each batch size.
        warmup: Passes before them that are not timed.

    Returns:
        The `Cost`; its latencies are median and quartiles in seconds.

    Raises:
        ValueError: If ``repeats`` or a batch size is below 1, ``warmup`` below 0, or a mode unknown.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 10))
        >>> it = cost(net, torch.zeros(1, 1, 8, 8), batch_sizes=(1,), repeats=3)
        >>> it.params, it.macs, it.bytes     # macs: 4 * 9 * 36 + 144 * 10
        (1490, 2736, 5960)
        >>> it.latency[1].median > 0
        True
    """
    return _measure([net], example_inputs, batch_sizes, modes, repeats, warmup)[0][0]


def compare(
    original: nn.Module,
    small: nn.Module,
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    modes: Sequence[str] = (),
    repeats: int = 30,
    warmup: int = 5,
) -> Comparison:
    """Cost of two networks, timed in turns (A B, B A, A B, …) so that a drift of the machine hits both alike.

    Args:
        original: The network to compare with.
        small: The network that should be cheaper.
        example_inputs: What both read: a tensor, a tuple of arguments or a dict of keyword arguments.
        batch_sizes: Batch sizes to time.
        modes: Other ways to run both, as in `cost`; one that only one of them can be run in is left out.
        repeats: Timed passes of each network for each batch size.
        warmup: Passes before them that are not timed.

    Returns:
        The `Comparison`, with ratios above one where ``small`` saves.

    Raises:
        ValueError: If ``repeats`` or a batch size is below 1, ``warmup`` below 0, or a mode unknown.

    Example:
        >>> big, small = torch.nn.Linear(20, 10), torch.nn.Linear(20, 5)
        >>> compare(big, small, torch.zeros(1, 20), repeats=3).macs_ratio
        2.0
    """
    (first, second), times = _measure([original, small], example_inputs, batch_sizes, modes, repeats, warmup)
    ratios = {mode: {size: ratio(*pair) for size, pair in pairs.items()} for mode, pairs in times.items()}
    return Comparison(first, second, ratios.pop("eager"), ratios)


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Ratio of the medians, with the quartiles of the ratios of measurements made one after the other."""
    pairs = Spread.of([a / b for a, b in zip(numerator, denominator, strict=True)])
    return Spread(statistics.median(numerator) / statistics.median(denominator), pairs.lower, pairs.upper)


def time_in_turns(runs: Sequence[Callable[[], Any]], repeats: int, warmup: int) -> list[list[float]]:
    """Seconds of each call of each function; every round calls all of them, every second round in reverse order."""
    for run in runs:
        for _ in range(warmup):
            run()
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats):
        order = range(len(runs)) if turn % 2 == 0 else range(len(runs) - 1, -1, -1)
        for index in order:
            start = time.perf_counter()
            runs[index]()
            seconds[index].append(time.perf_counter() - start)
    return seconds


Seconds = dict[str, dict[int, list[list[float]]]]
"""By mode, batch size, network and turn."""


def _measure(
    nets: Sequence[nn.Module],
    inputs: Inputs,
    batch_sizes: Sequence[int],
    modes: Sequence[str],
    repeats: int,
    warmup: int,
) -> tuple[list[Cost], Seconds]:
    """Costs of the networks, and the raw seconds."""
    if repeats < 1 or warmup < 0 or any(size < 1 for size in batch_sizes):
        raise ValueError(f"need repeats >= 1, warmup >= 0 and batch sizes >= 1: {repeats=}, {warmup=}, {batch_sizes=}")
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise ValueError(f"unknown mode {unknown[0]!r}, known are {', '.join(MODES)}")
    fused = torch.backends.mha.get_fastpath_enabled()
    seconds: Seconds = {}
    unavailable: dict[str, str] = {}
    with evaluating(*nets):
        macs = [_macs(net, with_batch(inputs, 1)) for net in nets]
        torch.backends.mha.set_fastpath_enabled(fused)  # counted as its operators, timed as it is used
        batches = {size: with_batch(inputs, size) for size in batch_sizes}
        for mode in dict.fromkeys(("eager", *modes)):
            with _noting(unavailable, mode):
                ready = {size: _ready(mode, nets, batch) for size, batch in batches.items()}
                seconds[mode] = {size: time_in_turns(runs, repeats, warmup) for size, runs in ready.items()}
    costs = [
        Cost(
            params=sum(p.numel() for p in net.parameters()),
            macs=macs[i],
            bytes=sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers())),
            latency=_spreads(seconds["eager"], i),
            modes={mode: _spreads(times, i) for mode, times in seconds.items() if mode != "eager"},
            unavailable=unavailable,
            setting=_setting(net, inputs),
        )
        for i, net in enumerate(nets)
    ]
    return costs, seconds


def _ready(mode: str, nets: Sequence[nn.Module], batch: Inputs) -> list[Callable[[], Any]]:
    """What is timed. An error of a plain pass is the caller's own."""
    return [eager(net, batch) if mode == "eager" else prepare(mode, net, batch) for net in nets]


@contextmanager
def _noting(unavailable: dict[str, str], mode: str) -> Generator[None]:
    try:
        yield
    except UnavailableError as error:
        unavailable[mode] = str(error)


def _spreads(times: Mapping[int, list[list[float]]], net: int) -> Latency:
    return {size: Spread.of(rows[net]) for size, rows in times.items()}


def _macs(net: nn.Module, inputs: Inputs) -> int:
    with counter() as run:
        call(net, inputs)
    return run.get_total_flops() // 2


def _setting(net: nn.Module, inputs: Inputs) -> str:
    """What the times depend on, without the name of a machine."""
    kinds = sorted({t.device.type for t in (*tensors(inputs), *net.parameters())}) or ["cpu"]
    names = [torch.cuda.get_device_name() if kind == "cuda" else kind for kind in kinds]
    threads = torch.get_num_threads()
    return f"{', '.join(names)}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"
