"""From finished records to results.json, a table and a figure for every network, and the study's own first lines."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from dither import figures
from dither.figures import _style as style
from dither.training._report import machine, versions
from studies.batchnorm_batch_size.settings import LINES, Plan
from studies.doubt.tables import monte_carlo
from studies.fill import fill, fill_docstring, spread

HERE = Path(__file__).parent
METRICS = {"NLL": ("nll", 1, 4), "NLL, calibrated": ("nll_calibrated", 1, 4), "AUROC": ("ood_auroc", 1, 3)}
Records = list[dict[str, Any]]


def collect(out: Path, target: Path, plan: Plan) -> None:
    """Makes everything that is committed from the records under ``out``, and writes it into ``target``.

    Raises:
        SystemExit: If there is no record.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "records").glob("*.json"))]
    if not records:
        raise SystemExit(f"no finished record in {out}; run some networks first, see --help")
    target.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "versions": versions(), "records": records}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines: list[str] = []
    for name, asked in plan.networks.items():
        mine = [record for record in records if record["network"] == name]
        if not mine:
            continue
        figures.save(draw(mine, plan), target / f"{name}.png")
        table = make_table(mine, plan)
        print(f"{asked.title}\n\n{table}\n")
        lines += [f"{asked.title}: {x}" for x in docstring_lines(mine)]
        if target == HERE:
            fill(HERE / "README.md", f"{HERE.name}:{name}", table)
    if target == HERE:
        fill_docstring(HERE / "study.py", [*lines, "means over networks (results.json)"])


def at(records: Records, line: str, size: float | None) -> Records:
    return [r for r in records if r["line"] == line and (size is None or r["batch_size"] == size)]


def make_table(records: Records, plan: Plan) -> str:
    """Every metric against the batch size of the noise; then what tuning on held-out images chose."""
    rows = ["| | " + " | ".join(map(str, plan.sizes)) + " |", "|---|" + "---|" * len(plan.sizes)]
    for title, how in METRICS.items():
        rows.append(
            f"| **{title}**, without sampling {spread(at(records, 'single', None), *how)} |{' |' * len(plan.sizes)}"
        )
        for name, line in LINES.items():
            found = [at(records, name, size) for size in plan.sizes]
            cells = (spread(mine, *how) if mine else "" for mine in found)
            rows.append(f"| {line.title} | {' | '.join(cells)} |")
    tuned = sorted(at(records, "sbn, tuned", None), key=lambda r: r["seed"])
    chosen = ", ".join(f"{r['batch_size']:g}" for r in tuned)
    made = "; ".join(f"{title} {spread(tuned, *how)}" for title, how in METRICS.items())
    rows += [
        "",
        f"Mean ± standard deviation over {len({r['seed'] for r in records})} networks. "
        f"`batchnorm.tune` chose {chosen} on the held-out images, and gives: {made}. {monte_carlo(records)}",
    ]
    return "\n".join(rows)


def docstring_lines(records: Records) -> list[str]:
    """NLL without sampling and at the size of the training; at the size that tuning chose."""
    nll = METRICS["NLL"]
    chosen = ", ".join(f"{r['batch_size']:g}" for r in at(records, "sbn, tuned", None))
    return [
        f"NLL {spread(at(records, 'single', None), *nll)} without sampling, "
        f"{spread(at(records, 'sbn, fitted', 16), *nll)} with SBN at 16",
        f"NLL {spread(at(records, 'sbn, tuned', None), *nll)} tuned (to {chosen})",
    ]


def draw(records: Records, plan: Plan) -> Any:
    """Every metric against the batch size: means and standard deviations over networks."""
    figure, panels = style.new_figure(8.4, rows=len(METRICS))
    for axes, (title, (key, _, _)) in zip(panels, METRICS.items(), strict=True):
        for name, line, look in style.styled(LINES):
            found = {size: values for size in plan.sizes if (values := [r[key] for r in at(records, name, size)])}
            means = [statistics.fmean(values) for values in found.values()]
            spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between(list(found), low, high, color=look["color"], alpha=0.12, linewidth=0)
            axes.plot(list(found), means, marker="o", markersize=5, linewidth=2, label=line.title, **look)
        single = statistics.fmean(r[key] for r in at(records, "single", None))
        axes.axhline(single, color=style.REFERENCE, linestyle=(0, (2, 2)), linewidth=1.6, label="without sampling")
        axes.set_xscale("log", base=2)
        axes.set_xticks(plan.sizes, [str(size) for size in plan.sizes])
        axes.minorticks_off()
        style.label(axes, y=title)
    style.label(panels[-1], x="batch size of the noise")
    style.legend(figure, panels[0])
    return figure
