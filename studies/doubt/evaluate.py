"""What a network is asked, what it answers, and the numbers of one row of a table."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dither
from dither import metrics
from dither.training import Images, predict_logits

ROWS = 250  # in one pass: activations stay within reach of the cache


@dataclass(frozen=True)
class Questions:
    """The images that every method is asked about.

    Attributes:
        held_out: training images that no network has seen: for temperatures and choices.
        inside: test images of the classes that were trained.
        outside: images of something else.
    """

    held_out: Images
    inside: Images
    outside: Images

    @property
    def sizes(self) -> list[int]:
        return [len(self.held_out), len(self.inside), len(self.outside)]

    def all(self) -> Images:
        parts = (self.held_out, self.inside, self.outside)
        pixels, labels = torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts])
        return Images(pixels, labels, self.inside.num_classes, "all images")


@dataclass(frozen=True)
class Answers:
    """Probabilities for all questions, (held out, inside, outside) one after the other along N.

    Attributes:
        groups: means over G equal groups of samples, (G, N, K).
        mutual_information: nats, (N,).
        on_target: probability of the right class of the test images by sample, (S, N_inside).
    """

    groups: Tensor
    mutual_information: Tensor
    on_target: Tensor

    @property
    def num_samples(self) -> int:
        return len(self.on_target)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        save_file({name: value.contiguous() for name, value in vars(self).items()}, new)
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Answers:
        return cls(**load_file(path))


def precision(mixed_precision: str) -> AbstractContextManager[object]:
    """The precision in which a network was trained: "no" or "bf16"."""
    return torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16")


def ask(
    net: nn.Module, questions: Questions, *, num_samples: int, groups: int, seed: int, mixed_precision: str = "no"
) -> Answers:
    """The same ``num_samples`` networks for all images; 0 is one pass of the mean network."""
    images = questions.all()
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if num_samples:
        generator = torch.Generator().manual_seed(seed)
        x = images.float_batch(slice(None))
        with precision(mixed_precision):
            prediction = dither.predict(net, x, num_samples, generator=generator, max_batch=ROWS)
        probs, mutual_information = prediction.probs, prediction.mutual_information
        means = probs.unflatten(0, (groups, -1)).mean(1)
    else:
        with precision(mixed_precision):
            logits = predict_logits(net, images, channels_last=True)
        probs = means = logits.float().softmax(1)[None]
        mutual_information = torch.zeros(len(images))
    inside = probs.split(questions.sizes, 1)[1]
    rows = torch.arange(len(questions.inside))
    return Answers(means, mutual_information, inside[:, rows, questions.inside.labels])


def together(members: list[Answers]) -> Answers:
    """A deep ensemble, every member with the same weight and its own samples: what `dither.Ensemble` predicts."""
    groups = torch.stack([member.groups for member in members])
    mean = groups.mean((0, 1))
    # H(mean) minus the mean of H over all samples; of each member that is H(member's mean) minus its own.
    inner = [metrics.entropy(m.groups.mean(0)) - m.mutual_information for m in members]
    mutual_information = metrics.entropy(mean) - torch.stack(inner).mean(0)
    return Answers(
        groups.mean(0), mutual_information.to(mean.dtype), torch.cat([member.on_target for member in members])
    )


def score(answers: Answers, questions: Questions) -> dict[str, Any]:
    """The numbers of one row, with their Monte-Carlo standard errors."""
    groups = answers.groups
    values = table(groups.mean(0), questions)
    _, inside, outside = answers.mutual_information.split(questions.sizes)
    if answers.num_samples > 1:
        values["ood_auroc_mi"] = metrics.auroc(inside, outside)
    values |= {"num_samples": answers.num_samples, "monte_carlo_se": {}}
    if len(groups) > 1:
        # Jackknife: leave out one group of samples after the other. The samples are the same networks for all images.
        rest = (groups.sum(0) - groups) / (len(groups) - 1)
        replicates = [table(probs, questions) for probs in rest]
        factor = (len(groups) - 1) / math.sqrt(len(groups))
        values["monte_carlo_se"] = {
            name: factor * torch.tensor([r[name] for r in replicates], dtype=torch.float64).std().item()
            for name in replicates[0]
        }
    return values


def table(probs: Tensor, questions: Questions) -> dict[str, float]:
    """All metrics of mean probabilities, (N, K)."""
    held_out, inside, outside = probs.split(questions.sizes)
    return metrics.classification_table(
        inside, questions.inside.labels, held_out=(held_out, questions.held_out.labels), outside=outside
    )


def curve(answers: Answers, checks: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of samples, NLL on the test images, and its spread between groups of so many samples."""
    right = answers.on_target.double().clamp(0, 1)
    probs = torch.stack([right, 1 - right], -1)  # for the NLL all wrong classes are one
    return metrics.nll_by_samples(probs, torch.zeros(probs.shape[1], dtype=torch.int64), checks)
