"""The figures of the study, by the library's own functions, small enough to look at in a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dither import figures, metrics
from studies.batchnorm_lenet_mnist.evaluate import Answers, Questions, curve
from studies.batchnorm_lenet_mnist.settings import TITLES, Settings

ENTROPY = ("single", "sbn", "mc batchnorm", "dropout", "ensemble", "ensemble + sbn")
RELIABILITY = ("single", "sbn", "dropout")
SAMPLES = ("sbn", "mc batchnorm", "dropout")
NAMES = TITLES | {"mc batchnorm": "MC BatchNorm", "dropout": "dropout", "ensemble": "ensemble"}
NAMES |= {"ensemble + sbn": "ensemble + SBN", "single": "single net"}


def draw(
    answers: dict[tuple[str, int], Answers],
    records: list[dict[str, Any]],
    questions: Questions,
    settings: Settings,
    target: Path,
) -> None:
    """Entropies inside and outside, reliability, and NLL against the number of samples."""
    target.mkdir(parents=True, exist_ok=True)
    names = (questions.inside.name.split("/")[-1], questions.outside.name.split("/")[-1])
    kinds = ("MNIST", "notMNIST") if "mnist" in names[0].lower() else names
    split = {key: a.groups.mean(0).split(questions.sizes)[1:] for key, a in answers.items()}
    entropies = {m: [metrics.entropy(p) for p in split[m, 0]] for m in ENTROPY if (m, 0) in split}
    figure = figures.entropy_ecdf(
        {NAMES[m]: e[0] for m, e in entropies.items()}, {NAMES[m]: e[1] for m, e in entropies.items()}, names=kinds
    )
    figures.save(figure, target / "entropy.png")

    # Networks of the same seeds for every line.
    seeds = sorted(set.intersection(*({seed for m, seed in answers if m == name} for name in RELIABILITY + SAMPLES)))
    if not seeds:
        raise SystemExit(f"the figures need at least one seed of each of {', '.join(RELIABILITY + SAMPLES)}")
    pooled = {NAMES[m]: torch.cat([split[m, seed][0] for seed in seeds]) for m in RELIABILITY}
    figures.save(
        figures.reliability_diagram(pooled, questions.inside.labels.repeat(len(seeds))), target / "reliability.png"
    )

    curves: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for m in SAMPLES:
        made = [curve(answers[m, seed], settings.checks) for seed in seeds]
        mean, spread = (torch.stack([c[i] for c in made]).mean(0) for i in (1, 2))
        curves[NAMES[m]] = (made[0][0], mean, spread)
    single = [r["nll"] for r in records if r["method"] == "single" and r["seed"] in seeds]
    figures.save(figures.nll_by_samples(curves, single=sum(single) / len(single)), target / "nll_by_samples.png")
