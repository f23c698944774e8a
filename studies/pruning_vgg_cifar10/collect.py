"""From finished runs to results.json, the table and the figure.

Times are measured here, in turns, not while runs share the machine.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

import dither
from dither import figures
from dither.figures import _style as style
from dither.training import Images, Recipe, make_model
from dither.training._report import machine, versions
from studies.fill import fill, fill_docstring, spread
from studies.paper import paper_rows
from studies.pruning_vgg_cifar10 import doubt
from studies.pruning_vgg_cifar10.settings import Plan
from studies.records import joined

HERE = Path(__file__).parent
REPEATS = 100
SMALL = 3_000_000  # bytes
PAPER = {"base": "paper, original", "sbp": "paper, SBP", "sbpa": "paper, SBPa"}
AFTER = "sbp, not fine-tuned"  # what a run's report calls the network right after removal


def collect(runs: Path, target: Path, plans: dict[str, Plan], images: dict[str, Images], *, threads: int) -> None:
    """Measures every complete run under ``runs`` and writes everything that is committed into ``target``.

    Rows that have no run there keep what results.json says of them.
    """
    torch.set_num_threads(threads)
    fresh = [
        measured(path.parent, net, row, plan, images)
        for net, plan in plans.items()
        for row in plan.rows
        for path in sorted(runs.glob(f"{net}-{row}-*/report.json"))
    ]
    made = {"machine": machine(), "versions": versions()}
    path = target / "results.json"
    records = joined(path, fresh, ("net", "row", "seed"), made)
    records.sort(key=lambda r: (list(plans).index(r["net"]), list(plans[r["net"]].rows).index(r["row"]), r["seed"]))
    results = {**made, "records": records}
    target.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for net, plan in plans.items():
        if any(record["net"] == net for record in records):
            figures.save(draw(records, net, plan), target / f"{net}.png")
    keep(runs, records, plans, target / "artifacts")
    table = make_table(results, plans)
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        fill_docstring(HERE / "study.py", docstring_lines(records, plans))


def keep(runs: Path, records: list[dict[str, Any]], plans: dict[str, Plan], target: Path) -> None:
    """The plan and the network of the row that is shown, first seed; a network only if it is small enough to commit.

    What is there of a row whose run is not here stays.
    """
    for record in records:
        if record["row"] != plans[record["net"]].shown or record["seed"] != records[0]["seed"]:
            continue
        folder = runs / f"{record['net']}-{record['row']}-{record['seed']}"
        if not folder.exists():
            continue
        target.mkdir(exist_ok=True)
        shutil.copy(folder / "plan.txt", target / f"{record['net']}-plan.txt")
        if (network := folder / "small.safetensors").stat().st_size <= SMALL:
            shutil.copy(network, target / f"{record['net']}.safetensors")


def measured(folder: Path, net: str, row: str, plan: Plan, images: dict[str, Images]) -> dict[str, Any]:
    """What became of one run, with times measured now."""
    records = {r["method"]: r for r in json.loads((folder / "report.json").read_text(encoding="utf-8"))["records"]}
    recipe = Recipe.read(folder / "recipe.json")
    original, small = (
        dither.load(make_model(recipe.model), folder / f"{name}.safetensors").eval() for name in ("base", "small")
    )
    torch.manual_seed(0)
    cost = dither.compare(original, small, torch.rand(1, 3, 32, 32), batch_sizes=(1, 64), repeats=REPEATS, warmup=10)
    final, base = records["sbp"], records["original"]
    times = {
        f"latency_{what}_b{size}": value
        for size in (1, 64)
        for what, value in (
            ("ms", cost.small.latency[size].median * 1e3),
            ("ratio", cost.speedup[size].median),
            ("ms_base", cost.original.latency[size].median * 1e3),
        )
    }
    sampled = {"doubt": doubt.doubted(original, small, images, plan, recipe.seed)} if row == plan.shown else {}
    return {
        "net": net,
        "row": row,
        "seed": recipe.seed,
        "error_pct": final["error_pct"],
        "nll": final["nll"],
        "base_error_pct": base["error_pct"],
        "base_nll": base["nll"],
        "change_pct": final["error_pct"] - base["error_pct"],
        "held_out_error_pct": last_epoch(folder)["error_pct"],
        "base_held_out_error_pct": last_epoch(folder.parent / f"{net}-base-{recipe.seed}")["error_pct"],
        "error_after_removal_pct": records.get(AFTER, final)["error_pct"],
        **{key: final[key] for key in ("widths", "params", "macs", "macs_ratio", "params_ratio")},
        "totals": base["widths"],
        "base_macs": base["macs"],
        **times,
        "epochs": {name: getattr(recipe, name).epochs for name in ("base", "prune", "finetune")},
        **sampled,
    }


def last_epoch(folder: Path) -> dict[str, Any]:
    """Measured on the held-out images, which are of another draw than the test images."""
    return json.loads((folder / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])


def make_table(results: dict[str, Any], plans: dict[str, Plan]) -> str:
    """Paper and measurement side by side; means and standard deviations over seeds."""
    records, made, on = results["records"], results["versions"], results["machine"]
    lines = [
        "| network | | test error, % | against its base | right after removal, % | held out, % | against its base | "
        "kept channels | MACs | parameters | CPU, batch 1 | CPU, batch 64 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in paper_rows(HERE.name).values():
        change = "" if row["method"] == "base" else f"{row['error_pct'] - 7.2:+.1f}"
        lines.append(
            f"| VGG-like | {PAPER[row['method']]} | {row['error_pct']:.1f} | {change} | | | | {row['widths']} | "
            f"{row['macs_ratio']:.2f}x | | | {row['latency_ratio']:.2f}x |"
        )
    for net, plan in plans.items():
        mine = [record for record in records if record["net"] == net]
        if mine:
            base = {record["seed"]: record for record in mine}.values()
            widths = "-".join(map(str, mine[0]["totals"].values()))
            lines.append(
                f"| {plan.title} | base, {plan.base.epochs} epochs | {spread(base, 'base_error_pct')} | | | "
                f"{spread(base, 'base_held_out_error_pct')} | | {widths} | 1x | 1x | 1x | 1x |"
            )
        for row, settings in plan.rows.items():
            if same := [record for record in mine if record["row"] == row]:
                lines.append(f"| {plan.title} | {settings.title} | {cells(same)} |")
    seeds = sorted({record["seed"] for record in records})
    rate = sum(record["error_pct"] for record in records) / len(records) / 100
    noise = 100 * (rate * (1 - rate) / 10_000) ** 0.5
    lines += [
        "",
        f"Test images, seeds {', '.join(map(str, seeds))}. After the base: {plan_epochs(plans, records)}. MACs, "
        "parameters and times: base divided by pruned, so above 1 is saved. Times: "
        f"{on['cpu']}, {on['threads']} thread(s), torch {made['torch']}, medians of {REPEATS} passes in turns; the "
        "column of the paper is its own CPU. An "
        f"error rate of {100 * rate:.0f} % has a standard error of {noise:.2f} points over the 10,000 test images, "
        f"and of {noise * 2**0.5:.2f} over the 5,000 held-out ones.",
        *doubt.make_table(records, plans),
    ]
    return "\n".join(lines)


def plan_epochs(plans: dict[str, Plan], records: list[dict[str, Any]]) -> str:
    pruned = {record["net"]: record["epochs"] for record in records if record["epochs"]["prune"]}
    return "; ".join(
        f"{plans[net].title}, {epochs['prune']} epochs under noise and {epochs['finetune']} of fine-tuning"
        for net, epochs in pruned.items()
    )


def cells(records: list[dict[str, Any]]) -> str:
    columns = zip(*(record["widths"].values() for record in records), strict=True)
    widths = "-".join(f"{sum(column) / len(column):.0f}" for column in columns)
    ratios = ("macs_ratio", "params_ratio", "latency_ratio_b1", "latency_ratio_b64")
    change = sum(record["change_pct"] for record in records) / len(records)
    held_out = sum(r["held_out_error_pct"] - r["base_held_out_error_pct"] for r in records) / len(records)
    return " | ".join(
        [
            spread(records, "error_pct"),
            f"{change:+.2f}",
            spread(records, "error_after_removal_pct"),
            spread(records, "held_out_error_pct"),
            f"{held_out:+.2f}",
            widths,
            *(f"{spread(records, key)}x" for key in ratios),
        ]
    )


def docstring_lines(records: list[dict[str, Any]], plans: dict[str, Plan]) -> list[str]:
    lines: list[str] = []
    for net, plan in plans.items():
        for row, settings in plan.rows.items():
            if mine := [record for record in records if (record["net"], record["row"]) == (net, row)]:
                lines.append(
                    f"{plan.title}, {settings.title}: {spread(mine, 'error_pct')} % (base "
                    f"{spread(mine, 'base_error_pct')} %), {spread(mine, 'macs_ratio')}x fewer MACs, CPU "
                    f"{spread(mine, 'latency_ratio_b64')}x"
                )
    return [*lines, "seeds and times: results.json"]


def draw(records: list[dict[str, Any]], net: str, plan: Plan) -> Any:
    """The share of the channels that each layer keeps, first seed of every row."""
    figure, (axes,) = style.new_figure(4.2)
    shown = {
        settings.title: next(r for r in records if (r["net"], r["row"]) == (net, row))
        for row, settings in plan.rows.items()
        if settings.noise is not None and any((r["net"], r["row"]) == (net, row) for r in records)
    }
    for title, record, look in style.styled(shown):
        shares = [100 * record["widths"][name] / total for name, total in record["totals"].items()]
        axes.plot(range(1, len(shares) + 1), shares, marker="o", markersize=4, label=title, **look)
    axes.set_ylim(0, 102)
    style.label(axes, x="layer", y="channels kept, %")
    style.legend(figure, axes)
    return figure
