"""From finished rows to results.json, the tables, the figures and the study's own first lines.

Latencies are measured here, not while runs share the machine: base and pruned in turns, all rows in one go. They follow
from the widths alone, so rows whose runs are elsewhere are timed as well, and those of equal widths once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dither
from dither.training import make_model
from dither.training._report import machine, versions
from studies.fill import fill, fill_docstring
from studies.pruning_against_the_field.pictures import draw
from studies.pruning_against_the_field.removal import Channels
from studies.pruning_against_the_field.settings import METHODS, Case
from studies.pruning_against_the_field.tables import lines_for_docstring, make_table
from studies.records import joined

HERE = Path(__file__).parent
BATCH, REPEATS = 64, 30


def collect(runs: Path, target: Path, cases: Mapping[str, Case]) -> None:
    """Measures every complete row under ``runs`` and writes everything that is committed into ``target``.

    Rows that have no run there keep the errors that results.json has, but for those that follow an SBP run again since.
    """
    order = list(METHODS)
    found = [json.loads(path.read_text("utf-8")) for path in runs.glob("*/*x/*/record.json")]
    if not found:
        raise SystemExit(f"no finished row in {runs}; train some first, see --help")
    made = {"machine": machine(), "versions": versions(), "batch": BATCH}
    path = target / "results.json"
    records = up_to_date(joined(path, found, ("net", "size", "method", "seed"), {"versions": made["versions"]}))
    records.sort(key=lambda r: (list(cases).index(r["net"]), r["size"], order.index(r["method"]), r["seed"]))
    measure(records, cases)
    target.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of({**made, "records": records}), encoding="utf-8")
    keep_best(runs, records, target / "artifacts")
    for name in dict.fromkeys(r["net"] for r in records):
        draw([r for r in records if r["net"] == name], cases[name], target / f"{name}.png")
    table = make_table(records, cases, made["machine"], made["versions"])
    print(table)
    if target == HERE:
        fill(HERE / "README.md", HERE.name, table)
        fill_docstring(HERE / "study.py", lines_for_docstring(records, cases))


def up_to_date(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without rows of another row's widths that has other widths now: it was run again, they were not."""
    widths = {(r["net"], r["size"], r["seed"], r["method"]): r["widths"] for r in records}

    def stands(record: dict[str, Any]) -> bool:
        source = METHODS[record["method"]].widths_of or record.get("same_as", record["method"])
        return widths[record["net"], record["size"], record["seed"], source] == record["widths"]

    stay = [record for record in records if stands(record)]
    if len(stay) < len(records):
        print(f"{len(records) - len(stay)} rows are left out: they have the widths of an SBP that was run again since")
    return stay


def measure(records: list[dict[str, Any]], cases: Mapping[str, Case]) -> None:
    """Adds to each record the milliseconds for one batch, and how many times faster than the base that is."""
    bases = {name: Base(cases[name]) for name in {r["net"] for r in records}}
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for record in records:
        shape = (record["net"], *map(len, record["kept"].values()), record["macs"])
        if shape not in times:
            times[shape] = bases[record["net"]].latency(record["kept"])
        record |= times[shape]


class Base:
    """A network at full size with new weights, and smaller ones that are cut from it."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.net = make_model(case.model).eval()
        self.example = torch.rand(1, *case.shape)
        self.channels = Channels(self.net, self.example, columns=case.columns)

    def cut(self, kept: Mapping[str, list[int]]) -> nn.Module:
        """The network with these channels, and columns, left."""
        plan = self.channels.keeping({name: tuple(channels) for name, channels in kept.items()})
        return self.channels.cut(plan, self.net).eval()

    def latency(self, kept: Mapping[str, list[int]]) -> dict[str, float]:
        """Of one batch, beside the network at full size."""
        small = self.cut(kept)
        cost = dither.compare(self.net, small, self.example, batch_sizes=(BATCH,), repeats=REPEATS, warmup=3)
        return {
            f"latency_ms_b{BATCH}": cost.small.latency[BATCH].median * 1e3,
            f"latency_ratio_b{BATCH}": cost.speedup[BATCH].median,
        }


def text_of(results: dict[str, Any]) -> str:
    """JSON with a line for each record: which channels stay makes long lists."""
    head = json.dumps({key: value for key, value in results.items() if key != "records"}, indent=1)
    rows = ",\n".join(f"  {json.dumps(record)}" for record in results["records"])
    return f'{head[:-2]},\n "records": [\n{rows}\n ]\n}}\n'


def keep_best(runs: Path, records: list[dict[str, Any]], target: Path) -> None:
    """SBP's network with the fewest wrong answers, of each network and size; one whose run is not here stays."""
    target.mkdir(exist_ok=True)
    for name, size in {(r["net"], r["size"]) for r in records if r["method"] == "sbp"}:
        mine = [r for r in records if (r["net"], r["size"], r["method"]) == (name, size, "sbp")]
        best = min(mine, key=lambda r: (r["error_pct"], r["nll"]))
        source = runs / f"{name}-{best['seed']}" / f"{size:g}x" / "sbp" / "small.safetensors"
        if source.exists():
            shutil.copyfile(source, target / f"{name}-{size:g}x.safetensors")
