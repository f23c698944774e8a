"""``dither report``: one HTML file about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ._common import Threads, clear_errors


def report(
    folder: Annotated[Path, typer.Argument(help="Run folder of dither train, finished or not.")],
    out: Annotated[Optional[Path], typer.Option(help="The file; default: report.html in the folder.")] = None,  # noqa: UP045 (typer on 3.10)
    data: Annotated[Optional[str], typer.Option(help="Where the images are now; default: as the run says.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(min=1, help="Ask the networks about so many test images at most.")] = 10_000,
    threads: Threads = None,
) -> None:
    """Write one HTML page about a run: everything in one file, nothing fetched."""
    with clear_errors():
        import torch

        from dither.report import write_page

        if threads is not None:
            torch.set_num_threads(threads)
        path = write_page(folder, out, data=data, most=images)
        typer.echo(f"{path}: {path.stat().st_size / 1e3:,.0f} kB in one file, open it in a browser")
