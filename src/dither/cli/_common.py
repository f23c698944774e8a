"""What the commands share: errors in one line, options with the same meaning, the closing table."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from dither.training import Report

Threads = Annotated[Optional[int], typer.Option(min=1, help="CPU threads for torch.")]  # noqa: UP045 (typer on 3.10)
CheckpointSteps = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Save the training state every so many steps, beside after every epoch."),
]
Deterministic = Annotated[
    bool,
    typer.Option("--deterministic", help="The same bits again, on GPUs too: torch.use_deterministic_algorithms."),
]


@contextmanager
def clear_errors() -> Generator[None]:
    """Ends the program with one line on standard error; exit code 2 for what the user can repair, 1 for what happened.

    ``DITHER_TRACEBACK=1`` shows the whole traceback instead.

    Raises:
        Exit: The end of the program, with its exit code.
        RuntimeError: What is a fault of the program itself.
    """
    # The user's own networks (package.module:callable) are looked for in the current folder, as python -m does.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if os.environ.get("DITHER_TRACEBACK"):
        yield
        return
    from dither.training import LostProcess, NonFiniteLoss
    from dither.training._lost import is_lost, lost

    try:
        with _terminated():
            yield
    except (NonFiniteLoss, LostProcess) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except RuntimeError as error:
        if not is_lost(error):
            raise
        typer.echo(f"error: {lost(error, 'what was saved is kept')}", err=True)
        raise typer.Exit(1) from error
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from error


@contextmanager
def _terminated() -> Generator[None]:
    """SIGTERM, as launchers send it to the processes that are left and schedulers before the end, is an interrupt."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there Python lets us
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_console() -> Console:
    """Where a command writes: of several processes (``accelerate launch``), only the first one does."""
    from rich.console import Console

    return Console(quiet=int(os.environ.get("RANK", "0")) > 0)


def names(text: str | None) -> tuple[str, ...] | None:
    """The names in a text with commas; None stays None."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def print_report(console: Console, report: Report, folder: Path) -> None:
    """The plan, the table before and after, and where the files are."""
    from rich.markup import escape
    from rich.table import Table

    console.print((folder / "plan.txt").read_text(encoding="utf-8"), highlight=False, markup=False, soft_wrap=True)
    small = report.small
    table = Table(title=f"{small['net']} on {small['data']}", title_justify="left")
    table.add_column("")
    for name in ("original", "shrunk", ""):
        table.add_column(name, justify="right")
    for row in report.rows():
        table.add_row(*map(escape, row))  # "fc1[in]" is no markup
    console.print(table)
    removal = report.values["removal"]
    console.print(
        f"Removal changed outputs by {removal['max_output_difference']:.1e} of the largest one "
        f"and the error by {removal['error_change_pct']:.2f} points.",
        highlight=False,
        soft_wrap=True,
    )
    files = ("small.safetensors", "base.safetensors", "report.md", "report.json", "plan.json", "widths.png")
    console.print(f"Files in {folder}: {', '.join(files)}", highlight=False, soft_wrap=True)
