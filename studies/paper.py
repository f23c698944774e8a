"""What the papers say: the rows of a study's expected.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent


def paper_rows(study: str, **of: str) -> dict[str, dict[str, Any]]:
    """The rows of the paper by method, in the order of the file; those with these values, if some are given.

    Example:
        >>> {method: row["error_pct"] for method, row in paper_rows("pruning_lenet_mnist", net="lenet5").items()}
        {'original': 0.8, 'sbp': 0.86}
    """
    rows = tomllib.loads((HERE / study / "expected.toml").read_text(encoding="utf-8"))["row"]
    return {row["method"]: row for row in rows if all(row[key] == value for key, value in of.items())}
