"""SBP on LeNet-5-Caffe and LeNet-500-300, MNIST: the rows "StructuredBP" of the paper's table 1.

Paper:   LeNet-5      0.86 % error, widths 3-18-284-283, 10.49x fewer FLOPs, CPU 5.41x     (expected.toml)
         LeNet-500-300 1.55 % error, widths 245-160-55, 11.23x fewer FLOPs, CPU 2.33x
Ours:    LeNet-5-Caffe 0.67 ± 0.02 % error, widths 4-13-121-73, 16.54 ± 2.24x fewer MACs, CPU 6.70 ± 0.45x (batch 64)
         LeNet-500-300 1.06 ± 0.04 % error, widths 212-101-68, 18.81 ± 0.39x fewer MACs, CPU 8.46 ± 0.85x (batch 64)
         means over 3 seeds (results.json)
Run:     python -m studies.pruning_lenet_mnist --net lenet5 --seed 0 --threads 1     # then --collect
Differs: images are shifted by up to one pixel while noise is learned and while LeNet-5 is fine-tuned, the original
         network sees none of it; LeNet-5 is fine-tuned after removal, trained in bfloat16 and has a ReLU after each
         pooling; a KL factor per gate.
         Settings were chosen here, on the last 10,000 training images (choice.md); the paper names none for these nets.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

from dither.training import Fit, Images, Run, load_images
from studies.command import folders, study_parser
from studies.pruning_lenet_mnist.collect import collect
from studies.pruning_lenet_mnist.settings import RECIPES

LOCAL = Path("../shared/data/mnist")  # a copy of the hub's data set, where there is one


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "pruning_lenet_mnist",
        __doc__,
        smoke="two minutes on enlarged digits",
        collect="measure latencies of finished runs, write all tables",
        seeds=[0],
        data=("data",),
    )
    parser.add_argument("--net", nargs="+", choices=sorted(RECIPES), default=sorted(RECIPES))
    given = parser.parse_args(arguments)
    out, target = folders("pruning_lenet_mnist", given)
    if given.collect:
        collect(out, target, threads=given.threads)
        return
    images = enlarged_digits() if given.smoke else None
    for net in given.net:
        for seed in given.seed:
            images = images or mnist(given.data)
            run_one(net, seed, out, images, threads=given.threads, smoke=given.smoke)


def run_one(net: str, seed: int, out: Path, images: dict[str, Images], *, threads: int, smoke: bool = False) -> None:
    """One network and seed; goes on where it was stopped, and does nothing if it is complete."""
    recipe = dataclasses.replace(RECIPES[net], seed=seed)
    if smoke:
        short = Fit(epochs=4, batch_size=100)
        finetune = dataclasses.replace(recipe.finetune, epochs=min(recipe.finetune.epochs, 1), batch_size=100)
        recipe = dataclasses.replace(recipe, data="digits", base=short, prune=short, finetune=finetune)
        # Gates that hurry, so that there is something to remove after 56 steps.
        recipe = dataclasses.replace(recipe, noise=dataclasses.replace(recipe.noise, gate_lr=0.3, kl_weight=0.05))
    console = Console()
    console.print(f"{net}, seed {seed}", style="bold")
    run = Run(out / f"{net}-{seed}", recipe, console=console, threads=threads, images=images, checkpoint_steps=None)
    report = run.prune()
    for row in report.rows():
        console.print("  ".join(row), highlight=False, markup=False)


def mnist(data: str | None) -> dict[str, Images]:
    source = data or (str(LOCAL) if LOCAL.is_dir() else "ylecun/mnist")
    return {split: load_images(source, split) for split in ("train", "test")}


def enlarged_digits() -> dict[str, Images]:
    """The 8x8 digits as 28x28 images: for trying the program where MNIST is not at hand."""

    def enlarge(images: Images) -> Images:
        pixels = F.interpolate(images.pixels.float(), size=(24, 24), mode="bilinear", align_corners=False)
        return dataclasses.replace(images, pixels=F.pad(pixels, (2, 2, 2, 2)).round().to(torch.uint8))

    return {split: enlarge(load_images("digits", split)) for split in ("train", "test")}
