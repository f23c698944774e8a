"""From finished records to results.json, the tables, the figures and the study's own first lines."""

from __future__ import annotations

import json
from pathlib import Path

from dither.training import Images
from dither.training._report import machine, versions
from studies.doubt.collect import compare_pairs, rows
from studies.doubt.evaluate import Questions
from studies.doubt.pictures import draw
from studies.doubt.settings import Settings
from studies.doubt.tables import docstring_lines, make_table
from studies.fill import fill, fill_docstring
from studies.paper import paper_rows

HERE = Path(__file__).parent


def collect(out: Path, target: Path, settings: Settings, questions: Questions, train: Images) -> None:
    """Makes everything that is committed from the records under ``out``, and writes it into ``target``."""
    answers, records = rows(out, settings, questions, train)
    target.mkdir(parents=True, exist_ok=True)
    pairs = compare_pairs(answers, records, questions, settings.pairs)
    results = {"machine": machine(), "versions": versions(), "records": records, "pairs": pairs}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(answers, records, questions, settings, target / "artifacts")
    table = make_table(records, pairs, settings, paper_rows(HERE.name), results["machine"], results["versions"])
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        lines = [*docstring_lines(records, settings), "means over networks (results.json)"]
        fill_docstring(HERE / "study.py", lines)
