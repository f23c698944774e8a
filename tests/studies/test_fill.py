"""Numbers go between their marks and nowhere else."""

from pathlib import Path

import pytest

from studies.fill import fill, fill_docstring, spread


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- study:this -->\nold\n<!-- /study -->\nafter\n")
    for table in ("| new |", "| newer |"):
        fill(path, "this", table)
        assert path.read_text() == f"before\n<!-- study:this -->\n{table}\n<!-- /study -->\nafter\n"
    with pytest.raises(SystemExit, match="no marks <!-- study:other -->"):
        fill(path, "other", "| lost |")
    assert "lost" not in path.read_text()


def test_docstring_is_filled_between_ours_and_run(tmp_path: Path) -> None:
    path = tmp_path / "study.py"
    path.write_text('"""What.\n\nOurs:    old\n         older\nRun:     this\n"""\n')
    fill_docstring(path, ["new", "newer"])
    assert path.read_text() == '"""What.\n\nOurs:    new\n         newer\nRun:     this\n"""\n'


def test_spread_of_one_record_has_no_deviation() -> None:
    assert spread([{"x": 0.5}], "x", 100, 1) == "50.0"
    assert spread([{"x": 1.0}, {"x": 3.0}], "x", digits=1) == "2.0 ± 1.4"
