"""Does Structured Bayesian Pruning memorise random labels?

Paper:   with random labels SBP removes everything and memorises nothing (expected.toml); with dropout networks memorise
Ours:    CIFAR-10, random labels, SBP: 10.8 ± 0.7 % of the labels, 0.5 ± 0.8 % of the channels
         CIFAR-10, random labels, SBP, removes while it trains: 10.6 ± 0.3 % of the labels, 0.0 ± 0.0 % of the channels
         CIFAR-10, true labels, SBP: 100.0 % of the labels, 48.1 % of the channels
         CIFAR-10, true labels, SBP, removes while it trains: 100.0 % of the labels, 48.2 % of the channels
         MNIST, random labels, SBP: 16.6 ± 5.8 % of the labels, 4.9 ± 4.7 % of the channels
         MNIST, random labels, SBP, removes while it trains: 10.6 ± 0.3 % of the labels, 0.0 ± 0.0 % of the channels
         MNIST, true labels, SBP: 100.0 % of the labels, 14.4 % of the channels
         MNIST, true labels, SBP, removes while it trains: 100.0 % of the labels, 14.2 % of the channels
Run:     python -m studies.pruning_random_labels --threads 1        # everything that is not there yet; resumes
Differs: LeNet-5 on the first 10,000 images of MNIST and of CIFAR-10 (cropped to 28x28), 100 epochs; the paper trains on
         all images, and a VGG-like network on CIFAR-10. Dropout is 1/2 in front of the two fully connected layers.
         Everything is trained in bfloat16.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dither import figures, pruning
from dither.figures import _style as style
from dither.training import Fit, Run, make_model
from dither.training._report import machine, versions
from studies.command import folders, study_parser
from studies.fill import fill, fill_docstring
from studies.paper import paper_rows
from studies.pruning_lenet_mnist.study import enlarged_digits
from studies.pruning_random_labels import settings
from studies.records import joined

HERE = Path(__file__).parent
TITLES = {"plain": "plain", "dropout": "dropout", "sbp": "SBP", "sbp_removed": "SBP, removes while it trains"}
KEY = ("data", "labels", "method", "seed")
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "digits"}


def main(arguments: list[str] | None = None) -> None:
    parser = study_parser(
        "pruning_random_labels",
        __doc__,
        smoke="a minute on enlarged digits",
        collect="only write results, table and figure of finished runs",
        seeds=[0],
        data=("source",),
    )
    parser.add_argument("--data", nargs="+", choices=sorted(settings.HUB), default=["mnist", "cifar10"])
    parser.add_argument("--labels", nargs="+", choices=settings.LABELS, default=settings.LABELS)
    parser.add_argument("--method", nargs="+", choices=settings.METHODS, default=settings.METHODS)
    given = parser.parse_args(arguments)
    out, target = folders("pruning_random_labels", given)
    data = ["digits"] if given.smoke else given.data
    if not given.collect:
        for name in data:
            for seed in given.seed:
                for labels in given.labels:
                    for method in given.method:
                        train(out, name, method, labels, seed, given)
    finished = sorted(path.parent for path in out.glob("*/widths.json"))
    made = {"versions": versions()}
    records = joined(target / "results.json", [record(folder) for folder in finished], KEY, made)
    records.sort(key=lambda r: (r["data"], r["labels"], settings.METHODS.index(r["method"]), r["seed"]))
    results = {"machine": machine(), **made, "records": records}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for name in sorted({r["data"] for r in records}):
        figures.save(draw([r for r in records if r["data"] == name]), target / f"{name}.png")
    table = make_table(results)
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        fill_docstring(HERE / "study.py", docstring_lines(records))


def train(out: Path, data: str, method: str, labels: str, seed: int, given: argparse.Namespace) -> None:
    """One network; goes on where it was stopped, and does nothing if it is complete."""
    random = labels == "random"
    recipe = settings.recipe("mnist" if data == "digits" else data, method, seed)
    if data == "digits":
        images = settings.relabelled(enlarged_digits()["train"], random, seed)
        short = Fit(epochs=2, batch_size=100)
        parts = {name: short for name in ("base", "prune") if getattr(recipe, name).epochs}
        hurried = dataclasses.replace(recipe.noise, gate_lr=1.0, shrink_every=min(recipe.noise.shrink_every, 1))
        recipe = dataclasses.replace(recipe, data="digits", noise=hurried, **parts)
    else:
        images = settings.images(data, given.source, settings.IMAGES, random, seed)
    folder = out / f"{data}-{labels}-{method}-{seed}"
    run = Run(folder, recipe, threads=given.threads, images={"train": images})
    widths: dict[str, int] = {}
    if settings.noisy(method):
        run.gated()
        whole = pruning.attach(make_model(recipe.model), run.example())
        widths = {name: gate.num_features for name, gate in pruning.gates(whole).items()}
    else:
        run.base()
    last = rows(folder)[-1]
    print(f"{folder.name}: training error {last['error_pct']:.2f} %, kept {last['kept'] or 'all'}", flush=True)
    (folder / "widths.json").write_text(json.dumps(widths), encoding="utf-8")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def record(folder: Path) -> dict[str, Any]:
    """What became of one network, epoch by epoch."""
    data, labels, method, seed = folder.name.rsplit("-", 3)
    history, widths = rows(folder), json.loads((folder / "widths.json").read_text(encoding="utf-8"))
    total = sum(widths.values())
    return {
        "data": data,
        "labels": labels,
        "method": method,
        "seed": int(seed),
        "accuracy_pct": [round(100 - row["error_pct"], 2) for row in history],
        "kept_pct": [round(100 * sum(row["kept"].values()) / total, 2) for row in history] if total else None,
        "kept": history[-1]["kept"],
        "widths": widths,
    }


def make_table(results: dict[str, Any]) -> str:
    """Paper and measurement side by side; means over the seeds, after the last epoch."""
    records, made = results["records"], f"{results['machine']['cpu']}, torch {results['versions']['torch']}"
    lines = [
        "| data | labels | method | seeds | training accuracy, % | channels kept, % | kept, per layer |",
        "|---|---|---|---|---|---|---|",
    ]
    for data, labels, method, mine in grouped(records):
        if theirs := paper_rows(HERE.name, data=data, labels=labels).get(method):
            lines.append(f"| {NAMES[data]} | {labels} | paper, {TITLES[method]} | | | {theirs['kept_pct']:.0f} | |")
        accuracy = spread([r["accuracy_pct"][-1] for r in mine])
        kept = spread([r["kept_pct"][-1] for r in mine]) if mine[0]["kept_pct"] else "100"
        layers = "; ".join("-".join(f"{r['kept'][n]}/{w}" for n, w in r["widths"].items()) for r in mine)
        lines.append(f"| {NAMES[data]} | {labels} | {TITLES[method]} | {len(mine)} | {accuracy} | {kept} | {layers} |")
    epochs = max(len(r["accuracy_pct"]) for r in records)
    return "\n".join([*lines, "", f"After {epochs} epochs; seeds from 0 on, mean ± standard deviation. {made}."])


def docstring_lines(records: list[dict[str, Any]]) -> list[str]:
    return [
        f"{NAMES[data]}, {labels} labels, {TITLES[method]}: {spread([r['accuracy_pct'][-1] for r in mine])} % of the "
        f"labels, {spread([r['kept_pct'][-1] for r in mine])} % of the channels"
        for data, labels, method, mine in grouped(records)
        if mine[0]["kept_pct"]
    ]


def grouped(records: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, list[dict[str, Any]]]]:
    for data in dict.fromkeys(r["data"] for r in records):
        for labels in settings.LABELS:
            for method in settings.METHODS:
                mine = [r for r in records if (r["data"], r["labels"], r["method"]) == (data, labels, method)]
                if mine:
                    yield data, labels, method, mine


def spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def draw(records: list[dict[str, Any]]) -> Any:
    """Training accuracy, and the share of the channels that SBP keeps, by epoch."""
    figure, (left, right, below, beside) = style.new_figure(4.6, rows=2, columns=2)
    for axes, kept, labels in ((left, below, "random"), (right, beside, "true")):
        lines = {m: [r for r in records if (r["labels"], r["method"]) == (labels, m)] for m in settings.METHODS}
        for method, mine, look in style.styled(lines):
            for number, r in enumerate(mine):
                named = {"label": TITLES[method]} if number == 0 and axes is left else {}
                axes.plot(range(1, len(r["accuracy_pct"]) + 1), r["accuracy_pct"], **look, **named)
                if r["kept_pct"]:
                    kept.plot(range(1, len(r["kept_pct"]) + 1), r["kept_pct"], **look)
        style.label(axes, title=f"{labels} labels", y="training accuracy, %" if axes is left else None)
        style.label(kept, x="epoch", y="channels kept, %" if kept is below else None)
        axes.set_ylim(0, 102)
        kept.set_ylim(0, 102)
    style.legend(figure, left)
    return figure


if __name__ == "__main__":
    main()
