"""From finished runs to results.json, the table and the study's own first lines. Times are measured here, in turns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

import dither
from dither.training import Images, make_model
from dither.training._report import machine, versions
from studies.doubt.evaluate import precision
from studies.doubt.tables import COLUMNS, monte_carlo
from studies.doubt.times import in_passes
from studies.fill import fill, fill_docstring, spread
from studies.small_and_doubtful.pictures import draw
from studies.small_and_doubtful.settings import FULL, METHODS, Plan, under

HERE = Path(__file__).parent
SHOWN = ("error %", "NLL", "NLL, calibrated", "ECE %", "AUROC")


def collect(out: Path, target: Path, plans: dict[str, Plan], train: dict[str, Images]) -> None:
    """Measures the times of every complete run under ``out`` and writes everything that is committed.

    Networks that have no run there keep what results.json says of them; their tables and figures are made of that.

    Raises:
        SystemExit: If there is no complete run, and no results.json.
    """
    there = [name for name in plans if (out / name / "records").is_dir()]
    path = target / "results.json"
    if not there and not path.exists():
        raise SystemExit(f"no finished record in {out}; run some seeds first, see --help")
    target.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in there:
        records = measured(out / name, plans[name], train[name])
        results[name] = {"machine": machine(), "versions": versions(), "records": records}
        keep_best(out / name, records, target / "artifacts" / name)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    lines: list[str] = []
    for name, plan in (FULL | plans).items():
        if name not in results:
            continue
        draw(results[name]["records"], plan, target / f"{name}.png")
        table = make_table(results[name], plan)
        print(f"{plan.title}\n\n{table}\n")
        lines += [f"{plan.title}:", *(f"  {x}" for x in docstring_lines(results[name]["records"]))]
        if target == HERE:
            fill(HERE / "README.md", f"{HERE.name}:{name}", table)
    if target == HERE:
        last = (
            "error, NLL, AUROC of what is outside, time for 64 images in passes of the dense network: means over seeds"
        )
        fill_docstring(HERE / "study.py", [*lines, last])


def measured(out: Path, plan: Plan, train: Images) -> list[dict[str, Any]]:
    """The records with their times."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in (out / "records").glob("*.json")]
    order = list(METHODS)
    records.sort(key=lambda r: (r["seed"], order.index(r["method"])))
    times = {seed: measure(out / str(seed), seed, plan, train) for seed in sorted({r["seed"] for r in records})}
    for record in records:
        record |= times[record["seed"]][record["method"]]
    return records


def measure(folder: Path, seed: int, plan: Plan, train: Images) -> dict[str, dict[str, Any]]:
    """The times of every method for one batch."""
    nets: dict[str, tuple[nn.Module, int]] = {}
    for name, method in METHODS.items():
        file = folder / ("small.safetensors" if method.pruned else "base.safetensors")
        net = dither.load(make_model(plan.recipe(seed).model, plan.classes), file).eval()
        nets[name] = under(net, method, train, plan, seed, num_batches=64), plan.num_samples * method.sampled
    x, how = train.float_batch(slice(plan.batch_size)), precision(plan.trained.mixed_precision)
    return in_passes(nets, x, how, plan.repeats)


def keep_best(out: Path, records: list[dict[str, Any]], target: Path) -> None:
    """The pruned network with the fewest wrong answers; its plan beside it."""
    target.mkdir(parents=True, exist_ok=True)
    pruned = [record for record in records if record["method"] == "pruned"]
    best = min(pruned, key=lambda record: (record["error_pct"], record["macs"]))
    for name in ("small.safetensors", "plan.txt"):
        shutil.copyfile(out / str(best["seed"]) / name, target / name)


def make_table(results: dict[str, Any], plan: Plan) -> str:
    """Means and standard deviations over seeds."""
    records, machine, versions, size = results["records"], results["machine"], results["versions"], plan.batch_size
    inside, outside = plan.trained.names
    lines = [
        f"| network | samples | {' | '.join(SHOWN)} | widths | MACs | ms, batch {size} | of one dense pass | "
        "the same, contiguous |",
        f"|---|---|{'---|' * len(SHOWN)}---|---|---|---|---|",
    ]
    for name, method in METHODS.items():
        mine = [record for record in records if record["method"] == name]
        if mine:
            cells = " | ".join(spread(mine, *COLUMNS[title]) for title in SHOWN)
            lines.append(
                f"| {method.title} | {mine[0]['num_samples']} | {cells} | {widths(mine, plan)} | "
                f"{spread(mine, 'macs_ratio', 1, 1)}x | {spread(mine, f'latency_ms_b{size}', 1, 2)} | "
                f"{spread(mine, 'time_of_dense_passes', 1, 2)}x | "
                f"{spread(mine, 'time_of_dense_passes_contiguous', 1, 2)}x |"
            )
    seeds = len({record["seed"] for record in records})
    lines += [
        "",
        f"Mean ± standard deviation over {seeds} seeds. MACs: of one pass, dense divided by pruned. AUROC: {outside} "
        f"against {inside} by the entropy of the mean. {monte_carlo(records)} Times: all samples of a batch of {size}, "
        f"{machine['cpu']}, {machine['threads']} thread, torch {versions['torch']}, medians of {plan.repeats} runs in "
        "turns, each network in the memory format that is faster for it; in the last column all are contiguous, as "
        "torch makes them.",
    ]
    return "\n".join(lines)


def widths(records: list[dict[str, Any]], plan: Plan) -> str:
    """Mean widths in the order of the layers."""
    columns = [[record["widths"][name] for record in records] for name in plan.shown or records[0]["widths"]]
    return "-".join(f"{sum(column) / len(column):.0f}" for column in columns)


def docstring_lines(records: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for name, method in METHODS.items():
        mine = [record for record in records if record["method"] == name]
        if mine:
            error, nll, auroc = (spread(mine, *COLUMNS[c]) for c in ("error %", "NLL", "AUROC"))
            time = spread(mine, "time_of_dense_passes", 1, 2)
            lines.append(f"{method.title}: {error} %, NLL {nll}, AUROC {auroc}, {time} passes")
    return lines
