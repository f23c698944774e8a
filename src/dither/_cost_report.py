"""What a network costs, as data: printable, JSON, and back."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


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


Latency = dict[int, Spread]
"""By batch size."""


@dataclass(frozen=True)
class Cost:
    """What a network costs. Printable; ``to_dict()`` is JSON.

    Attributes:
        params: Number of parameters; tied ones count once.
        macs: Multiply-accumulates of one example, contractions only (convolutions, matrix products, attention).
        bytes: Bytes of parameters and buffers.
        latency: Seconds of one forward pass, by batch size.
        modes: The same in the other modes that were asked for, by mode and batch size.
        unavailable: Modes that were asked for and do not run here, with the reason.
        setting: What the times were measured with.
    """

    params: int
    macs: int
    bytes: int
    latency: Latency
    modes: Mapping[str, Latency] = field(default_factory=dict[str, Latency])
    unavailable: Mapping[str, str] = field(default_factory=dict[str, str])
    setting: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """What `to_dict` described, also after a trip through JSON.

        Raises:
            ValueError: If a field is missing or unknown.
        """
        try:
            modes = {mode: _latency(times) for mode, times in values.get("modes", {}).items()}
            fields: dict[str, Any] = {**values, "latency": _latency(values["latency"]), "modes": modes}
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these values are no cost ({error!r}); give what Cost.to_dict returned.") from error

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
        speedup_by_mode: The same in the other modes that were asked for, by mode and batch size.
    """

    original: Cost
    small: Cost
    speedup: Latency
    speedup_by_mode: Mapping[str, Latency] = field(default_factory=dict[str, Latency])

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """What `to_dict` described, also after a trip through JSON.

        Raises:
            ValueError: If a field is missing.
        """
        try:
            original, small, speedup = (values[name] for name in ("original", "small", "speedup"))
            modes = {mode: _latency(times) for mode, times in values.get("speedup_by_mode", {}).items()}
            return cls(Cost.from_dict(original), Cost.from_dict(small), _latency(speedup), modes)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these values are no comparison ({error!r}); give what to_dict returned.") from error

    def __str__(self) -> str:
        return _table({"original": self.original, "small": self.small}, self)


def _latency(times: Mapping[Any, Any]) -> Latency:
    """Spreads by batch size, which JSON turns into text."""
    return {int(size): Spread(**spread) for size, spread in times.items()}


def _table(costs: dict[str, Cost], comparison: Comparison | None = None) -> str:
    """One line for each quantity, one column for each network, the ratio last."""
    entries = list(costs.values())
    rows = [
        ["", *costs],
        ["parameters", *(f"{c.params:,}" for c in entries)],
        ["MACs per example", *(f"{c.macs:,}" for c in entries)],
        ["bytes", *(f"{c.bytes:,}" for c in entries)],
    ]
    if comparison is not None:
        first, second = entries
        ratios = comparison.params_ratio, comparison.macs_ratio, first.bytes / max(second.bytes, 1)
        last = ["original / small", *(f"{ratio:.2f}" for ratio in ratios)]
        rows = [[*row, text] for row, text in zip(rows, last, strict=True)]
    for mode in ("", *entries[0].modes):
        latencies = [c.modes[mode] if mode else c.latency for c in entries]
        for size in latencies[0]:
            row = [f"ms, batch {size}" + (f", {mode}" if mode else ""), *(_milliseconds(t[size]) for t in latencies)]
            if comparison is not None:
                s = (comparison.speedup_by_mode[mode] if mode else comparison.speedup)[size]
                row.append(f"{s.median:.2f} ({s.lower:.2f} to {s.upper:.2f})")
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [f"not timed: {mode}: {reason}" for mode, reason in entries[0].unavailable.items()]
    return "\n".join(line for line in [*lines, entries[0].setting and f"times: {entries[0].setting}"] if line)


def _milliseconds(spread: Spread) -> str:
    return f"{spread.median * 1e3:.3g} ({spread.lower * 1e3:.3g} to {spread.upper * 1e3:.3g})"
