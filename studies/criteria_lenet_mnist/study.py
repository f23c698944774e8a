"""One training run, several criteria: SNR and Bayesian model reduction on the LeNets of studies/pruning_lenet_mnist.

Paper:   BMRS (arXiv:2406.01345) prunes without a threshold, at accuracies close to those of SNR; other networks.
Ours:    SNR > 1                 LeNet-5 0.67 % at 16.5x fewer MACs, LeNet-500-300 1.06 % at 18.8x
         BMRS_U and BMRS_N       remove nothing: all drowned units are kept, for 0.022 nats or less in the median
         either, and 1 nat       LeNet-5 0.67 % at 16.5x, LeNet-500-300 1.05 to 1.06 % at 18.3 to 18.5x
         means over 3 seeds, right after removal (results.json)
Run:     python -m studies.pruning_lenet_mnist --seed 0 1 2 --threads 1        # hours; then
         python -m studies.criteria_lenet_mnist --threads 1                    # two minutes
Differs: everything is read from one training with noise and KL, as SBP trains; no fine-tuning after removal, so that
         a row is its criterion and nothing else. Nothing was chosen by accuracy: log_odds are the grades of Kass and
         Raftery 1995, whose "positive", "strong" and "very strong" evidence begin at 1, 3 and 5 nats.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dither
from dither import pruning
from dither.training import Images, Run, Score, evaluate
from dither.training._report import machine, versions
from studies.fill import fill, spread
from studies.pruning_lenet_mnist.settings import WIDTHS
from studies.pruning_lenet_mnist.study import enlarged_digits, mnist

HERE = Path(__file__).parent
NAMES = {"lenet5": "LeNet-5-Caffe", "lenet_500_300": "LeNet-500-300"}
PAPER = pruning.SNR(1.0)
CRITERIA: dict[str, pruning.Criterion] = {
    "SNR > 1": PAPER,
    "SNR > 1/2": pruning.SNR(0.5),
    "SNR > 2": pruning.SNR(2.0),
    "BMRS_U, 8 bits": pruning.BMRSUniform(),
    "BMRS_U, 4 bits": pruning.BMRSUniform(log_high=-4 * math.log(2)),
    "BMRS_N": pruning.BMRSNormal(),
    **{f"BMRS_U, 8 bits, {odds} nat": pruning.BMRSUniform(log_odds=odds) for odds in (1, 3, 5)},
    **{f"BMRS_N, {odds} nat": pruning.BMRSNormal(log_odds=odds) for odds in (1, 3, 5)},
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m studies.criteria_lenet_mnist", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of finished runs (default: runs/pruning_lenet_mnist)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--data", help="folder or hub name; default: the local copy if there is one, else the hub")
    parser.add_argument("--smoke", action="store_true", help="runs of the other study's --smoke; writes beside them")
    given = parser.parse_args(arguments)
    runs = given.runs or Path("runs/smoke" if given.smoke else "runs") / "pruning_lenet_mnist"
    folders = sorted(path.parent for path in runs.glob("*/report.json"))
    if not folders:
        raise SystemExit(f"no finished run in {runs}; train some with python -m studies.pruning_lenet_mnist")
    images = enlarged_digits() if given.smoke else mnist(given.data)
    records = [record for folder in folders for record in judge(folder, images, given.threads)]
    target = runs if given.smoke else HERE
    results = {"machine": machine(), "versions": versions(), "records": records}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = make_table(records)
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)


def judge(folder: Path, images: Mapping[str, Images], threads: int) -> list[dict[str, Any]]:
    """One record for each criterion on the noise that one run has learned, and one for a random choice."""
    run = Run(folder, threads=threads, images=images, checkpoint_steps=None)
    net, example, test = run.gated(), run.example(), run.images("test")
    paper = pruning.plan(net, example, criterion=PAPER)
    plans = {name: pruning.plan(net, example, criterion=c) for name, c in CRITERIA.items()}
    plans["random, widths of SNR > 1"] = shuffled(paper, run.recipe.seed)
    original = dither.cost(run.base(), example[:1], repeats=1, warmup=0)
    known: dict[Any, tuple[Score, dither.Cost]] = {}  # several criteria may decide alike
    records: list[dict[str, Any]] = []
    for name, plan in plans.items():
        kept = tuple(choice.kept for choice in (*plan.spaces, *plan.columns))
        if kept not in known:
            small = pruning.shrink(net, plan, example)
            known[kept] = evaluate(small, test), dither.cost(small, example[:1], repeats=1, warmup=0)
        score, cost = known[kept]
        records.append(
            {
                "net": run.recipe.model,
                "seed": run.recipe.seed,
                "criterion": name,
                "error_pct": score.error_pct,
                "nll": score.nll,
                "widths": {layer: kept for layer, (kept, _) in plan.widths.items()},
                "macs_ratio": original.macs / cost.macs,
                "params_ratio": original.params / cost.params,
                "same_rank_pct": same_rank(net, CRITERIA[name], paper) if name in CRITERIA else None,
                "scores": scores(net, CRITERIA[name]) if name in CRITERIA else None,
            }
        )
        print(f"{folder.name:18} {name:26} {score.error_pct:5.2f} %  {original.macs / cost.macs:6.2f}x", flush=True)
    return records


def shuffled(plan: pruning.Plan, seed: int) -> pruning.Plan:
    """The same widths, other units: drawn at random."""
    draw = torch.Generator().manual_seed(seed)

    def other(choice: pruning.Choice) -> pruning.Choice:
        kept = torch.randperm(choice.total, generator=draw)[: len(choice.kept)].sort().values
        return replace(choice, kept=tuple(kept.tolist()))

    return replace(
        plan, spaces=tuple(other(c) for c in plan.spaces), columns=tuple(other(c) for c in plan.columns), note="random"
    )


def same_rank(net: nn.Module, criterion: pruning.Criterion, plan: pruning.Plan) -> float:
    """Of the units that ``plan`` keeps, the share that this criterion ranks among as many best of their layer, in %."""
    same = total = 0
    for choice in (*plan.spaces, *plan.columns):
        if layer := pruning.gates(net).get(choice.name):
            best = criterion.score(layer.distribution).argsort(descending=True, stable=True)[: len(choice.kept)]
            same += len(set(best.tolist()) & set(choice.kept))
            total += len(choice.kept)
    return 100 * same / total


def scores(net: nn.Module, criterion: pruning.Criterion) -> dict[str, list[float]]:
    """Smallest, median and largest score of the units that the paper's criterion drops, and of those that it keeps."""
    laws = [layer.distribution for layer in pruning.gates(net).values()]
    score = torch.cat([criterion.score(law) for law in laws])
    kept = torch.cat([PAPER.score(law) for law in laws]) > 0
    levels = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    return {name: score[mask].quantile(levels).tolist() for name, mask in (("dropped", ~kept), ("kept", kept))}


def make_table(records: list[dict[str, Any]]) -> str:
    """Means and sample standard deviations over seeds."""
    lines = [
        "| network | criterion | error % | kept, per layer input | MACs | parameters | ranks as SNR does |",
        "|---|---|---|---|---|---|---|",
    ]
    for net in sorted({record["net"] for record in records}):
        for name in dict.fromkeys(record["criterion"] for record in records):
            mine = [record for record in records if record["net"] == net and record["criterion"] == name]
            widths = [[record["widths"][layer] for layer in WIDTHS[net]] for record in mine]
            middle = "-".join(f"{statistics.mean(column):.0f}" for column in zip(*widths, strict=True))
            ranks = [record["same_rank_pct"] for record in mine]
            last = "" if None in ranks else f"{statistics.mean(ranks):.1f} %"
            cells = f"{spread(mine, 'error_pct')} | {middle} | {spread(mine, 'macs_ratio')}x"
            lines.append(f"| {NAMES[net]} | {name} | {cells} | {spread(mine, 'params_ratio')}x | {last} |")
    seeds = len({record["seed"] for record in records})
    return "\n".join(
        [*lines, "", f"Mean ± standard deviation over {seeds} seeds, right after removal, on the test images."]
    )
