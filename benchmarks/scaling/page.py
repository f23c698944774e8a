"""From records to exponents, a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling.measure import LARGE, SERIES
from dither.figures._style import COLORS, DASHES, FONT, GRID, REFERENCE, TEXT

Record = dict[str, Any]
BOUND = 2.2  # networks that shrink may hold, with the one that it is given
TRAINING = ("step", "step with noise", "step with noise, checkpointed")
STEPS = ("attach", "plan", "shrink", "shrink nothing", "analyse", *TRAINING, "predict")
HEADER = ["grows", "step", "x", "from", "to", "time ~ x^", "memory ~ x^", "seconds", "memory, MB", "resident, MB"]
LARGE_HEADER = ["network", "numbers", "step", "seconds", "tensors", "resident"]


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of log y over log x, by least squares; NaN for a single point.

    Example:
        >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
        2.0
    """
    a, b = [math.log(value) for value in x], [math.log(max(value, 1e-12)) for value in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    spread = sum((value - mean_a) ** 2 for value in a)
    product = sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True))
    return product / spread if spread else math.nan


def held(record: Record, step: str, measure: str = "tensors") -> float:
    """Bytes at the peak of a step, with the network that it is given; of what grows with its inputs, without it."""
    return record[step][measure] + (0 if step in ("analyse", "predict") else record["bytes"])


def fits(records: Sequence[Record]) -> list[list[str]]:
    """The table of exponents: for each series and step how time and memory go with x, and the largest point."""
    table = [HEADER]
    for name, series in SERIES.items():
        own = [record for record in records if record["series"] == name]
        x = [record["x"] for record in own]
        for step in (step for step in STEPS if own and step in own[0]):
            seconds, peak = [record[step]["seconds"] for record in own], [held(record, step) for record in own]
            last = [f"{seconds[-1]:.2f}", f"{peak[-1] / 1e6:.1f}", f"{held(own[-1], step, 'resident') / 1e6:.1f}"]
            slopes = [f"{exponent(x, seconds):.2f}", f"{exponent(x, peak):.2f}"]
            table.append([series.grows, step, series.x, f"{x[0]:.2g}", f"{x[-1]:.2g}", *slopes, *last])
    return table


def large(records: Sequence[Record]) -> list[list[str]]:
    """The table of the large networks; memory in networks, with the one that is given."""
    table = [LARGE_HEADER]
    for record in (record for record in records if record["series"] in LARGE):
        for step in (step for step in ("forward", *STEPS) if step in record):
            own = record["bytes"] if record["size"] != "meta" else 0
            peaks = [f"{(record[step][m] + own) / record['bytes']:.2f}" for m in ("tensors", "resident")]
            if not own:
                peaks = [f"{record[step][m] / 1e6:.0f} MB" for m in ("tensors", "resident")]
            what = [LARGE[record["series"]].grows, record["size"], step, f"{record[step]['seconds']:.1f}"]
            table.append([*what, *peaks])
    return table


def worst(records: Sequence[Record]) -> float:
    """The most networks that shrink held, in tensors, with the one that it was given, at the end of any series.

    A network of a few megabytes is no measure: the law of the noise is computed in pieces of about two.
    """
    last = {record["series"]: record for record in records}.values()
    steps = [(record, step) for record in last for step in ("shrink", "shrink nothing") if step in record]
    return max(held(record, step) / record["bytes"] for record, step in steps)


def draw(records: Sequence[Record], path: Path) -> None:
    """Four plots: time and memory of the pipeline over parameters, of the label run over activations, of predict."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    time, memory, labels, predict = figure.subplots(2, 2).flat

    def lines(axes: Any, names: Sequence[str], y: Any) -> None:
        for i, name in enumerate(names):
            own = [record for record in records if record["series"] == name]
            style = {"color": COLORS[i], "linestyle": DASHES[i], "marker": "o", "markersize": 4}
            axes.plot([r["x"] for r in own], [y(r) for r in own], label=SERIES[name].grows, **style)

    def total(record: Record) -> float:
        return sum(record[step]["seconds"] for step in ("attach", "plan", "shrink"))

    networks = ("layers", "width", "channels")
    lines(time, networks, total)
    lines(memory, networks, lambda r: held(r, "shrink nothing") / r["bytes"])
    lines(labels, ("tokens", "pixels"), lambda r: r["analyse"]["tensors"] / 1e6)
    lines(predict, ("samples", "rows"), lambda r: r["predict"]["tensors"] / 1e6)
    memory.axhline(BOUND, color=REFERENCE, linestyle=":")
    memory.text(0.02, BOUND, " bound: 2.2", color=TEXT, va="bottom", transform=memory.get_yaxis_transform())
    memory.set_ylim(0, 3)
    for axes in (time, labels):
        _slope_one(axes)
    for axes, title, x, y in (
        (time, "attach + plan + shrink", "parameters", "seconds"),
        (memory, "shrink that keeps everything", "parameters", "networks held at the peak"),
        (labels, "the label run", "bytes of activations", "MB"),
        (predict, "predict", "samples, examples", "MB"),
    ):
        axes.set_xscale("log")
        if axes is not memory:
            axes.set_yscale("log")
        axes.set_title(title, fontsize=FONT, loc="left", color=TEXT)
        axes.set_xlabel(x, fontsize=FONT, color=TEXT)
        axes.set_ylabel(y, fontsize=FONT, color=TEXT)
        axes.grid(color=GRID, linewidth=0.8)
        axes.legend(frameon=False, fontsize=FONT - 2, labelcolor=TEXT)
    bottom, top = predict.get_ylim()
    predict.set_ylim(min(bottom, 1), max(top, 1000))
    figure.savefig(path, dpi=110)


def _slope_one(axes: Any) -> None:
    """A dotted line that is proportional to x, from the corner where the first line begins."""
    x = [float(value) for line in axes.lines for value in line.get_xdata()]
    y = [float(value) for line in axes.lines for value in line.get_ydata()]
    if x:
        start = min(zip(x, y, strict=True))
        axes.plot([start[0], max(x)], [start[1], start[1] * max(x) / start[0]], color=REFERENCE, linestyle=":")
