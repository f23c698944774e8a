"""Structured Bayesian Pruning against the field: the same base, the same budget, the same multiply-accumulates.

Paper:   none has this table: each compares itself with numbers that others published, of other trainings
Ours:    lenet5 8.5x: SBP 0.58 ± 0.06 %; the best other, L1: 0.62 ± 0.04 %
         lenet5 15x: SBP 0.64 ± 0.05 %; the best other, Taylor: 0.67 ± 0.03 %
         vgg16 2.5x: SBP 14.72 ± 0.13 %; the best other, random, SBP's widths: 14.86 ± 0.28 %
         vgg16 5x: SBP 17.81 ± 0.23 %; the best other, random, SBP's widths: 18.72 ± 0.57 %
         resnet18 2.5x: SBP 12.79 %; the best other, random, SBP's widths: 12.55 %
         resnet18 5x: SBP 14.98 %; the best other, random, SBP's widths: 15.09 %
         mean ± standard deviation over the seeds that all methods have (results.json)
Run:     python -m studies.pruning_against_the_field --net lenet5 --threads 1     # resumes; then --collect
Differs: SBP is steered to a size here (dither.pruning.Target), which the paper does not do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from dither.training import Images, load_images
from studies.cifar10 import cifar10
from studies.command import folders, study_parser
from studies.pruning_against_the_field.collect import collect
from studies.pruning_against_the_field.contest import Contest
from studies.pruning_against_the_field.settings import CASES, METHODS, SCOPES, SMOKE, Case
from studies.pruning_lenet_mnist.study import mnist


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "pruning_against_the_field",
        __doc__,
        smoke="a minute on the digits",
        collect="measure times of finished runs, write all tables",
        data=("data",),
    )
    parser.add_argument("--net", nargs="+", choices=sorted(CASES), default=["lenet5"])
    parser.add_argument("--method", nargs="+", choices=list(METHODS), help="default: all that the network can have")
    parser.add_argument("--size", nargs="+", type=float, help="times fewer MACs; default: the sizes of the study")
    choosing = parser.add_argument_group("choosing settings, on held-out training images instead of the test images")
    choosing.add_argument("--choose", action="store_true", help="measure on these images")
    choosing.add_argument("--rate", type=float, help="Adam's rate after the base")
    choosing.add_argument("--scope", choices=SCOPES, help="ranking of the criteria of Torch-Pruning")
    choosing.add_argument("--passes", type=int, help="over the training images, after the base")
    choosing.add_argument("--under-noise", type=int, help="those of them that SBP spends under noise")
    given = parser.parse_args(arguments)
    tried = {name: getattr(given, name) for name in ("rate", "scope", "passes", "under_noise") if getattr(given, name)}
    if tried and not given.choose:
        option = next(iter(tried)).replace("_", "-")
        parser.error(f"--{option} is for --choose: the rows of the table are those of settings.py")
    torch.set_num_threads(given.threads)
    cases = SMOKE if given.smoke else {name: CASES[name] for name in given.net}
    out, target = folders("pruning_against_the_field", given)
    if given.collect:
        collect(out, target, {**CASES, **SMOKE})
        return
    for name, case in cases.items():
        images = part(load(case, given.data), case, choosing=given.choose)
        case = changed(case, **tried)
        for seed in given.seed or case.seeds:
            rows = Path("choose" if given.choose else ".")
            tag = "".join(f"-{name}-{value}" for name, value in tried.items())
            contest = Contest(name, case, seed, out / f"{name}-{seed}", images, Console(), rows, tag)
            run(contest, given.method or case.methods, given.size)


def run(contest: Contest, methods: list[str], sizes: list[float] | None) -> None:
    """Every row that is not there yet, size by size."""
    case = contest.case
    rows = [(size, name) for name in methods for size in case.sizes_of(name) if name in case.methods]
    for size, method in sorted(rows, key=lambda row: row[0]):
        if sizes is None or size in (1.0, *sizes):
            record = contest.row(method, size)
            removed = f"{record['removed_error_pct']:5.2f} -> " if "removed_error_pct" in record else ""
            error = f"{removed}{record['error_pct']:5.2f} %"
            print(f"{contest.folder.name:16} {record['macs_ratio']:5.2f}x {method:12} {error}", flush=True)


def load(case: Case, data: str | None) -> dict[str, Images]:
    if case.data == "digits":
        return {split: load_images("digits", split) for split in ("train", "test")}
    return mnist(data) if case.data == "mnist" else cifar10(data)


def part(images: Mapping[str, Images], case: Case, *, choosing: bool) -> dict[str, Images]:
    """The last training images are held out, for everybody; to choose settings they stand in for the test images."""
    train, held_out = images["train"].split_last(case.held_out)
    return {"train": train, "test": dataclasses.replace(held_out, name="held out") if choosing else images["test"]}


def changed(
    case: Case,
    rate: float | None = None,
    scope: str | None = None,
    passes: int | None = None,
    under_noise: int | None = None,
) -> Case:
    """The case with one rate and one scope for all methods, and so many passes after the base, and under noise."""
    after = passes or case.after
    return dataclasses.replace(
        case,
        rates=dict.fromkeys(case.rates, rate) if rate else case.rates,
        scope=scope or case.scope,
        after=after,
        under_noise=under_noise or round(case.under_noise * after / case.after),
        decay_after=round(case.decay_after * after / case.after),
    )
