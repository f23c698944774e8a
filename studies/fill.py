"""Tables go from the program into the text around them."""

from __future__ import annotations

from pathlib import Path

END = "<!-- /study -->"


def fill(path: Path, study: str, table: str) -> None:
    """Replace what stands between the marks of a study.

    Raises:
        SystemExit: If the file has no such marks; nothing is written then.
    """
    mark = f"<!-- study:{study} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise SystemExit(f"{path} has no marks {mark} ... {END}; add them where the table should stand")
    path.write_text(f"{before}{mark}\n{table}\n{END}{after}", encoding="utf-8")
