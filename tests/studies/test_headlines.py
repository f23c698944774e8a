"""The table of the README is that of the committed results."""

from studies import headlines


def test_readme_has_the_lines_of_the_committed_results() -> None:
    table = headlines.table()
    assert len(table.splitlines()) > 5
    assert table in (headlines.HERE.parent / "README.md").read_text(encoding="utf-8")


def test_every_study_with_results_and_a_line_exists() -> None:
    assert all((headlines.HERE / name / "README.md").exists() for name in headlines.STUDIES)
