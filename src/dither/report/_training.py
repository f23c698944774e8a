"""Pictures of the training: the error, and what stays, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from ..pruning import Plan
from ._chart import Axis, Chart, Line, Table, reaching, style

STRETCHES = {"base": "original", "prune": "under noise", "finetune": "fine-tuning"}
_GATES = 6  # lines that can be told apart


def training_charts(history: Sequence[Mapping[str, Any]], plan: Plan | None = None) -> list[Chart]:
    """The charts that the rows of a history give: at most two, none without rows.

    Args:
        history: rows of ``history.jsonl``.
        plan: knows how many units there were where the history does not.
    """
    rows = [row for name in STRETCHES for row in history if row["stretch"] == name]
    noisy = [row for row in rows if row["stretch"] == "prune" and row.get("kept")]
    return ([_errors(rows)] if rows else []) + ([_kept(noisy, plan)] if noisy else [])


def _errors(rows: Sequence[Mapping[str, Any]]) -> Chart:
    values = [row["error_pct"] for row in rows]
    y = reaching("error, %", values, log_from=100 / min(row["count"] for row in rows))
    lines, table, epoch = list[Line](), list[Sequence[str]](), 0
    for i, (stretch, group) in enumerate(groupby(rows, key=lambda row: row["stretch"])):
        points = [(epoch + row["epoch"], row["error_pct"]) for row in group]
        # The line begins where the one before ends: one training goes on with the network of the other.
        before = [lines[-1].points[-1]] if lines else []
        lines.append(Line(STRETCHES[stretch], before + points, i))
        table += [(STRETCHES[stretch], str(int(x) - epoch), f"{error:.2f}") for x, error in points]
        epoch = int(points[-1][0])
    where = {"train": "training images", "validation": "held-out images"}.get(rows[-1]["monitor"], rows[-1]["monitor"])
    starts = ((line.name, line.points[0 if i == 0 else 1][1], line.points[-1][1]) for i, line in enumerate(lines))
    return Chart(
        "errors",
        f"Error on {rows[-1]['count']:,} {where}",
        "; ".join(f"{name}: from {first:.2f} % to {last:.2f} %" for name, first, last in starts)
        + (". The axis is logarithmic, no error at all stands at its foot." if y.log else "."),
        Axis("epoch", 0, max(epoch, 1)),
        y,
        lines,
        Table(("training", "epoch", "error, %"), table),
    )


def _kept(rows: Sequence[Mapping[str, Any]], plan: Plan | None) -> Chart:
    names = list(rows[0]["kept"])
    planned = {} if plan is None else {name: total for name, (_, total) in plan.widths.items()}
    counted = {name: sum(bins.values()) for name, bins in rows[0].get("snr", {}).items()}
    totals = {name: counted.get(name) or planned.get(name) or rows[0]["kept"][name] for name in names}
    whole = sum(totals.values())
    together = [(row["epoch"], 100 * sum(row["kept"].values()) / max(whole, 1)) for row in rows]
    lines = [Line("all units", together, 0)]
    if 1 < len(names) <= _GATES - 1:
        lines += [
            Line(
                name, [(row["epoch"], 100 * row["kept"].get(name, 0) / max(totals[name], 1)) for row in rows], style(i)
            )
            for i, name in enumerate(names, 1)
        ]
    return Chart(
        "kept",
        "Units above the threshold, under noise",
        f"Of {whole:,} units, {sum(rows[0]['kept'].values()):,} stay after the first of these epochs and "
        f"{sum(rows[-1]['kept'].values()):,} after the last.",
        Axis("epoch under noise", min(1, rows[0]["epoch"]), max(rows[-1]["epoch"], 2)),
        Axis("kept, %", 0, 100),
        lines,
        Table(("epoch", *names), [[str(row["epoch"]), *(str(row["kept"].get(n, 0)) for n in names)] for row in rows]),
    )
