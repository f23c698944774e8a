"""From finished records to results.json, the tables, the figures and the study's own first lines.

Ensembles are made of the predictions that are kept beside the records. Times are measured here, all methods in turns.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dither
from dither import metrics
from dither._cost import Spread, time_in_turns
from dither.training import Images, make_model
from dither.training._report import machine, versions
from studies.batchnorm_lenet_mnist.evaluate import Answers, Network, Questions, files, score, together
from studies.batchnorm_lenet_mnist.pictures import draw
from studies.batchnorm_lenet_mnist.settings import ENSEMBLES, METHODS, TITLES, Settings
from studies.fill import fill

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
PAIRS = (
    ("sbn", "single"),
    ("sbn, weight decay", "single, weight decay"),
    ("ensemble + sbn", "ensemble"),
    ("ensemble + sbn, weight decay", "ensemble, weight decay"),
    ("dropout + sbn", "dropout"),
)
COLUMNS = {  # title: key, factor, digits
    "error %": ("error_pct", 1, 2),
    "NLL": ("nll", 1, 4),
    "NLL, calibrated": ("nll_calibrated", 1, 4),
    "ECE %": ("ece", 100, 2),
    "AUROC": ("ood_auroc", 1, 3),
    "AUPR": ("ood_aupr", 1, 3),
    "FPR95": ("ood_fpr95", 1, 3),
}


def collect(out: Path, target: Path, settings: Settings, questions: Questions, train: Images) -> None:
    """Makes everything that is committed from the records under ``out``, and writes it into ``target``."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "records").glob("*.json")]
    if not records:
        raise SystemExit(f"no finished record in {out}; run some methods first, see --help")
    answers = {(r["method"], r["seed"]): Answers.read(files(out, r["method"], r["seed"])[1]) for r in records}
    for name, of in ENSEMBLES.items():
        members = sorted(r["seed"] for r in records if r["method"] == of)
        if len(members) > 1:
            made = answers[name, 0] = together([answers[of, seed] for seed in members])
            first = next(r for r in records if r["method"] == of)
            common = {key: first[key] for key in ("net", "epochs", "weight_decay", "data", "ood")}
            records.append({**common, "method": name, "seed": 0, "members": members, **score(made, questions)})
    order = list(TITLES)
    records.sort(key=lambda r: (order.index(r["method"]), r["seed"]))
    seconds = measure_seconds(out, settings, questions, train, {timed(r["method"]): r["members"] for r in records})
    for record in records:
        record["seconds_per_1000"] = seconds[timed(record["method"])].median
    target.mkdir(parents=True, exist_ok=True)
    pairs = compare_pairs(answers, records, questions)
    results = {"machine": machine(), "versions": versions(), "records": records, "pairs": pairs}
    (target / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(answers, records, questions, settings, target / "artifacts")
    table = make_table(records, pairs, results["machine"], results["versions"])
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        fill(HERE.parents[1] / "README.md", HERE.name, table.split("\n\n")[0])
        fill_docstring(HERE / "study.py", docstring_lines(records))


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
        method = METHODS[ENSEMBLES.get(name, name)]
        members = [network(out, method.net, seed, settings, train).under(method, questions.held_out) for seed in seeds]
        nets[name] = dither.Ensemble(members) if name in ENSEMBLES else members[0]
    runs = []
    for name, net in nets.items():
        net.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
        sampled = METHODS[ENSEMBLES.get(name, name)].sampled

        def run(net: nn.Module = net, sampled: bool = sampled) -> None:
            with torch.no_grad():
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
    base = dither.load(make_model(settings.nets[net].model), out / f"{net}-{seed}" / "base.safetensors").eval()
    return Network(base, train, settings, seed, fit_batches=64)


def compare_pairs(
    answers: dict[tuple[str, int], Answers], records: list[dict[str, Any]], questions: Questions
) -> list[dict[str, Any]]:
    """NLL with minus NLL without, image by image on the same network, with its standard error over test images."""
    temperatures = {(r["method"], r["seed"]): r["temperature"] for r in records}
    inside = slice(questions.sizes[0], sum(questions.sizes[:2]))
    rows = torch.arange(len(questions.inside))
    pairs: list[dict[str, Any]] = []

    def losses(key: tuple[str, int], t: float) -> torch.Tensor:
        probs = metrics.apply_temperature(answers[key].groups.mean(0)[inside].double(), t)
        return -probs[rows, questions.inside.labels].clamp_min(torch.finfo(torch.float64).tiny).log()

    for one, other in PAIRS:
        for seed in sorted(s for method, s in answers if method == one and (other, s) in answers):
            pair: dict[str, Any] = {"method": one, "against": other, "seed": seed}
            for name, hot in (("nll", False), ("nll_calibrated", True)):
                a, b = (losses((m, seed), temperatures[m, seed] if hot else 1.0) for m in (one, other))
                pair[name] = (a - b).mean().item()
                pair[f"{name}_se"] = (a - b).std().item() / math.sqrt(len(rows))
            pairs.append(pair)
    return pairs


def make_table(
    records: list[dict[str, Any]], pairs: list[dict[str, Any]], machine: dict[str, Any], versions: dict[str, str]
) -> str:
    """Paper and measurement side by side, then what changes on the same network."""
    paper = {row["method"]: row for row in tomllib.loads((HERE / "expected.toml").read_text(encoding="utf-8"))["row"]}
    lines = [
        f"| method | paper: error %, NLL | nets | {' | '.join(COLUMNS)} | passes | s per 1,000 |",
        f"|---|---|---|{'---|' * len(COLUMNS)}---|---|",
    ]
    for name, title in TITLES.items():
        mine = [record for record in records if record["method"] == name]
        if mine:
            theirs = f"{paper[name]['error_pct']:.2f}, {paper[name]['nll']:.3f}" if name in paper else ""
            nets = sum(len(record["members"]) for record in mine)
            cells = " | ".join(spread(mine, *how) for how in COLUMNS.values())
            title = title.format(n=nets)
            lines.append(
                f"| {title} | {theirs} | {nets} | {cells} | {mine[0]['num_samples']} | "
                f"{mine[0]['seconds_per_1000']:.2g} |"
            )
    lines += [
        "",
        "Mean ± standard deviation over networks (an ensemble is one). AUROC, AUPR and FPR95: notMNIST against MNIST "
        f"by the entropy of the mean. {monte_carlo(records)} "
        f"Times: {machine['cpu']}, {machine['threads']} thread, torch {versions['torch']}, medians of runs in turns.",
        "",
        "| NLL with minus NLL without, same network | seed | raw | calibrated |",
        "|---|---|---|---|",
    ]
    for pair in pairs:
        one, other = (TITLES[pair[key]].format(n="all") for key in ("method", "against"))
        cells = " | ".join(f"{pair[key]:+.5f} ± {pair[f'{key}_se']:.5f}" for key in ("nll", "nll_calibrated"))
        lines.append(f"| {one} − {other} | {pair['seed']} | {cells} |")
    lines += ["", "± here is the standard error of the difference over the test images."]
    return "\n".join(lines)


def monte_carlo(records: list[dict[str, Any]]) -> str:
    """A sentence on what other draws would have changed."""
    errors = [record["monte_carlo_se"] for record in records if record["monte_carlo_se"]]
    error, nll, auroc = (max(e[key] for e in errors) for key in ("error_pct", "nll", "ood_auroc"))
    return (
        f"Monte-Carlo standard errors of the sampled rows are at most {error:.3f} points of error, {nll:.5f} of NLL "
        f"and {auroc:.4f} of AUROC."
    )


def spread(records: list[dict[str, Any]], key: str, factor: float, digits: int) -> str:
    """Mean, and standard deviation where there are several networks."""
    values = [factor * record[key] for record in records]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def docstring_lines(records: list[dict[str, Any]]) -> list[str]:
    """The measured rows for the study's first lines."""
    lines: list[str] = []
    for name in ("single", "sbn", "ensemble", "ensemble + sbn", "single, weight decay", "sbn, weight decay"):
        mine = [record for record in records if record["method"] == name]
        if mine:
            title = TITLES[name].format(n=len(mine[0]["members"]))
            error, nll, auroc = (spread(mine, *COLUMNS[c]) for c in ("error %", "NLL", "AUROC"))
            lines.append(f"{title}: {error} % error, NLL {nll}, notMNIST AUROC {auroc}")
    return [*lines, "means over networks (results.json)"]


def fill_docstring(path: Path, lines: list[str]) -> None:
    """Writes the measured rows into the study's own first lines."""
    ours = "Ours:    " + "\n         ".join(lines) + "\n"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"Ours:    .*?\n(?=Run:)", lambda _: ours, text, count=1, flags=re.DOTALL), encoding="utf-8")
