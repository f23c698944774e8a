"""Line charts as data: where every line, tick and word stands. The template writes the SVG.

Not matplotlib's SVG: it has fixed colors, ids that clash when two pictures stand in one page, and ten times the bytes.
These pictures take their colors from the page, light or dark, and their words can be read on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

_STYLES = 6  # of --c0 to --c5 in style.css


@dataclass(frozen=True)
class Frame:
    """A picture's width and height, and the edges of what its axes enclose; downwards is positive."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int

    def across(self, share: float) -> float:
        """Horizontal place of a share of the axis."""
        return round(self.left + (self.right - self.left) * share, 1)

    def up(self, share: float) -> float:
        """Vertical place of a share of the axis."""
        return round(self.bottom - (self.bottom - self.top) * share, 1)


@dataclass(frozen=True)
class Table:
    """The same numbers as a chart, to be read or copied."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Line:
    """A line by its points (x, y), in the units of the axes; with ``sizes`` (0 to 1) a dot on every point."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    sizes: Sequence[float] = ()


@dataclass(frozen=True)
class Axis:
    """Label, range and scale of an axis."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands, 0 at the low end and 1 at the high one; what is beyond stands at the end."""
        if self.log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the range, about five."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        many = self.log and self.high / self.low > 300
        locator = (
            LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0))
            if self.log
            else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
        )
        slack = 1e-9 * (self.high - self.low)
        return [
            t
            for t in map(float, locator.tick_values(self.low, self.high))
            if -slack <= t - self.low <= self.high - self.low + slack
        ]


@dataclass(frozen=True)
class Chart:
    """A picture, its words and its numbers.

    Attributes:
        key: part of ids, unique in a page.
        title: what is shown.
        summary: what is to be seen, for who does not see it.
        x: the horizontal axis.
        y: the vertical axis.
        lines: in the order of the legend.
        table: the numbers.
        diagonal: whether the line y = x is drawn.
    """

    key: str
    title: str
    summary: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    table: Table
    diagonal: bool = False
    frame: ClassVar[Frame] = Frame(width=420, height=256, left=40, right=404, top=24, bottom=216)

    def left(self, value: float) -> float:
        """Horizontal place of a value, in units of the picture."""
        return self.frame.across(self.x.share(value))

    def top(self, value: float) -> float:
        """Vertical place of a value, in units of the picture."""
        return self.frame.up(self.y.share(value))

    def path(self, line: Line) -> str:
        """The ``d`` of a line's path."""
        return "M" + "L".join(f"{self.left(x):g} {self.top(y):g}" for x, y in line.points)

    def dots(self, line: Line) -> list[tuple[float, float, float]]:
        """(x, y, radius) of a line's dots, whose area grows with their sizes."""
        pairs = zip(line.points, line.sizes, strict=False)
        return [(self.left(x), self.top(y), round(2 + 6 * math.sqrt(size), 1)) for (x, y), size in pairs]

    @property
    def diagonal_path(self) -> str:
        """The line y = x, as far as both axes show it."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        return f"M{self.left(low):g} {self.top(low):g}L{self.left(high):g} {self.top(high):g}"


def reaching(label: str, values: Iterable[float], *, log_from: float | None = None) -> Axis:
    """An axis from zero to a little above the largest value; logarithmic where that would hide the small ones.

    Args:
        label: name and unit.
        values: what has to have room.
        log_from: the smallest difference that can be measured. The axis may then be logarithmic, from half of that.

    Example:
        >>> reaching("error, %", [0.0, 4.0]).high, reaching("error, %", [0.5, 90.0], log_from=0.1)
        (4.2, Axis(label='error, %', low=0.25, high=90.0, log=True))
    """
    values = list(values)
    top = max(values, default=0.0)
    if log_from is not None and top > 20 * max(min(values), log_from):
        return Axis(label, max(min(values), log_from) / 2, top, log=True)
    return Axis(label, 0.0, 1.05 * top if top > 0 else 1.0)


def style(number: int) -> int:
    """Colors and dashes repeat after six."""
    return number % _STYLES
