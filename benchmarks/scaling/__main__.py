"""How do time and memory grow with the layers, channels, activations and samples of a network?

Each point is measured in a process of its own and kept in ``--folder``, so a run that was stopped goes on. Time is
that of the processor. Memory is what was held at the peak of a step with the network that it was given: as bytes of
tensors, which are the same on every machine, and as the resident set. Exponents are slopes of logarithms, by least
squares; 1 is linear, and what costs the same at any size makes them smaller. ``--large`` adds a Llama with 1.1 billion
parameters in bfloat16 (5 GB), and the analysis of one with 7 billion that has no values.

Run: python -m benchmarks.scaling --threads 1 --large
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.report import HERE, finish, in_markdown, options, replace_section
from benchmarks.scaling.measure import LARGE, SERIES, apart, measure
from benchmarks.scaling.page import BOUND, draw, fits, large, worst

PAGE = HERE.parent / "docs" / "scaling.md"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"), help="where the points are kept")
    parser.add_argument("--large", action="store_true", help="also networks with billions of parameters")


def point(chosen: argparse.Namespace, name: str, size: Any) -> dict[str, Any]:
    """One record: from its file, or measured."""
    if chosen.smoke:
        return measure(name, size)
    path = chosen.folder / f"{name}-{size}.json"
    if not path.exists():
        found = apart(name, size, chosen.threads)
        chosen.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
        print(f"{name} {size}", flush=True)
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    chosen = options(__doc__ or "", repeats=1, add=arguments)
    sizes = {name: series.tiny if chosen.smoke else series.sizes for name, series in SERIES.items()}
    if chosen.large:
        sizes |= {name: series.sizes for name, series in LARGE.items()}
    records = [point(chosen, name, size) for name, every in sizes.items() for size in every]
    del chosen.folder
    table = fits(records)
    finish("scaling", chosen, records, table, "run of each point in a process of its own.")
    print(f"\nshrink holds at most {worst(records):.2f} networks, wanted: {BOUND}")
    if not chosen.smoke:
        lines = [*in_markdown(table), "", *in_markdown(large(records))] if chosen.large else in_markdown(table)
        replace_section(PAGE, "scaling", "\n".join(lines))
        draw(records, PAGE.with_name("scaling.png"))


if __name__ == "__main__":
    main()
