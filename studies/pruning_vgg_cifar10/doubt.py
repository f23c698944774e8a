"""What the pruned network costs and says when it is sampled, beside one pass of the network that it came from."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

import dither
from dither import batchnorm, metrics
from dither.training import Batches, Images
from studies.doubt.evaluate import precision
from studies.doubt.settings import norms
from studies.doubt.times import in_passes
from studies.pruning_vgg_cifar10.settings import Plan

NUM_SAMPLES = 16
NUM_BATCHES = 100  # of training images, for the law
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

    The law of the batch statistics is that of the batches of the fine-tuning.

    Args:
        whole: the network before pruning.
        pruned: what is left.
        images: splits "train" and "test".
        plan: how they were trained.
        seed: of the order of the training images, and of the samples.
    """
    train, _ = images["train"].split_last(plan.validation)
    nets: dict[str, tuple[nn.Module, int]] = {"whole": (whole, 0), "pruned": (pruned, 0)}
    for name, layers in (("all", None), ("last two", norms(pruned)[-2:])):
        net = batchnorm.convert(pruned, layers=layers)
        batchnorm.fit(net, Batches(train, plan.finetune, seed).epoch(0), num_batches=NUM_BATCHES)
        nets[name] = net, NUM_SAMPLES
    times = in_passes(nets, train.float_batch(slice(ROWS)), nullcontext(), REPEATS)
    return {name: times[name] | told(*nets[name], images["test"], seed) for name in nets}


def told(net: nn.Module, num_samples: int, test: Images, seed: int) -> dict[str, Any]:
    """How well the answers fit, in the precision of the training."""
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    generator = torch.Generator().manual_seed(seed)
    with precision("bf16"):
        answer = dither.predict(net, test.float_batch(slice(None)), max(num_samples, 1), generator=generator)
    table = metrics.classification_table(answer.mean, test.labels)
    return {name: table[name] for name in ("error_pct", "nll", "ece")}


def make_table(records: list[dict[str, Any]], plans: dict[str, Plan]) -> list[str]:
    """The lines of a table; none where nothing was asked."""
    asked = [record for record in records if "doubt" in record]
    if not asked:
        return []
    lines = [
        "",
        f"| network | {NUM_SAMPLES} samples | test error, % | NLL | ECE % | time, of one pass of the whole "
        "| the same, contiguous |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in asked:
        for name, title in TITLES.items():
            row = record["doubt"][name]
            lines.append(
                f"| {plans[record['net']].title}, {plans[record['net']].rows[record['row']].title} | {title} | "
                f"{row['error_pct']:.2f} | {row['nll']:.4f} | {100 * row['ece']:.2f} | "
                f"{row['time_of_dense_passes']:.2f}x | {row['time_of_dense_passes_contiguous']:.2f}x |"
            )
    return [
        *lines,
        "",
        "Errors and likelihoods in bfloat16, the precision of the training; those above in float32. Times of "
        f"`dither.predict` for {ROWS} images, float32, medians of {REPEATS} in turns; each network in the memory "
        "format that is faster for it, in the last column as torch makes them.",
    ]
