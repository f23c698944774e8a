"""Numbers go from the program into the text around them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

END = "<!-- /study -->"


def spread(records: Iterable[Mapping[str, Any]], key: str, factor: float = 1.0, digits: int = 2) -> str:
    """Mean, and standard deviation where there are several records.

    Example:
        >>> spread([{"error": 1.0}, {"error": 3.0}], "error", digits=1)
        '2.0 ± 1.4'
    """
    values = [factor * record[key] for record in records]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


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


def fill_docstring(path: Path, lines: list[str]) -> None:
    """Write the measured rows into the first lines of a study, between "Ours:" and "Run:"."""
    ours = "Ours:    " + "\n         ".join(lines) + "\n"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"Ours:    .*?\n(?=Run:)", lambda _: ours, text, count=1, flags=re.DOTALL), encoding="utf-8")
