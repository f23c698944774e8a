"""From finished runs to results.json, the tables, the figure and the artifact.

Latencies are measured here, not while runs share the machine: original and shrunk in turns, all seeds in one go.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch

import dither
from dither._cost import compare
from dither.training import Recipe, make_model
from dither.training._report import machine, versions
from studies.fill import fill, fill_docstring, spread
from studies.paper import paper_rows
from studies.pruning_lenet_mnist.settings import WIDTHS

HERE = Path(__file__).parent
NAMES = {"lenet5": "LeNet-5-Caffe", "lenet_500_300": "LeNet-500-300"}
REPEATS = 200


def collect(runs: Path, target: Path, *, threads: int) -> None:
    """Measures every complete run under ``runs`` and writes everything that is committed into ``target``."""
    torch.set_num_threads(threads)
    folders = sorted(path.parent for path in runs.glob("*/report.json"))
    if not folders:
        raise SystemExit(f"no finished run in {runs}; train some first, see --help")
    records = [record for folder in folders for record in measured(folder)]
    results = {"machine": machine(), "versions": versions(), "records": records}
    target.mkdir(parents=True, exist_ok=True)
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    keep_best(runs, records, target / "artifacts")
    table = make_table(records, results["machine"], results["versions"])
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        fill_docstring(HERE / "study.py", docstring_lines(records))


def measured(folder: Path) -> list[dict[str, Any]]:
    """The records of one run, with latencies measured now."""
    records = json.loads((folder / "report.json").read_text(encoding="utf-8"))["records"]
    recipe = Recipe.read(folder / "recipe.json")
    base = dither.load(make_model(recipe.model), folder / "base.safetensors").eval()
    small = dither.load(make_model(recipe.model), folder / "small.safetensors").eval()
    torch.manual_seed(0)
    cost = compare(base, small, torch.rand(1, 1, 28, 28), batch_sizes=(1, 64), repeats=REPEATS, warmup=20)
    for record in records:
        mine = cost.original if record["method"] == "original" else cost.small
        for size in (1, 64):
            record[f"latency_ms_b{size}"] = mine.latency[size].median * 1e3
            record[f"latency_ratio_b{size}"] = 1.0 if mine is cost.original else cost.speedup[size].median
    return records


def keep_best(runs: Path, records: list[dict[str, Any]], target: Path) -> None:
    """The pruned network with the fewest wrong answers, of each kind; its report and figure beside it."""
    target.mkdir(exist_ok=True)
    for net in {record["net"] for record in records}:
        pruned = [record for record in records if record["net"] == net and record["method"] == "sbp"]
        best = min(pruned, key=lambda record: (record["error_pct"], record["macs"]))
        folder = runs / f"{net}-{best['seed']}"
        shutil.copyfile(folder / "small.safetensors", target / f"{net}.safetensors")
        shutil.copyfile(folder / "widths.png", target / f"{net}-widths.png")
        shutil.copyfile(folder / "plan.txt", target / f"{net}-plan.txt")


def make_table(records: list[dict[str, Any]], machine: dict[str, Any], versions: dict[str, str]) -> str:
    """Paper and measurement side by side; means and sample standard deviations over seeds."""
    lines = [
        "| network | | error % | kept, per layer input | MACs | parameters | CPU, batch 1 | CPU, batch 64 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for net, title in NAMES.items():
        for row in paper_rows(HERE.name, net=net).values():
            what = "paper, original" if row["method"] == "original" else "paper, SBP"
            ratios = (
                f"{row['macs_ratio']:.2f}x | | {row['latency_ratio']:.2f}x | "
                if row["method"] != "original"
                else "1x | | 1x | "
            )
            lines.append(f"| {title} | {what} | {row['error_pct']:.2f} | {row['widths']} | {ratios}|")
        for method, what in (("original", "here, original"), ("sbp", "**here, SBP**")):
            mine = [record for record in records if record["net"] == net and record["method"] == method]
            if mine:
                lines.append(f"| {title} | {what} | {cells(net, mine)} |")
    seeds = len({record["seed"] for record in records})
    lines += [
        "",
        f"Mean ± standard deviation over {seeds} seeds. MACs, parameters and times: original divided by shrunk, so "
        f"above 1 is saved. Times: {machine['cpu']}, {machine['threads']} thread, torch {versions['torch']}, "
        f"medians of {REPEATS} passes in turns.",
    ]
    return "\n".join(lines)


def cells(net: str, records: list[dict[str, Any]]) -> str:
    """The measured cells of one row."""
    widths = [[record["widths"][name] for name in WIDTHS[net]] for record in records]
    middle = "-".join(f"{statistics.mean(column):.0f}" for column in zip(*widths, strict=True))
    ratios = ("macs_ratio", "params_ratio", "latency_ratio_b1", "latency_ratio_b64")
    if records[0]["method"] == "original":
        return f"{spread(records, 'error_pct')} | {middle} | 1x | 1x | 1x | 1x"
    return " | ".join([spread(records, "error_pct"), middle, *(f"{spread(records, key)}x" for key in ratios)])


def docstring_lines(records: list[dict[str, Any]]) -> list[str]:
    """The measured rows for the study's first lines."""
    lines: list[str] = []
    for net, title in NAMES.items():
        mine = [record for record in records if record["net"] == net and record["method"] == "sbp"]
        if mine:
            error, widths, macs, _, _, batch64 = cells(net, mine).split(" | ")
            lines.append(f"{title:13} {error} % error, widths {widths}, {macs} fewer MACs, CPU {batch64} (batch 64)")
    seeds = len({record["seed"] for record in records})
    return [*lines, f"means over {seeds} seeds (results.json)"]
