"""``dither inspect``: what a saved network is, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._common import clear_errors


def inspect(
    file: Annotated[Path, typer.Argument(help="A .safetensors file that dither saved.")],
) -> None:
    """Show class, tensors, widths and notes of a saved network, without loading it."""
    with clear_errors():
        import math

        from rich.console import Console
        from rich.table import Table

        from dither._checkpoint import VERSION, read_header
        from dither.pruning import Plan

        header = read_header(file)
        console = Console()
        state = "shrunk" if header.shrunk else "not shrunk"
        console.print(f"{file}: {header.class_name}, {state}, dither format {VERSION}", highlight=False, soft_wrap=True)
        for key, value in header.metadata.items():
            console.print(f"{key}: {value}", highlight=False, soft_wrap=True)
        table = Table("tensor", "shape", "numbers")
        for name, shape in header.shapes.items():
            table.add_row(name, " x ".join(map(str, shape)) or "one number", f"{math.prod(shape):,}")
        table.add_row("all", "", f"{sum(map(math.prod, header.shapes.values())):,}")
        console.print(table)
        if header.shrunk:
            console.print(str(Plan.from_dict(header.shrunk["plan"])), highlight=False, markup=False, soft_wrap=True)
