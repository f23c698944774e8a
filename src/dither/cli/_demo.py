"""``dither demo``: both lines on the digits that scikit-learn ships. Prune a network; let a network doubt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._common import Threads, clear_errors, make_console, print_report

if TYPE_CHECKING:
    from rich.console import Console

KNOWN = (0, 1, 2, 3, 4)  # the digits that the doubting network is trained on


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of weights, data order and noise.")] = 0,
    threads: Threads = 1,  # images of 8x8 pixels: a second thread only waits
) -> None:
    """Train small networks on 8x8 digits, prune one, let the other doubt. Needs no data and no GPU."""
    with clear_errors():
        console = make_console()
        _prune(console, out, seed, threads)
        _doubt(console, out / "known", seed, threads)


def _prune(console: Console, out: Path, seed: int, threads: int | None) -> None:
    import dataclasses

    from dither.training import Run, default_recipe

    recipe = dataclasses.replace(default_recipe("digits"), seed=seed)
    run = Run(out, recipe, console=console, threads=threads)
    if (out / "report.json").exists():
        console.print(f"{out} is complete, this is its result. Remove the folder to run again.")
    else:
        _tell(
            console,
            f"1. Train a convolutional network on {len(run.images('train')):,} digits, 8x8 pixels.\n"
            "2. Put noise on every channel (attach) and train on: loss + KL. Channels that drown in their\n"
            "   own noise (signal-to-noise ratio below 1) are not needed; nobody sets a ratio or a width.\n"
            "3. Decide what stays (plan), remove the rest (shrink), check that outputs are equal, measure.\n",
        )
    print_report(console, run.prune(), out)


def _doubt(console: Console, out: Path, seed: int, threads: int | None) -> None:
    import dataclasses

    from rich.table import Table

    from dither.training import Run, default_recipe, doubt

    recipe = dataclasses.replace(default_recipe("digits_bn"), seed=seed, classes=KNOWN)
    run = Run(out, recipe, console=console, threads=threads)
    if not (out / "doubt" / "report.json").exists():
        _tell(
            console,
            "\n4. Train another network, with BatchNorm and batches of 16, on the digits 0 to 4 only.\n"
            "5. Find out how the statistics of its batches vary (convert, fit), draw them 16 times at test time\n"
            "   (predict), and ask about digits that it has never seen, 5 to 9. Is its doubt larger there?",
        )
    _tell(console, "")
    report = doubt(run, "rest", console=console)
    counts = report.values["images"]
    table = Table(
        title=f"{counts['test']} digits from 0 to 4, then {counts['outside']} from 5 to 9", title_justify="left"
    )
    table.add_column("")
    for name in ("error", "neg. log-likelihood", "5 to 9 found (AUROC)"):
        table.add_column(name, justify="right")
    for name, record in (("single network", report.single), ("stochastic BatchNorm", report.sbn)):
        numbers = f"{record['error_pct']:.2f} %", f"{record['nll']:.4f}", f"{record['ood_auroc']:.3f}"
        table.add_row(name, *numbers)
    console.print(table)
    _tell(
        console,
        "AUROC: how often a digit from 5 to 9 has more entropy than one from 0 to 4; 0.5 is chance, 1 is always.\n"
        f"{report.change_in_words}\n"
        "On data as easy as this, one network can be as good as 16 draws.\n"
        f"Report and figures in {report.folder}",
    )


def _tell(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
