"""The tables: one for each network, a row for each method, the sizes beside each other."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from studies.fill import spread
from studies.pruning_against_the_field.settings import METHODS, Case

Records = Sequence[dict[str, Any]]


def make_table(records: Records, cases: Mapping[str, Case], machine: dict[str, Any], versions: dict[str, str]) -> str:
    """All tables, with what is needed to read them."""
    parts = [part for name, case in cases.items() if (part := one_table(pick(records, net=name), case))]
    parts.append(
        "Mean ± standard deviation over the seeds. MACs: base divided by pruned. Right after removal: BatchNorm's "
        "statistics are measured again, nothing is trained. Against SBP: error minus SBP's of the same seed, mean ± "
        "standard error, above 0 is worse than SBP. CPU: time of a batch of 64, base divided by pruned, of networks "
        f"of these widths, {machine['cpu']}, {machine['threads']} thread, torch {versions['torch']}."
    )
    return "\n\n".join(parts)


def one_table(records: Records, case: Case) -> str:
    """The table of one network; empty where nothing is finished."""
    if not records:
        return ""
    sizes = [size for size in case.sizes if pick(records, size=size)]
    titles = ("MACs", "right after removal, %", "error, %", "against SBP", "CPU")
    heads = [title if i else f"**{size:g}x**: {title}" for size in sizes for i, title in enumerate(titles)]
    lines = [f"**{case.title}**", "", f"| method | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    blank = " |" * len(titles) * (len(sizes) - 1)
    whole = [(method, mine) for method in ("base", "dense") if (mine := pick(records, method=method))]
    lines += [f"| {METHODS[m].title} | 1x | | {spread(mine, 'error_pct')} | | 1x |{blank}" for m, mine in whole]
    for method in METHODS:
        if METHODS[method].start != "whole" and (method not in case.methods or pick(records, method=method)):
            cells = [cell for size in sizes for cell in cells_of(records, case, method, size)]
            lines.append(f"| {METHODS[method].title} | {' | '.join(cells)} |")
    lines += ["", *(answer(records, size) for size in sizes)]
    return "\n".join(lines)


def cells_of(records: Records, case: Case, method: str, size: float) -> list[str]:
    """MACs, error right after removal and in the end, the difference to SBP, and time."""
    if method not in case.methods:
        return ["-"] * 5
    mine = pick(records, method=method, size=size)
    if not mine:
        return [""] * 5
    removed = spread(mine, "removed_error_pct") if "removed_error_pct" in mine[0] else ""
    against = "" if method == "sbp" else signed(difference(records, method, size))
    return [
        f"{mean(mine, 'macs_ratio'):.2f}x",
        removed,
        spread(mine, "error_pct") + fewer(len(mine), len(pick(records, method="sbp", size=size))),
        against,
        f"{mean(mine, 'latency_ratio_b64'):.2f}x",
    ]


def fewer(seeds: int, others: int) -> str:
    """How many seeds a number is of, where other rows have more."""
    return f" [{seeds} of {others} seeds]" if seeds < others else ""


def difference(records: Records, method: str, size: float) -> tuple[float, float, int]:
    """Error minus SBP's of the same seed: mean, its standard error (NaN with one seed), and the number of seeds."""
    sbp = {r["seed"]: r["error_pct"] for r in pick(records, method="sbp", size=size)}
    pairs = [r["error_pct"] - sbp[r["seed"]] for r in pick(records, method=method, size=size) if r["seed"] in sbp]
    if not pairs:
        return math.nan, math.nan, 0
    error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
    return statistics.fmean(pairs), error, len(pairs)


def answer(records: Records, size: float) -> str:
    """Which methods have a lower error than SBP, in words."""
    found = {m: difference(records, m, size) for m in METHODS if m != "sbp" and METHODS[m].start != "whole"}
    found = {method: values for method, values in found.items() if values[2]}
    seeds = max((count for *_, count in found.values()), default=0)
    lower = [
        f"{plain(method)} ({signed(values)}{fewer(values[2], seeds)})"
        for method, values in found.items()
        if values[0] < 0
    ]
    said = "lower than SBP's: " + ", ".join(lower) if lower else "none is lower than SBP's"
    return f"Errors at {size:g}x, {seeds} seed{'s' * (seeds != 1)}: {said}."


def lines_for_docstring(records: Records, cases: Mapping[str, Case]) -> list[str]:
    """SBP's error and that of the best other method, for each network and size."""
    lines: list[str] = []
    for name, case in cases.items():
        for size in case.sizes:
            here = in_common(pick(records, net=name, size=size))
            if not (sbp := pick(here, method="sbp")):
                continue
            methods = [m for m in METHODS if METHODS[m].start in ("base", "fresh") and pick(here, method=m)]
            line = f"{name} {size:g}x: SBP {spread(sbp, 'error_pct')} %"
            if methods:
                best = min(methods, key=lambda m: mean(pick(here, method=m), "error_pct"))
                line += f"; the best other, {plain(best)}: {spread(pick(here, method=best), 'error_pct')} %"
            lines.append(line)
    return [*lines, "mean ± standard deviation over the seeds that all methods have (results.json)"]


def in_common(records: Records) -> list[dict[str, Any]]:
    """Records of the seeds that SBP and all its rivals have, so that their means can be compared."""
    rivals = [m for m in METHODS if m == "sbp" or METHODS[m].start in ("base", "fresh")]
    seeds = [{r["seed"] for r in mine} for method in rivals if (mine := pick(records, method=method))]
    return [record for record in records if all(record["seed"] in some for some in seeds)]


def pick(records: Records, **wanted: Any) -> list[dict[str, Any]]:
    """The records with these values."""
    return [record for record in records if all(record[key] == value for key, value in wanted.items())]


def plain(method: str) -> str:
    return METHODS[method].title.replace("*", "")


def mean(records: Records, key: str) -> float:
    return statistics.fmean(record[key] for record in records)


def signed(values: tuple[float, float, int]) -> str:
    value, error, count = values
    return "" if not count else f"{value:+.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}")
