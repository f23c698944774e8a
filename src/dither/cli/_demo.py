"""``dither demo``: the whole line on the digits that scikit-learn ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._common import Threads, clear_errors, print_report


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of weights, data order and noise.")] = 0,
    threads: Threads = 1,  # images of 8x8 pixels: a second thread only waits
) -> None:
    """Train a small network on 8x8 digits, prune it, and show what is left. Needs no data and no GPU."""
    with clear_errors():
        import dataclasses

        from rich.console import Console

        from dither.training import Run, default_recipe

        console = Console()
        recipe = dataclasses.replace(default_recipe("digits"), seed=seed)
        run = Run(out, recipe, console=console, threads=threads)
        if (out / "report.json").exists():
            console.print(f"{out} is complete, this is its result. Remove the folder to run again.")
        else:
            console.print(
                f"1. Train a convolutional network on {len(run.images('train')):,} digits, 8x8 pixels.\n"
                "2. Put noise on every channel (attach) and train on: loss + KL. Channels that drown in their\n"
                "   own noise (signal-to-noise ratio below 1) are not needed; nobody sets a ratio or a width.\n"
                "3. Decide what stays (plan), remove the rest (shrink), check that outputs are equal, measure.\n",
                highlight=False,
                soft_wrap=True,
            )
        print_report(console, run.prune(), out)
