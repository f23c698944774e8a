"""Committed rows and new ones in one file: hours of training need not be on one machine at one time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Records = Sequence[Mapping[str, Any]]


def joined(path: Path, fresh: Records, key: tuple[str, ...], made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fresh records, and before them those that ``path`` already has of other rows.

    Args:
        path: ``results.json``; it need not exist.
        fresh: Records of the runs that are here.
        key: What names a row. A fresh record replaces the one of the same row.
        made: Machine and versions of the fresh records. A file has one of each, so its times can stand in one table.

    Raises:
        SystemExit: If rows that would stay were measured on another machine or with other versions.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"records": []}
    return joined_with(results, fresh, key, made)


def joined_with(
    results: Mapping[str, Any], fresh: Records, key: tuple[str, ...], made: Mapping[str, Any], of: str = "records"
) -> list[dict[str, Any]]:
    """The same for results that were read: their list ``of``.

    Raises:
        SystemExit: As :func:`joined`.
    """
    mine = {tuple(record[name] for name in key) for record in fresh}
    stay = [record for record in results[of] if tuple(record[name] for name in key) not in mine]
    for name, value in made.items():
        if stay and results[name] != value:
            raise SystemExit(
                f"{len(stay)} rows of results.json have no run here and were measured with {name} {results[name]}, not "
                f"{value}: run these rows too, or collect them where they were measured"
            )
    return [*stay, *map(dict, fresh)]
