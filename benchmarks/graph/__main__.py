"""What does it cost to know which channels belong together: a run on labels, or torch-pruning's dependency graph?

One example, random weights. Labels: `dither.pruning.analyse`; attach, which makes the noisy copy and tries it, beside
it. Graph: `DependencyGraph.build_dependency` and all its groups. All in turns; memory in processes of their own, as the
bytes of tensors and as the resident set, beside the network. What does not end within a minute of the processor is
named. The last columns are the zoo's question: half of every group removed at random, is what is left right?

Needs torch-pruning (extra "dev").

Run: python -m benchmarks.graph --threads 1
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

from benchmarks.graph.measure import ANSWERS, LIMIT, REMOVALS, SEED, apart, measure
from benchmarks.graph.subjects import FULL, SMOKE
from benchmarks.report import finish, milliseconds, options, times
from dither._cost import Spread, ratio, time_in_turns
from zoo.networks import Entry

NEVER = f"over {LIMIT} s"
HEADER = ["network", "parameters", "spaces, groups", "labels, ms", "attach, ms", "graph, ms", "labels / graph"]
HEADER += ["labels, MB", "graph, MB", "right: dither", "right: torch-pruning"]


def compare(entry: Entry, chosen: argparse.Namespace) -> dict[str, Any]:
    """Everything about one network, as JSON-able values; an answer that does not come is None."""
    found = {
        what: measure(entry, what) if chosen.smoke else apart(entry, what, chosen.threads)
        for what in (*ANSWERS, *REMOVALS)
    }
    net, x = entry.build(SEED), entry.inputs(1, SEED)
    given = [what for what in ANSWERS if found[what]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch-pruning does not know
        runs = [partial(ANSWERS[what], net, x) for what in given]
        seconds = dict(zip(given, time_in_turns(runs, chosen.repeats, chosen.warmup), strict=True))
    record: dict[str, Any] = {"network": entry.name, "params": sum(p.numel() for p in net.parameters())}
    for what in ANSWERS:
        record[what] = {**(found[what] or {}), "s": asdict(Spread.of(seconds[what]))} if what in given else None
    if "graph" in given:
        record["ratio"] = asdict(ratio(seconds["labels"], seconds["graph"]))
    return record | {"removal": {side: found[side] for side in REMOVALS}}


def row(record: dict[str, Any]) -> list[str]:
    def of(what: str, text: Any) -> str:
        return text(record[what]) if record[what] else NEVER

    groups = ", ".join(of(what, lambda r: str(r["groups"])) for what in ("labels", "graph"))
    seconds = [of(what, lambda r: milliseconds(Spread(**r["s"]))) for what in ANSWERS]
    memory = [
        of(what, lambda r: f"{r['tensors'] / 1e6:.1f} ({r['resident'] / 1e6:.0f} resident)")
        for what in ("labels", "graph")
    ]
    quotient = times(Spread(**record["ratio"])) if "ratio" in record else ""
    removal = [verdict(record["removal"][side]) for side in REMOVALS]
    return [record["network"], f"{record['params']:,}", groups, *seconds, quotient, *memory, *removal]


def verdict(result: dict[str, Any] | None) -> str:
    """What the zoo found, in words."""
    if result is None:
        return NEVER
    known = {"exact": "yes", "pass": "yes", "refused": "removes nothing"}
    if result["result"] in known:
        return known[result["result"]]
    return f"no: off by {result['difference']:.2g}" if result["result"] == "wrong" else f"no: {result['result']}"


def main() -> None:
    chosen = options(__doc__ or "", repeats=15)
    records = [compare(entry, chosen) for entry in (SMOKE if chosen.smoke else FULL)]
    made_by = ", ".join(f"{name} {version(name)}" for name in ("torch-pruning", "transformers"))
    runs = f"rounds in turns, {made_by}; median (quartiles)"
    finish("graph", chosen, [{**record, "made_by": made_by} for record in records], [HEADER, *map(row, records)], runs)


if __name__ == "__main__":
    main()
