"""``dither doubt``: convert, fit, predict; the network beside its stochastic self."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ._common import Deterministic, Threads, clear_errors, make_console, names

if TYPE_CHECKING:
    from rich.console import Console

    from dither.batchnorm import Law
    from dither.training import DoubtReport


def doubt(
    folder: Annotated[Path, typer.Argument(help="Run folder of dither train; the network needs BatchNorm.")],
    data: Annotated[Optional[str], typer.Option(help="Where the images are now; default: as the run says.")] = None,  # noqa: UP045 (typer on 3.10)
    ood: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Images it cannot know: another data set, or 'rest', the classes that were left out."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Draws of the statistics.")] = 16,
    law: Annotated[str, typer.Option(help="factorized, empirical, independent, correlated or cached.")] = "factorized",
    layers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="BatchNorm layers that draw, or modules that hold them, with commas; default: all."),
    ] = None,
    num_batches: Annotated[int, typer.Option(min=2, help="Training batches that the law is fitted on.")] = 500,
    tune: Annotated[bool, typer.Option("--tune", help="Choose the size of the noise on held-out images.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Ask the network that dither prune left.")] = False,
    threads: Threads = None,
    deterministic: Deterministic = False,
) -> None:
    """Measure what a network knows about its own mistakes, with Stochastic Batch Normalization."""
    with clear_errors():
        from dither.training import Run
        from dither.training import doubt as measure

        console = make_console()
        run = Run(folder, console=console, threads=threads, deterministic=deterministic, data=data)
        report = measure(
            run,
            ood,
            num_samples=num_samples,
            law=_law(law),
            layers=names(layers),
            num_batches=num_batches,
            tune=tune,
            network="small" if small else "base",
            console=console,
        )
        print_doubt(console, report)


def print_doubt(console: Console, report: DoubtReport) -> None:
    """The table, what it was measured on, and where the files are."""
    from rich.markup import escape
    from rich.table import Table

    record = report.sbn
    table = Table(title=f"{record['net']} on {record['data']}", title_justify="left")
    table.add_column("")
    for name in ("single network", "stochastic BatchNorm"):
        table.add_column(name, justify="right")
    for row in report.rows():
        table.add_row(*map(escape, row))
    console.print(table)
    for sentence in report.sentences():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    files = ("report.md", "report.json", *report.values["figures"])
    console.print(f"Files in {report.folder}: {', '.join(files)}", highlight=False, markup=False, soft_wrap=True)


def _law(name: str) -> Law:
    from dither import batchnorm

    known: dict[str, Law] = {
        "factorized": batchnorm.Factorized(),
        "empirical": batchnorm.Empirical(joint=True),
        "independent": batchnorm.Empirical(joint=False),
        "correlated": batchnorm.Correlated(),
        "cached": batchnorm.Cached(),
    }
    if name not in known:
        raise ValueError(f"--law is {name!r}, expected one of {', '.join(known)}")
    return known[name]
