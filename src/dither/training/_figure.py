"""The figure of a run: widths before and after."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ._checkpoints import flush_to_disk

_KEPT, _REMOVED, _TEXT = "#1f6f8b", "#e3e8ea", "#333333"


def draw_widths(widths: Mapping[str, tuple[int, int]], path: Path) -> None:
    """One bar per layer: the share of its channels or input columns that stays, and the numbers beside it.

    Args:
        widths: (kept, total) by name, in the order of the forward pass.
        path: the PNG file; replaced in one step.

    Raises:
        OSError: If the file cannot be written; the old one survives.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(widths)
    share = [100 * kept / total if total else 0.0 for kept, total in widths.values()]
    figure = Figure(figsize=(7.5, 0.9 + 0.42 * max(len(names), 1)), layout="constrained")
    FigureCanvasAgg(figure)  # no window and no global state: also right in threads and notebooks
    axes = cast(Any, figure.add_subplot())
    rows = range(len(names))
    axes.barh(rows, [100.0] * len(names), color=_REMOVED, height=0.62)
    axes.barh(rows, share, color=_KEPT, height=0.62)
    for row, (kept, total) in enumerate(widths.values()):
        axes.text(102, row, f"{kept:,} of {total:,}", va="center", fontsize=12, color=_TEXT)
    axes.set_yticks(list(rows), names, fontsize=12, color=_TEXT)
    axes.invert_yaxis()
    axes.set_xlim(0, 130)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"], fontsize=11, color=_TEXT)
    axes.set_title("What stays of every width (grey: before)", fontsize=13, loc="left", color=_TEXT)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    partial = path.with_name(f".{path.stem}.partial.png")
    try:
        figure.savefig(partial, dpi=150)
        flush_to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
