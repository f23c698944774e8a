"""From finished records to results.json, the tables, the figures and the study's own first lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
from studies.records import joined_with

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]


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

    Networks and methods that have no record there keep what results.json says of them. Ensembles need all their members
    there, and figures all rows: else those of before stay.

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
        made = {"machine": machine(), "versions": versions()}
        results[name] = made | with_those_of_before(results.get(name), records, pairs, made, settings[name])
        if len(results[name]["records"]) == len(records):
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


def with_those_of_before(
    before: Mapping[str, Any] | None, records: Rows, pairs: Rows, made: Mapping[str, Any], settings: Settings
) -> dict[str, Rows]:
    """Records and pairs, and those that stood in results.json and have no run here, in the order of the table."""
    if before is None:
        return {"records": records, "pairs": pairs}
    here = {(r["method"], r["seed"]) for r in records}
    away = {r["method"] for r in before["records"] if (r["method"], r["seed"]) not in here}
    partial = {name for name, ensemble in settings.ensembles.items() if ensemble.of in away}
    records, pairs = ([r for r in some if r["method"] not in partial] for some in (records, pairs))
    order = list(settings.titles)
    every = joined_with(before, records, ("method", "seed"), made)
    compared = joined_with(before, pairs, ("method", "against", "seed"), made, of="pairs")
    return {
        "records": sorted(every, key=lambda r: (order.index(r["method"]), r["seed"])),
        "pairs": sorted(compared, key=lambda p: (settings.pairs.index((p["method"], p["against"])), p["seed"])),
    }


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
