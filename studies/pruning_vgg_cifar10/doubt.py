"""What the pruned network costs and says when it is sampled, beside one pass of the network that it came from."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

import dither
from dither import batchnorm, metrics
from dither.training import Batches, Images
from studies.doubt.times import in_passes
from studies.pruning_vgg_cifar10.settings import Plan
from studies.small_and_doubtful.settings import norms

NUM_SAMPLES = 16
ROWS = 64  # images of the batch that is timed
REPEATS = 20
TITLES = {
    "whole": "whole, one pass",
    "pruned": "pruned, one pass",
    "all": "pruned + SBN",
    "last two": "pruned + SBN, last two layers",
}


def doubted(
    whole: nn.Module, pruned: nn.Module, images: dict[str, Images], plan: Plan, seed: int
) -> dict[str, dict[str, Any]]:
    """Error, likelihood and time of each of `TITLES`.

    The law of the batch statistics is that of the batches of the fine-tuning, one epoch of them.

    Args:
        whole: the network before pruning.
        pruned: what is left.
        images: splits "train" and "test".
        plan: how they were trained.
        seed: of the order of the training images, and of the samples.
    """
    train, held_out = images["train"].split_last(plan.validation)
    nets: dict[str, tuple[nn.Module, int]] = {"whole": (whole, 0), "pruned": (pruned, 0)}
    for name, layers in (("all", None), ("last two", norms(pruned)[-2:])):
        net = batchnorm.convert(pruned, layers=layers)
        batchnorm.fit(net, Batches(train, plan.finetune, seed).epoch(0))
        nets[name] = net, NUM_SAMPLES
    times = in_passes(nets, train.float_batch(slice(ROWS)), nullcontext(), REPEATS)
    return {name: times[name] | told(*nets[name], images["test"], held_out, seed) for name in nets}


def told(net: nn.Module, num_samples: int, test: Images, held_out: Images, seed: int) -> dict[str, Any]:
    """How well the answers fit: `dither.metrics.classification_table`."""
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    answers: list[torch.Tensor] = []
    for images in (test, held_out):
        generator = torch.Generator().manual_seed(seed)
        answers.append(
            dither.predict(net, images.float_batch(slice(None)), max(num_samples, 1), generator=generator).mean
        )
    table = metrics.classification_table(answers[0], test.labels, held_out=(answers[1], held_out.labels))
    return {name: table[name] for name in ("error_pct", "nll", "nll_calibrated", "ece")}


def make_table(records: list[dict[str, Any]], plans: dict[str, Plan]) -> list[str]:
    """The lines of a table; none where nothing was asked."""
    asked = [record for record in records if "doubt" in record]
    if not asked:
        return []
    lines = [
        "",
        f"| network | {NUM_SAMPLES} samples | test error, % | NLL | NLL, calibrated | ECE % | of one pass of the whole "
        "| the same, contiguous |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in asked:
        for name, title in TITLES.items():
            row = record["doubt"][name]
            lines.append(
                f"| {plans[record['net']].title}, {plans[record['net']].rows[record['row']].title} | {title} | "
                f"{row['error_pct']:.2f} | {row['nll']:.4f} | {row['nll_calibrated']:.4f} | {100 * row['ece']:.2f} | "
                f"{row['time_of_dense_passes']:.2f}x | {row['time_of_dense_passes_contiguous']:.2f}x |"
            )
    return [
        *lines,
        "",
        f"Times of `dither.predict` for {ROWS} images, float32, medians of {REPEATS} in turns; each network in the "
        "memory format that is faster for it, in the last column as torch makes them.",
    ]
