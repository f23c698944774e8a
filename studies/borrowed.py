"""Runs that begin with a network that was trained elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from dither.training import Images, Recipe, Run


def borrowed(
    folder: Path, recipe: Recipe, trained: Path, images: dict[str, Images], console: Console, threads: int | None = None
) -> Run:
    """A run of its own that begins with the base network of another folder; without one it is trained here."""
    base = trained / "base.safetensors"
    if base.exists() and not (folder / "base.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base, folder / "base.safetensors")
    return Run(folder, recipe, console=console, threads=threads, images=images)
