"""SBP on the VGG-like network and CIFAR-10: the rows "Original", "SBP" and "SBPa" of the paper's table 2.

Paper:   original 7.2 % error; SBP 7.5 % at 2.30x fewer FLOPs, CPU 2.71x; SBPa 9.0 %, 3.16x, 3.68x (expected.toml)
Ours:    VGG-like, SBP, weights by time: 12.03 % (base 11.89 %), 12.94x fewer MACs, CPU 7.58x
         VGG-like, half width, trained on, no noise: 10.86 % (base 11.15 %), 1.00x fewer MACs, CPU 1.00x
         VGG-like, half width, SBP: 10.38 % (base 11.15 %), 2.02x fewer MACs, CPU 1.57x
         VGG-like, half width, SBPa, weights by hand: 12.02 % (base 11.15 %), 3.73x fewer MACs, CPU 2.94x
         VGG-like, half width, SBP, weights by MACs: 16.39 % (base 11.15 %), 11.93x fewer MACs, CPU 6.31x
         VGG-like, half width, SBP, weights by time: 11.20 % (base 11.15 %), 2.91x fewer MACs, CPU 2.43x
         VGG-like, half width, SBP, weights by MACs, gentle: 11.03 % (base 11.15 %), 2.68x fewer MACs, CPU 1.78x
         VGG-like, half width, SBP, weights by MACs, gentler: 10.49 % (base 11.15 %), 2.03x fewer MACs, CPU 1.30x
         VGG-like, quarter width, trained on, no noise: 13.00 % (base 14.89 %), 1.00x fewer MACs, CPU 1.01x
         VGG-like, quarter width, SBP: 13.20 % (base 14.89 %), 1.49x fewer MACs, CPU 1.25x
         VGG-like, quarter width, SBPa, weights by hand: 13.79 % (base 14.89 %), 1.77x fewer MACs, CPU 1.36x
         VGG-like, quarter width, SBP, weights by MACs: 15.03 % (base 14.89 %), 2.81x fewer MACs, CPU 1.56x
         VGG-like, quarter width, SBP, weights by time: 14.93 % (base 14.89 %), 2.63x fewer MACs, CPU 1.61x
         seeds and times: results.json
Run:     python -m studies.pruning_vgg_cifar10 --net quarter --threads 2     # resumes; then --collect
Differs: a network of a quarter or a half of the width, or of the full one (an epoch takes half a minute, one and a
         half, or six, on two cores); tens of epochs in bfloat16, not 300; all layers train while noise is learned,
         BatchNorm too (the paper freezes it); what is left is fine-tuned; 5,000 training images are held out for
         choices.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from rich.console import Console

from dither.training import Images, Run
from studies.borrowed import borrowed
from studies.cifar10 import cifar10, coloured_digits
from studies.command import folders, study_parser
from studies.pruning_vgg_cifar10.collect import collect
from studies.pruning_vgg_cifar10.settings import PLANS, SMOKE, Plan


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "pruning_vgg_cifar10",
        __doc__,
        smoke="a minute on coloured digits",
        collect="measure times of finished runs, write tables, figure",
        seeds=[0],
        data=("data",),
    )
    names = {row for plan in PLANS.values() for row in plan.rows}
    parser.add_argument("--net", nargs="+", choices=sorted(PLANS), default=["quarter"])
    parser.add_argument("--row", nargs="+", choices=sorted(names), help="default: all of the network")
    parser.add_argument("--base", action="store_true", help="only the base networks")
    given = parser.parse_args(arguments)
    for net in given.net:
        if missing := set(given.row or ()) - PLANS[net].rows.keys():
            parser.error(f"--net {net} has no row {sorted(missing)[0]}; it has {', '.join(PLANS[net].rows)}")
    out, target = folders("pruning_vgg_cifar10", given)
    plans = {"smoke": SMOKE} if given.smoke else PLANS
    if given.collect and not any(out.glob("*/report.json")):
        raise SystemExit(f"no finished run in {out}; train some first, see --help")
    images = coloured_digits() if given.smoke else cifar10(given.data)
    if given.collect:
        collect(out, target, plans, images, threads=given.threads)
        return
    for net in plans if given.smoke else given.net:
        for seed in given.seed:
            base = base_of(out / f"{net}-base-{seed}", plans[net], seed, images, given.threads)
            for row in [] if given.base else given.row or plans[net].rows:
                prune(out / f"{net}-{row}-{seed}", plans[net], row, seed, images, base, given.threads)


def base_of(folder: Path, plan: Plan, seed: int, images: dict[str, Images], threads: int) -> Path:
    """The trained network that all rows start from; goes on where it was stopped."""
    Run(folder, plan.base_recipe(seed), console=Console(), threads=threads, images=images).base()
    return folder / "base.safetensors"


def prune(folder: Path, plan: Plan, row: str, seed: int, images: dict[str, Images], base: Path, threads: int) -> None:
    """One row; goes on where it was stopped, and does nothing if it is complete."""
    console = Console()
    console.print(folder.name, style="bold")
    run = borrowed(folder, plan.recipe(row, seed), base.parent, images, console, threads)
    with warnings.catch_warnings():
        if plan.rows[row].noise is None:  # on purpose
            warnings.filterwarnings("ignore", "Nothing was learned")
        report = run.prune()
    for line in report.rows():
        console.print("  ".join(line), highlight=False, markup=False)
