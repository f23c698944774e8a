"""Likelihood against time, a point with its standard deviations for each method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dither import figures
from dither.figures import _style as style
from studies.small_and_doubtful.settings import METHODS, Plan

BLUE, ORANGE = style.COLORS[:2]
LOOKS: dict[str, dict[str, Any]] = {
    "dense": {"color": ORANGE, "marker": "s", "markerfacecolor": "white"},
    "dense + sbn": {"color": ORANGE, "marker": "s"},
    "pruned": {"color": BLUE, "marker": "o", "markersize": 8, "markerfacecolor": "white"},
    "pruned + sbn": {"color": BLUE, "marker": "o", "markersize": 8},
    "pruned + sbn, last two": {"color": BLUE, "marker": "D"},
}
SHOWN = {"nll": "NLL, nats", "nll_calibrated": "NLL, calibrated"}
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)


def draw(records: Sequence[dict[str, Any]], plan: Plan, path: Path) -> None:
    """Writes the figure of one network: means over the seeds, raw and calibrated side by side."""
    figure, panels = style.new_figure(4.6, columns=len(SHOWN))
    for axes, (key, title) in zip(panels, SHOWN.items(), strict=True):
        axes.axvline(1, color=style.REFERENCE, linestyle=(0, (2, 2)), linewidth=1.6, label="one dense pass")
        for name, method in METHODS.items():
            mine = [record for record in records if record["method"] == name]
            times, losses = ([record[of] for record in mine] for of in ("time_of_dense_passes", key))
            axes.errorbar(
                statistics.fmean(times),
                statistics.fmean(losses),
                xerr=deviation(times),
                yerr=deviation(losses),
                label=method.title,
                linestyle="none",
                capsize=3,
                elinewidth=1.2,
                **LOOKS[name],
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_xlim(TICKS[0] / 1.2, TICKS[-1] * 1.3)
        axes.minorticks_off()
        style.label(axes, x="time, dense passes", title=title)
    style.legend(figure, panels[0])
    figures.save(figure, path)


def deviation(values: Sequence[float]) -> float:
    """Standard deviation over the seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
