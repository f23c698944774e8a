"""Error against multiply-accumulates, a point with its standard deviation for each method and size."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dither import figures
from dither.figures import _style as style
from studies.pruning_against_the_field.settings import METHODS, Case
from studies.pruning_against_the_field.tables import in_common, mean, pick, plain

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK = style.COLORS
LOOKS: dict[str, dict[str, Any]] = {
    "sbp": {"color": BLUE, "marker": "o", "markersize": 9},
    "sbp_columns": {"color": BLUE, "marker": "o", "markersize": 9, "markerfacecolor": "white"},
    "bmrs_u": {"color": SKY, "marker": "s"},
    "bmrs_n": {"color": SKY, "marker": "s", "markerfacecolor": "white"},
    "l1": {"color": ORANGE, "marker": "^"},
    "bn_scale": {"color": ORANGE, "marker": "^", "markerfacecolor": "white"},
    "taylor": {"color": GREEN, "marker": "v"},
    "group_norm": {"color": GREEN, "marker": "v", "markerfacecolor": "white"},
    "random": {"color": YELLOW, "marker": "D"},
    "scratch": {"color": BLACK, "marker": "P"},
    "uniform": {"color": BLACK, "marker": "X", "markerfacecolor": "white"},
}
STEP = 0.022  # between neighbours, as a fraction of the size: equal sizes would hide each other


def draw(records: Sequence[dict[str, Any]], case: Case, path: Path) -> None:
    """Writes the figure of one network, of the seeds that SBP and all its rivals have."""
    figure, (axes,) = style.new_figure(5.8)
    shared = {size: in_common(pick(records, size=size)) for size in case.sizes}
    methods = [m for m in METHODS if METHODS[m].start != "whole" and pick(records, method=m)]
    for number, method in enumerate(methods):
        place = 1 + STEP * (number - (len(methods) - 1) / 2)
        points = [mine for here in shared.values() if (mine := pick(here, method=method))]
        axes.errorbar(
            [mean(mine, "macs_ratio") * place for mine in points],
            [mean(mine, "error_pct") for mine in points],
            [statistics.stdev(r["error_pct"] for r in mine) if len(mine) > 1 else 0.0 for mine in points],
            label=plain(method),
            linestyle="none",
            capsize=3,
            elinewidth=1.2,
            **LOOKS[method],
        )
    if dense := pick(records, method="dense"):
        axes.axhline(mean(dense, "error_pct"), color=style.REFERENCE, linestyle="--", label=plain("dense"))
    axes.set_xscale("log")
    sizes = sorted({r["size"] for r in records if r["size"] > 1})
    axes.set_xticks(sizes, [f"{size:g}x" for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] / 1.2, sizes[-1] * 1.2)
    style.label(axes, x="times fewer multiply-accumulates", y="test error, %", title=case.title)
    style.legend(figure, axes)
    figures.save(figure, path)
