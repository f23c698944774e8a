"""From finished records to results.json, the tables, the figures and the study's own first lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dither.training import Images
from dither.training._report import machine, versions
from studies.batchnorm_cifar5.settings import FULL, TITLES
from studies.doubt.collect import compare_pairs, rows
from studies.doubt.evaluate import Questions
from studies.doubt.pictures import draw
from studies.doubt.settings import Settings
from studies.doubt.tables import docstring_lines, make_table
from studies.fill import fill, fill_docstring
from studies.paper import paper_rows

HERE = Path(__file__).parent


def collect(
    out: Path,
    target: Path,
    settings: dict[str, Settings],
    questions: dict[str, Questions],
    train: dict[str, Images],
    *,
    clock: bool,
) -> None:
    """Makes everything that is committed from the records under ``out``, and writes it into ``target``.

    Networks that have no record there keep what results.json says of them.

    Raises:
        SystemExit: If no network has a finished record.
    """
    there = [name for name in settings if (out / name / "records").is_dir()]
    if not there:
        raise SystemExit(f"no finished record in {out}; run some networks first, see --help")
    target.mkdir(parents=True, exist_ok=True)
    path = target / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in there:
        answers, records = rows(out / name, settings[name], questions[name], train[name], clock=clock)
        pairs = compare_pairs(answers, records, questions[name], settings[name].pairs)
        results[name] = {"machine": machine(), "versions": versions(), "records": records, "pairs": pairs}
        draw(answers, records, questions[name], settings[name], target / "artifacts" / name)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines: list[str] = []
    for name, table in tables(results, FULL | settings).items():
        print(f"{TITLES[name]}\n\n{table}\n")
        lines += [f"{TITLES[name]}, {x}" for x in docstring_lines(results[name]["records"], FULL[name])]
        if target == HERE:
            fill(HERE / "README.md", f"{HERE.name}:{name}", table)
    if target == HERE:
        fill_docstring(HERE / "study.py", [*lines, "means over networks (results.json)"])


def tables(results: dict[str, Any], settings: dict[str, Settings]) -> dict[str, str]:
    """The table of every network that has results."""
    return {
        name: make_table(
            results[name]["records"],
            results[name]["pairs"],
            of,
            paper_rows(HERE.name, network=name),
            results[name]["machine"],
            results[name]["versions"],
        )
        for name, of in settings.items()
        if name in results
    }
