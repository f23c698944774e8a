"""The figures of a study, by the library's own functions, small enough to look at in a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dither import figures, metrics
from studies.doubt.collect import Kept
from studies.doubt.evaluate import Questions, curve
from studies.doubt.settings import Settings


def draw(answers: Kept, records: list[dict[str, Any]], questions: Questions, settings: Settings, target: Path) -> None:
    """Entropies inside and outside, reliability, and NLL against the number of samples, of the methods that are there.

    Raises:
        SystemExit: If no seed has all of them.
    """
    target.mkdir(parents=True, exist_ok=True)
    shown, names = settings.shown, settings.titles | settings.shown.names
    split = {key: a.groups.mean(0).split(questions.sizes)[1:] for key, a in answers.items()}
    entropies = {m: [metrics.entropy(p) for p in split[m, 0]] for m in shown.entropy if (m, 0) in split}
    figure = figures.entropy_ecdf(
        {names[m]: e[0] for m, e in entropies.items()},
        {names[m]: e[1] for m, e in entropies.items()},
        names=settings.names,
    )
    figures.save(figure, target / "entropy.png")

    # Networks of the same seeds for every line.
    there = {method for method, _ in answers}
    reliability, samples = ([m for m in those if m in there] for those in (shown.reliability, shown.samples))
    wanted = (*reliability, *samples)
    seeds = sorted(set.intersection(*({seed for m, seed in answers if m == name} for name in wanted)))
    if not seeds:
        raise SystemExit(f"the figures need at least one seed of each of {', '.join(wanted)}")
    pooled = {names[m]: torch.cat([split[m, seed][0] for seed in seeds]) for m in reliability}
    figures.save(
        figures.reliability_diagram(pooled, questions.inside.labels.repeat(len(seeds))), target / "reliability.png"
    )

    curves: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for m in samples:
        made = [curve(answers[m, seed], settings.checks) for seed in seeds]
        mean, spread = (torch.stack([c[i] for c in made]).mean(0) for i in (1, 2))
        curves[names[m]] = (made[0][0], mean, spread)
    single = [r["nll"] for r in records if r["method"] == "single" and r["seed"] in seeds]
    figures.save(figures.nll_by_samples(curves, single=sum(single) / len(single)), target / "nll_by_samples.png")
