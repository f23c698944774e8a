"""Rows of results.json outlive the runs that they came from, unless they would be compared with another machine's."""

import json
from pathlib import Path

import pytest

from studies.records import joined

KEY = ("net", "seed")
HERE = {"machine": "a", "versions": {"torch": "1"}}


def row(net: str, seed: int, error: float) -> dict[str, object]:
    return {"net": net, "seed": seed, "error_pct": error}


def write(folder: Path, *records: dict[str, object]) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps({**HERE, "records": records}))
    return path


def test_a_row_without_a_run_stays_and_one_with_a_run_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, row("a", 0, 1.0), row("a", 1, 2.0), row("b", 0, 3.0))
    found = joined(path, [row("a", 1, 2.5), row("c", 0, 4.0)], KEY, HERE)
    assert found == [row("a", 0, 1.0), row("b", 0, 3.0), row("a", 1, 2.5), row("c", 0, 4.0)]


def test_the_first_rows_need_no_file(tmp_path: Path) -> None:
    assert joined(tmp_path / "results.json", [row("a", 0, 1.0)], KEY, HERE) == [row("a", 0, 1.0)]


def test_times_of_two_machines_do_not_stand_in_one_table(tmp_path: Path) -> None:
    path = write(tmp_path, row("a", 0, 1.0), row("a", 1, 2.0))
    there = {**HERE, "versions": {"torch": "2"}}
    with pytest.raises(SystemExit, match=r"1 rows .* versions \{'torch': '1'\}"):
        joined(path, [row("a", 0, 1.0)], KEY, there)
    assert len(joined(path, [row("a", 0, 1.0), row("a", 1, 2.0)], KEY, there)) == 2  # all rows are measured again
