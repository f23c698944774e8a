"""``dither inspect``: what a file of dither holds, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._common import clear_errors, make_console

if TYPE_CHECKING:
    from rich.console import Console

    from dither._header import Header


def inspect(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .onnx or .pt2 file that dither wrote.")],
) -> None:
    """Show class, plan, cost, notes and tensors of a saved or exported network, without loading it."""
    with clear_errors():
        from dither._export import EXPORTED, read_exported
        from dither._header import CheckpointError, brief, read_header

        header = read_exported(file) if file.suffix in EXPORTED else read_header(file)
        console = make_console()
        state = "shrunk" if header.shrunk else "not shrunk"
        _say(console, f"{file}: {header.class_name}, {state}, dither format {header.version}")
        for key, value in header.metadata.items():
            _say(console, f"{key}: {value}")
        try:
            _show_plans(console, header)
            _show_cost(console, header)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
            raise CheckpointError(
                f"the plan or the cost in {file} is none of this dither ({brief(repr(error))}). Save the network again."
            ) from error
        _show_tensors(console, header)


def _show_plans(console: Console, header: Header) -> None:
    """What was removed, step by step if the network was shrunk more than once."""
    from dither.pruning import Plan

    step, plans = header.shrunk, list[str]()
    while step:
        plans.insert(0, str(Plan.from_dict(step["plan"])))
        step = step.get("before")
    for plan in plans:
        _say(console, f"\n{plan}")


def _show_cost(console: Console, header: Header) -> None:
    from dither import Comparison, Cost

    if header.cost is not None:
        kind = Comparison if "original" in header.cost else Cost
        _say(console, f"\n{kind.from_dict(header.cost)}")


def _show_tensors(console: Console, header: Header) -> None:
    import math

    from rich.table import Table

    if header.shapes:
        table = Table("tensor", "shape", "numbers")
        for name, shape in header.shapes.items():
            table.add_row(name, " x ".join(map(str, shape)) or "one number", f"{math.prod(shape):,}")
        stored = [shape for name, shape in header.shapes.items() if name not in header.shared]
        table.add_row("all", "", f"{sum(map(math.prod, stored)):,}")
        console.print(table)
    if header.checksum:
        _say(console, f"checksum of the tensors, equal for equal networks: {header.checksum}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
