"""Checksums of all files of a folder, in a file that ``sha256sum --check`` reads too."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_sums(folder: Path) -> None:
    """Writes the checksum of every file below ``folder`` to ``SHA256SUMS`` in it."""
    lines = [f"{_sum(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def find_damage(folder: Path) -> str | None:
    """Which file below ``folder`` is not as it was when the checksums were written, or None.

    Every file is read. A file too many is damage too: a list that lost a line would not notice a change.

    Raises:
        OSError: If a file is there and cannot be read: that says nothing about what is in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / "a.bin").write_bytes(b"as it was")
        ...     write_sums(folder)
        ...     before = find_damage(folder)
        ...     _ = (folder / "a.bin").write_bytes(b"as it is!")
        ...     (before, find_damage(folder))
        (None, 'a.bin does not have its checksum')
    """
    if not (folder / SUMS).exists():
        return f"{SUMS} is missing"
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    found = [_LINE.fullmatch(line) for line in lines]
    sums = {match[2]: match[1] for match in found if match}
    if len(sums) < len(lines):
        return f"{SUMS} cannot be read"
    names = _names(folder)
    if missing := sorted(sums.keys() - set(names)):
        return f"{missing[0]} is missing"
    for name in names:
        if name not in sums:
            return f"{name} is not in {SUMS}"
        if _sum(folder / name) != sums[name]:
            return f"{name} does not have its checksum"
    return None


def _names(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    return [path.relative_to(folder).as_posix() for path in paths]


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
