"""From finished records to rows: ensembles of the predictions that are kept beside them, pairs, and times in turns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dither
from dither import metrics
from dither._cost import Spread, time_in_turns
from dither.training import Images, make_model
from studies.doubt.evaluate import Answers, Questions, precision, score, together
from studies.doubt.network import Network
from studies.doubt.run import files
from studies.doubt.settings import Settings

Kept = dict[tuple[str, int], Answers]
"""Predictions by method and seed."""


def rows(
    out: Path, settings: Settings, questions: Questions, train: Images, *, clock: bool = True
) -> tuple[Kept, list[dict[str, Any]]]:
    """Everything that is finished under ``out``, with ensembles and times, in the order of the table.

    Args:
        out: folder with records and predictions.
        settings: the study's.
        questions: what was asked.
        train: the images that were trained on.
        clock: whether times are measured; None stands in their place if not, because something else runs here.

    Returns:
        The predictions and the records.

    Raises:
        SystemExit: If nothing is finished.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "records").glob("*.json")]
    if not records:
        raise SystemExit(f"no finished record in {out}; run some methods first, see --help")
    answers = {(r["method"], r["seed"]): Answers.read(files(out, r["method"], r["seed"])[1]) for r in records}
    for name, ensemble in settings.ensembles.items():
        members = sorted(r["seed"] for r in records if r["method"] == ensemble.of)
        if len(members) > 1:
            made = answers[name, 0] = together([answers[ensemble.of, seed] for seed in members])
            first = next(r for r in records if r["method"] == ensemble.of)
            common = {key: first[key] for key in ("net", "epochs", "weight_decay", "data", "ood")}
            records.append({**common, "method": name, "seed": 0, "members": members, **score(made, questions)})
    order = list(settings.titles)
    records.sort(key=lambda r: (order.index(r["method"]), r["seed"]))
    wanted = {timed(r["method"]): r["members"] for r in records} if clock else {}
    seconds = measure_seconds(out, settings, questions, train, wanted)
    for record in records:
        found = seconds.get(timed(record["method"]))
        record["seconds_per_1000"] = None if found is None else found.median
    return answers, records


def timed(method: str) -> str:
    """The method whose time is measured for this one: weight decay leaves the operators as they are."""
    return method.removesuffix(", weight decay")


def measure_seconds(
    out: Path, settings: Settings, questions: Questions, train: Images, wanted: dict[str, list[int]]
) -> dict[str, Spread]:
    """Seconds per 1,000 test images of every method, all in turns. What was fitted does not change the time."""
    x = questions.inside.float_batch(slice(settings.timing_images))
    nets: dict[str, nn.Module] = {}
    for name, seeds in wanted.items():
        method = settings.method(name)
        members = [network(out, method.net, seed, settings, train).under(method, questions.held_out) for seed in seeds]
        nets[name] = dither.Ensemble(members) if name in settings.ensembles else members[0]
    runs = []
    for name, net in nets.items():
        net.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        sampled = settings.method(name).sampled

        def run(net: nn.Module = net, sampled: bool = sampled) -> None:
            with torch.no_grad(), precision(settings.mixed_precision):
                if sampled:
                    dither.predict(net, x, settings.num_samples, generator=torch.Generator().manual_seed(0))
                elif isinstance(net, dither.Ensemble):
                    dither.predict(net, x, 1)
                else:
                    net(x).softmax(1)

        runs.append(run)
    seconds = time_in_turns(runs, settings.timing_repeats, warmup=1)
    return {
        name: Spread.of([s * 1000 / settings.timing_images for s in times])
        for name, times in zip(nets, seconds, strict=True)
    }


def network(out: Path, net: str, seed: int, settings: Settings, train: Images) -> Network:
    kind = settings.nets[net]
    classes = None if settings.classes is None else len(settings.classes)
    base = dither.load(make_model(kind.model, classes), out / f"{net}-{seed}" / "base.safetensors").eval()
    return Network(base, kind, train, settings, seed, fit_batches=64)


def compare_pairs(
    answers: Kept, records: list[dict[str, Any]], questions: Questions, pairs: tuple[tuple[str, str], ...]
) -> list[dict[str, Any]]:
    """NLL with minus NLL without, image by image on the same network, with its standard error over test images."""
    temperatures = {(r["method"], r["seed"]): r["temperature"] for r in records}
    inside = slice(questions.sizes[0], sum(questions.sizes[:2]))
    row = torch.arange(len(questions.inside))
    made: list[dict[str, Any]] = []

    def losses(key: tuple[str, int], t: float) -> torch.Tensor:
        probs = metrics.apply_temperature(answers[key].groups.mean(0)[inside].double(), t)
        return -probs[row, questions.inside.labels].clamp_min(torch.finfo(torch.float64).tiny).log()

    for one, other in pairs:
        for seed in sorted(s for method, s in answers if method == one and (other, s) in answers):
            pair: dict[str, Any] = {"method": one, "against": other, "seed": seed}
            for name, hot in (("nll", False), ("nll_calibrated", True)):
                a, b = (losses((m, seed), temperatures[m, seed] if hot else 1.0) for m in (one, other))
                pair[name] = (a - b).mean().item()
                pair[f"{name}_se"] = (a - b).std().item() / math.sqrt(len(row))
            made.append(pair)
    return made
