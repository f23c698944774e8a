"""What a network costs: parameters, multiply-accumulates, bytes and measured time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ._inputs import Inputs, call, evaluating, tensors, with_batch

BATCH_SIZES = (1, 64)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and quartiles of ``values``; of a single one, that value three times."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Cost:
    """What a network costs. Printable; ``to_dict()`` is JSON.

    Attributes:
        params: Number of parameters; tied ones count once.
        macs: Multiply-accumulates of one example, contractions only (convolutions, matrix products, attention).
        bytes: Bytes of parameters and buffers.
        latency: Seconds of one forward pass, by batch size.
    """

    params: int
    macs: int
    bytes: int
    latency: dict[int, Spread]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        return _table({"": self})


@dataclass(frozen=True)
class Comparison:
    """Two networks measured in one run, in turns. Ratios are original divided by small: above one means saved.

    Attributes:
        original: Cost of the first network.
        small: Cost of the second network.
        speedup: Ratio of the latencies by batch size: the ratio of the medians, and the quartiles of the ratios of
            neighbouring runs.
    """

    original: Cost
    small: Cost
    speedup: dict[int, Spread]

    @property
    def params_ratio(self) -> float:
        """Parameters of the original divided by those of the small network."""
        return self.original.params / self.small.params if self.small.params else float("inf")

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates of the original divided by those of the small network."""
        return self.original.macs / self.small.macs if self.small.macs else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and numbers, the ratios included."""
        return asdict(self) | {"params_ratio": self.params_ratio, "macs_ratio": self.macs_ratio}

    def __str__(self) -> str:
        return _table({"original": self.original, "small": self.small}, self)


def cost(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
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
        repeats: Timed passes for each batch size.
        warmup: Passes before them that are not timed.

    Returns:
        The `Cost`; its latencies are median and quartiles in seconds.

    Raises:
        ValueError: If ``repeats`` or a batch size is below 1, or ``warmup`` below 0.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 10))
        >>> it = cost(net, torch.zeros(1, 1, 8, 8), batch_sizes=(1,), repeats=3)
        >>> it.params, it.macs, it.bytes     # macs: 4 * 9 * 36 + 144 * 10
        (1490, 2736, 5960)
        >>> it.latency[1].median > 0
        True
    """
    return _measure([net], example_inputs, batch_sizes, repeats, warmup)[0][0]


def compare(
    original: nn.Module,
    small: nn.Module,
    example_inputs: Inputs,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    repeats: int = 30,
    warmup: int = 5,
) -> Comparison:
    """Cost of two networks, timed in turns (A B, B A, A B, …) so that a drift of the machine hits both alike.

    Args:
        original: The network to compare with.
        small: The network that should be cheaper.
        example_inputs: What both read: a tensor, a tuple of arguments or a dict of keyword arguments.
        batch_sizes: Batch sizes to time.
        repeats: Timed passes of each network for each batch size.
        warmup: Passes before them that are not timed.

    Returns:
        The `Comparison`, with ratios above one where ``small`` saves.

    Raises:
        ValueError: If ``repeats`` or a batch size is below 1, or ``warmup`` below 0.

    Example:
        >>> big, small = torch.nn.Linear(20, 10), torch.nn.Linear(20, 5)
        >>> compare(big, small, torch.zeros(1, 20), repeats=3).macs_ratio
        2.0
    """
    (first, second), times = _measure([original, small], example_inputs, batch_sizes, repeats, warmup)
    return Comparison(first, second, {size: ratio(*pair) for size, pair in times.items()})


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


def _measure(
    nets: Sequence[nn.Module], inputs: Inputs, batch_sizes: Sequence[int], repeats: int, warmup: int
) -> tuple[list[Cost], dict[int, list[list[float]]]]:
    """Costs of the networks, and the raw seconds by batch size and network."""
    if repeats < 1 or warmup < 0 or any(size < 1 for size in batch_sizes):
        raise ValueError(f"need repeats >= 1, warmup >= 0 and batch sizes >= 1: {repeats=}, {warmup=}, {batch_sizes=}")
    seconds: dict[int, list[list[float]]] = {}
    with evaluating(*nets):
        macs = [_macs(net, with_batch(inputs, 1)) for net in nets]
        for size in batch_sizes:
            batch = with_batch(inputs, size)
            seconds[size] = time_in_turns([_forward(net, batch) for net in nets], repeats, warmup)
    costs = [
        Cost(
            params=sum(p.numel() for p in net.parameters()),
            macs=macs[i],
            bytes=sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers())),
            latency={size: Spread.of(times[i]) for size, times in seconds.items()},
        )
        for i, net in enumerate(nets)
    ]
    return costs, seconds


def _macs(net: nn.Module, inputs: Inputs) -> int:
    with FlopCounterMode(display=False) as counter:
        call(net, inputs)
    return counter.get_total_flops() // 2


def _forward(net: nn.Module, batch: Inputs) -> Callable[[], None]:
    """One pass that has ended when the function returns, on accelerators too."""
    kinds = {t.device.type for t in (*tensors(batch), *net.parameters())} - {"cpu"}
    waits: list[Callable[[], None]] = [getattr(torch, kind).synchronize for kind in kinds if hasattr(torch, kind)]

    def run() -> None:
        call(net, batch)
        for wait in waits:
            wait()

    return run


def _table(costs: dict[str, Cost], comparison: Comparison | None = None) -> str:
    """One line for each quantity, one column for each network, the ratio last."""
    entries = list(costs.values())
    rows = [
        ["", *costs],
        ["parameters", *(f"{c.params:,}" for c in entries)],
        ["MACs per example", *(f"{c.macs:,}" for c in entries)],
        ["bytes", *(f"{c.bytes:,}" for c in entries)],
    ]
    rows += [[f"ms, batch {size}", *(_milliseconds(c.latency[size]) for c in entries)] for size in entries[0].latency]
    if comparison is not None:
        first, second = entries
        spreads = comparison.speedup.values()
        rows[0].append("original / small")
        for row, value in zip(rows[1:], (comparison.params_ratio, comparison.macs_ratio), strict=False):
            row.append(f"{value:.2f}")
        rows[3].append(f"{first.bytes / max(second.bytes, 1):.2f}")
        for row, s in zip(rows[4:], spreads, strict=True):
            row.append(f"{s.median:.2f} ({s.lower:.2f} to {s.upper:.2f})")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _milliseconds(spread: Spread) -> str:
    return f"{spread.median * 1e3:.3g} ({spread.lower * 1e3:.3g} to {spread.upper * 1e3:.3g})"
