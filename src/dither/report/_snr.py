"""The signal-to-noise ratios of every gate, epoch by epoch: a histogram in every column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..training._snr import PER_DECADE
from ._chart import Frame, Table

_LEVELS = 6  # shades
_TICKS = (0.1, 1, 10, 100, 1000)
_FLOOR = -4  # bin of the noise alone, whose ratio is 0.33


@dataclass(frozen=True)
class Heat:
    """The histograms of one gate.

    Attributes:
        key: part of ids, unique in a page.
        name: of the gate.
        epochs: their numbers.
        shades: (kind, level, path): "kept" or "dropped", how dark, and the cells of that shade in units of cells.
        bins: the bins that are shown, the same ones for all gates.
        kept: units above the threshold after the last epoch.
        total: units after the first epoch.
        threshold: SNR above which a unit stays.
        table: the numbers.
    """

    key: str
    name: str
    epochs: Sequence[int]
    shades: Sequence[tuple[str, int, str]]
    bins: range
    kept: int
    total: int
    threshold: float
    table: Table
    frame: ClassVar[Frame] = Frame(width=300, height=158, left=36, right=292, top=8, bottom=138)

    @property
    def scale(self) -> tuple[float, float]:
        """Width and height of a cell."""
        across, down = self.frame.right - self.frame.left, self.frame.bottom - self.frame.top
        return round(across / len(self.epochs), 3), round(down / len(self.bins), 3)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place, words) on the vertical axis."""
        return [(self._top(value), f"{value:,g}") for value in _TICKS if self._bin(value) in self.bins]

    @property
    def threshold_at(self) -> float:
        """Vertical place of the threshold."""
        return self._top(self.threshold)

    @property
    def summary(self) -> str:
        """What is to be seen, for who does not see it."""
        return (
            f"After epoch {self.epochs[0]}, {self.table.rows[0][1]} of {self.total} units had a signal-to-noise ratio "
            f"above {self.threshold:g}; after epoch {self.epochs[-1]}, {self.kept}."
        )

    def _bin(self, ratio: float) -> float:
        return math.log10(max(ratio, 1e-9)) * PER_DECADE

    def _top(self, ratio: float) -> float:
        share = (self._bin(ratio) - self.bins[0]) / len(self.bins)
        return self.frame.up(min(max(share, 0.0), 1.0))


def heats(rows: Sequence[Mapping[str, Any]], threshold: float) -> list[Heat]:
    """One picture for every gate that the history has histograms of.

    Args:
        rows: of the history, of the training under noise.
        threshold: SNR above which a unit stays.
    """
    rows = [row for row in rows if row.get("snr")]
    names = list(rows[0]["snr"]) if rows else []
    filled = [int(k) for row in rows for histogram in row["snr"].values() for k in histogram]
    bins = range(min([_FLOOR, *filled]), max([PER_DECADE, *(k + 1 for k in filled)]))
    return [_heat(f"snr{i}", name, rows, threshold, bins) for i, name in enumerate(names)]


def _heat(key: str, name: str, rows: Sequence[Mapping[str, Any]], threshold: float, bins: range) -> Heat:
    histograms = [{int(k): count for k, count in row["snr"].get(name, {}).items()} for row in rows]
    epochs, kept = [row["epoch"] for row in rows], [row["kept"].get(name, 0) for row in rows]
    totals = [sum(histogram.values()) for histogram in histograms]
    cells: dict[tuple[str, int], list[str]] = {}
    for column, histogram in enumerate(histograms):
        for k, count in sorted(histogram.items()):
            kind = "kept" if (k + 0.5) / PER_DECADE > math.log10(max(threshold, 1e-9)) else "dropped"
            level = math.ceil(_LEVELS * math.sqrt(count / max(totals[0], 1)))
            cells.setdefault((kind, min(level, _LEVELS)), []).append(f"M{column} {bins[-1] - k}h1v1h-1z")
    shades = [(kind, level, "".join(paths)) for (kind, level), paths in sorted(cells.items())]
    table = [
        [str(epoch), str(above), str(total - above), _middle(histogram)]
        for epoch, above, total, histogram in zip(epochs, kept, totals, histograms, strict=True)
    ]
    header = ("epoch", f"SNR above {threshold:g}", "at or below", "median SNR, about")
    return Heat(key, name, epochs, shades, bins, kept[-1], totals[0], threshold, Table(header, table))


def _middle(histogram: Mapping[int, int]) -> str:
    """The middle of the bin that holds the median."""
    left = sum(histogram.values()) / 2
    for k in sorted(histogram):
        left -= histogram[k]
        if left <= 0:
            return f"{10 ** ((k + 0.5) / PER_DECADE):.2g}"
    return ""
