"""Records as tables, and as the first lines of a study."""

from __future__ import annotations

from typing import Any

from studies.doubt.settings import Settings
from studies.fill import spread

COLUMNS = {  # title: key, factor, digits
    "error %": ("error_pct", 1, 2),
    "NLL": ("nll", 1, 4),
    "NLL, calibrated": ("nll_calibrated", 1, 4),
    "ECE %": ("ece", 100, 2),
    "AUROC": ("ood_auroc", 1, 3),
    "AUPR": ("ood_aupr", 1, 3),
    "FPR95": ("ood_fpr95", 1, 3),
}


def make_table(
    records: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    settings: Settings,
    paper: dict[str, dict[str, Any]],
    machine: dict[str, Any],
    versions: dict[str, str],
) -> str:
    """Paper and measurement side by side, then what changes on the same network."""
    lines = [
        f"| method | paper: error %, NLL | nets | {' | '.join(COLUMNS)} | passes | s per 1,000 |",
        f"|---|---|---|{'---|' * len(COLUMNS)}---|---|",
    ]
    for name, title in settings.titles.items():
        mine = [record for record in records if record["method"] == name]
        if mine:
            theirs = f"{paper[name]['error_pct']:.2f}, {paper[name]['nll']:.3f}" if name in paper else ""
            nets = sum(len(record["members"]) for record in mine)
            cells = " | ".join(spread(mine, *how) for how in COLUMNS.values())
            title = title.format(n=nets)
            seconds = mine[0]["seconds_per_1000"]
            time = "" if seconds is None else f"{seconds:.2g}"
            lines.append(f"| {title} | {theirs} | {nets} | {cells} | {mine[0]['num_samples']} | {time} |")
    inside, outside = settings.names
    timed = any(record["seconds_per_1000"] is not None for record in records)
    clock = f"{machine['cpu']}, {machine['threads']} thread, torch {versions['torch']}, medians of runs in turns"
    lines += [
        "",
        f"Mean ± standard deviation over networks (an ensemble is one). AUROC, AUPR and FPR95: {outside} against "
        f"{inside} by the entropy of the mean. {monte_carlo(records)} "
        f"Times: {clock if timed else 'not measured yet'}.",
        "",
        "| NLL with minus NLL without, same network | seed | raw | calibrated |",
        "|---|---|---|---|",
    ]
    for pair in pairs:
        one, other = (settings.titles[pair[key]].format(n="all") for key in ("method", "against"))
        cells = " | ".join(f"{pair[key]:+.5f} ± {pair[f'{key}_se']:.5f}" for key in ("nll", "nll_calibrated"))
        lines.append(f"| {one} − {other} | {pair['seed']} | {cells} |")
    lines += ["", "± here is the standard error of the difference over the test images."]
    return "\n".join(lines)


def monte_carlo(records: list[dict[str, Any]]) -> str:
    """A sentence on what other draws would have changed."""
    errors = [record["monte_carlo_se"] for record in records if record["monte_carlo_se"]]
    if not errors:
        return "Nothing is sampled."
    error, nll, auroc = (max(e[key] for e in errors) for key in ("error_pct", "nll", "ood_auroc"))
    return (
        f"Monte-Carlo standard errors of the sampled rows are at most {error:.3f} points of error, {nll:.5f} of NLL "
        f"and {auroc:.4f} of AUROC."
    )


def docstring_lines(records: list[dict[str, Any]], settings: Settings) -> list[str]:
    """The measured rows for the study's first lines."""
    lines: list[str] = []
    for name in settings.headlines:
        mine = [record for record in records if record["method"] == name]
        if mine:
            title = settings.titles[name].format(n=len(mine[0]["members"]))
            error, nll, auroc = (spread(mine, *COLUMNS[c]) for c in ("error %", "NLL", "AUROC"))
            lines.append(f"{title}: {error} % error, NLL {nll}, {settings.names[1]} AUROC {auroc}")
    return lines
