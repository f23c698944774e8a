"""Trains a network if it is not there, asks it by every method, and keeps predictions and records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from dither.training import Images, Run
from studies.doubt import laplace
from studies.doubt.evaluate import Questions, ask, curve, score
from studies.doubt.network import Network, noise_batch_size
from studies.doubt.settings import Settings


def run_one(
    net: str, seed: int, out: Path, images: dict[str, Images], outside: Images, settings: Settings, methods: list[str]
) -> None:
    """One network and its methods; what is complete is not done again."""
    console = Console()
    network: Network | None = None
    for name in methods:
        method = settings.methods[name]
        if method.net != net or seed not in (method.seeds or (seed,)) or files(out, name, seed)[0].exists():
            continue
        if method.laplace and not laplace.available():
            console.print(f"{net}, seed {seed}, {name}: left out, {laplace.MISSING}", highlight=False, markup=False)
            continue
        if network is None:
            run = Run(out / f"{net}-{seed}", settings.recipe(net, seed), console=console, images=images)
            network = Network(run.base().cpu(), settings.nets[net], run.images("train"), settings, seed)
            questions = questions_of(images, outside, settings)
        record = answer(name, network, questions, out)
        numbers = f"{record['error_pct']:.2f} %, NLL {record['nll']:.4f}, AUROC {record['ood_auroc']:.3f}"
        console.print(f"{net}, seed {seed}, {name}: {numbers}", highlight=False)


def answer(name: str, network: Network, questions: Questions, out: Path) -> dict[str, Any]:
    """Asks one method, keeps its predictions beside the record, writes the record last."""
    settings, seed = network.settings, network.seed
    method = settings.methods[name]
    net = network.under(method, questions.held_out)
    count = settings.num_samples if method.sampled else 0
    answers = ask(
        net,
        questions,
        num_samples=count,
        groups=settings.groups,
        seed=seed,
        mixed_precision=settings.mixed_precision,
    )
    path, kept = files(out, name, seed)
    answers.write(kept)
    by_samples = curve(answers, settings.checks if count else (1,))
    record = {
        "net": network.kind.model,
        "epochs": network.kind.epochs,
        "weight_decay": network.kind.weight_decay,
        "data": settings.data,
        "ood": Path(questions.outside.name.removesuffix(" (test)")).name,
        "method": name,
        "seed": seed,
        "members": [seed],
        **score(answers, questions),
        "noise_batch_size": noise_batch_size(net),
        "nll_by_samples": {int(n): nll.item() for n, nll in zip(*by_samples[:2], strict=True)},
    }
    write_record(path, record)
    return record


def questions_of(images: dict[str, Images], outside: Images, settings: Settings) -> Questions:
    """Held-out training images, test images, and ``outside``; of the classes of the study where it has some."""
    train, test = images["train"], images["test"]
    if settings.classes is not None:
        train, test = train.only(settings.classes), test.only(settings.classes)
    return Questions(train.split_last(settings.validation)[1], test, outside)


def files(out: Path, method: str, seed: int) -> tuple[Path, Path]:
    """Where the record and the predictions of a method on a network are kept."""
    name = re.sub(r"\W+", "_", method)
    return out / "records" / f"{name}-{seed}.json", out / "predictions" / f"{name}-{seed}.safetensors"


def write_record(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
