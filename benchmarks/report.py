"""What all benchmarks share: options, machine and versions, and where the results go."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dither._cost import Spread
from dither.training._report import machine, versions

HERE = Path(__file__).parent


def options(
    doc: str, *, repeats: int, add: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> argparse.Namespace:
    """The command line of every benchmark, with what one has beside; sets seed and threads."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="timed rounds; every round runs every variant once"
    )
    parser.add_argument("--warmup", type=int, default=3, help="calls of every variant that are not timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, two rounds, nothing is written: does it run?")
    parser.add_argument("--note", default="", help="a remark on the run that goes into the results")
    add(parser)
    chosen = parser.parse_args()
    if chosen.smoke:
        chosen.repeats, chosen.warmup = 2, 1
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    return chosen


def waiting(chosen: argparse.Namespace, run: Any) -> Any:
    """``run``, followed by a wait for the accelerator if there is one."""
    if chosen.device == "cpu":
        return run
    module = getattr(torch, torch.device(chosen.device).type)

    def both() -> None:
        run()
        module.synchronize()

    return both


def milliseconds(spread: Spread) -> str:
    return f"{spread.median * 1e3:.3g} ({spread.lower * 1e3:.3g} to {spread.upper * 1e3:.3g})"


def times(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.lower:.3f} to {spread.upper:.3f})"


def finish(
    name: str,
    chosen: argparse.Namespace,
    records: list[dict[str, Any]],
    table: list[list[str]],
    runs: str = "rounds in turns; median (quartiles)",
) -> None:
    """Print the table; unless this was a smoke run, write JSON and the section of README.md between its markers."""
    lines = in_markdown(table)
    print("\n".join(lines))
    if chosen.smoke:
        return
    where = machine()
    if chosen.device != "cpu":
        where["accelerator"] = torch.cuda.get_device_name() if chosen.device.startswith("cuda") else chosen.device
    settings = {key: value for key, value in vars(chosen).items() if key not in {"smoke", "note"}}
    results = {"records": records, "settings": settings, "machine": where, "versions": versions(), "note": chosen.note}
    key = name if chosen.device == "cpu" else f"{name}_{torch.device(chosen.device).type}"
    path = HERE / "results" / f"{key}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    place = where.get("accelerator") or f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
    torch_version = results["versions"]["torch"]
    how = f"torch {torch_version}; seed {chosen.seed}; {chosen.repeats} {runs}."
    lines += ["", f"{place}; {how} {chosen.note}".rstrip()]
    replace_section(HERE / "README.md", key, "\n".join(lines))


def in_markdown(table: list[list[str]]) -> list[str]:
    """The lines of a table; its first row is the header."""
    header, *rows = table
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the markers of a section.

    Raises:
        SystemExit: If the file has no such section.
    """
    start, end = f"<!-- bench:{name} -->", "<!-- /bench -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    if not found:
        raise SystemExit(f"{path.name} has no line {start}; add it where the table should stand")
    path.write_text(f"{before}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
