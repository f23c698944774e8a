"""JSON files that say which file it is when they cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else. The message names the file and ends with ``advice``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "report.json"
        ...     _ = path.write_text('{"records": [')
        ...     read_json(path, "Remove it, and it is made again.")
        Traceback (most recent call last):
        ValueError: .../report.json is no complete JSON object (Expecting value: line 1 column 14 (char 13)). Remove it,
        and it is made again.
    """
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:  # UnicodeDecodeError too
        raise ValueError(f"{path} is no complete JSON object ({error}). {advice}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no complete JSON object ({type(values).__name__}). {advice}")
    return values  # pyright: ignore[reportUnknownVariableType]
