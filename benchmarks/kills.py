"""Does a training that is killed at any moment end with the same bits?

Short runs on the digits (base network, training under noise, plan, removal, fine-tuning), one kind with removal while
it trains, the other steered to a target; a state is saved every second step, so that many moments are in the middle of
writing one. A process of its own does the run and gets SIGKILL at a random moment; the same run is started again and
killed again, until it is faster than the kill. Then everything that it left is compared with a run that was never
killed: weights of all networks and of the last states, history and plan. Processes are forked from one that has done
the imports and nothing else; the run that is not killed is an interpreter of its own.

Run: python -m benchmarks.kills --threads 1
     python -m benchmarks.kills --threads 1 --repeats 25 --append    25 more, added to those in results/kills.json
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.report import HERE, finish, options
from dither.training import Fit, Noise, Recipe, Run

_PRUNE = Fit(epochs=3, batch_size=64, lr=3e-3, flip=True)
_SHARED: dict[str, Any] = {
    "model": "digits",
    "data": "digits",
    "base": Fit(epochs=1, batch_size=128, lr=3e-3, shift=1),
    "prune": _PRUNE,
    "finetune": Fit(epochs=1, batch_size=128),
    "seed": 5,
}
REMOVAL = Noise(
    gate_lr=0.3,
    kl_weights="macs",
    kl_weight=0.05,
    kl_warmup=1.0,
    init_log_scale=-3.0,
    features=("fc1",),
    shrink_every=1,
)
RECIPES = {
    "removal while it trains": Recipe(noise=REMOVAL, gradient_accumulation_steps=2, **_SHARED),
    "steered to a target": Recipe(noise=Noise(gate_lr=0.05, target={"macs": 0.5}), **_SHARED),
}
SMOKE = replace(RECIPES["removal while it trains"], prune=replace(_PRUNE, epochs=2), finetune=Fit(epochs=0))
SAVE_EVERY = 2  # steps
_LATE = ["torch._dynamo", "sklearn.datasets", "matplotlib.figure", "safetensors.torch"]  # imported when they are needed
PLACES = {"base": "base network", "prune": "under noise", "finetune": "fine-tuning"}


@dataclass
class Tally:
    """What became of the runs of one kind."""

    seconds: float = 0.0  # that a run takes which is not killed
    kills: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    failed: list[str] = field(default_factory=list[str])


def work(folder: str, name: str, threads: int) -> None:
    """What the process does that is killed."""
    warnings.simplefilter("error")  # a state that was set aside, for example
    warnings.filterwarnings("ignore", "the budget removes")  # so short a training does not reach its target
    torch.set_num_threads(threads)
    Run(folder, RECIPES.get(name, SMOKE), threads=threads, checkpoint_steps=SAVE_EVERY).prune()


def start(folder: Path, name: str, threads: int, *, fresh: bool = False) -> BaseProcess:
    """A process that does a run."""
    context = multiprocessing.get_context("spawn" if fresh else "forkserver")
    if not fresh:
        context.set_forkserver_preload(["dither.training", "dither.pruning", *_LATE])
    process = context.Process(target=work, args=(str(folder), name, threads))
    process.start()
    return process


def finished(process: BaseProcess, delay: float) -> bool:
    """Whether it ended by itself; after ``delay`` seconds it is killed."""
    process.join(delay)
    if process.exitcode is not None:
        return True
    process.kill()
    process.join()
    return False


def place(folder: Path) -> str:
    """Where a kill hit, from what it left."""
    if any(folder.glob("checkpoint/*/.partial")) or any(folder.glob("checkpoint/*/.removed")):
        return "a state half written"
    if any(folder.glob(".*.tmp")):
        return "another file half written"
    stretches = sorted((folder / "checkpoint").glob("*/step-*"), key=lambda path: path.stat().st_mtime_ns)
    return PLACES[stretches[-1].parent.name] if stretches else "before the first state"


def difference(folder: Path, whole: Path) -> str | None:
    """The first thing in which a run differs from one that was not killed, or None."""
    states = {max(stretch.iterdir()) / "model.safetensors" for stretch in (whole / "checkpoint").iterdir()}
    for path in sorted({whole / "base.safetensors", whole / "small.safetensors", *states}):
        name = path.relative_to(whole)
        if not (folder / name).exists():
            return f"{name} is missing"
        expected, got = load_file(path), load_file(folder / name)
        if expected.keys() != got.keys() or not all(torch.equal(t, got[key]) for key, t in expected.items()):
            return str(name)
    names = ("history.jsonl", "plan.json")
    return next((name for name in names if (folder / name).read_text() != (whole / name).read_text()), None)


def measure(tally: Tally, name: str, times: int, dice: random.Random, threads: int, where: Path) -> None:
    """Runs that are killed until there were ``times`` more kills, each run to its end."""
    count = 0
    for kind in ("whole", "warm-up", "timed"):  # the first is compared with; the last says how long a run takes
        begin = time.monotonic()
        process = start(where / kind, name, threads, fresh=kind == "whole")
        process.join()
        tally.seconds = time.monotonic() - begin
    while count < times:
        folder, tally.runs = where / str(tally.runs), tally.runs + 1
        while True:
            # Less than a whole run takes, so that most runs are killed several times, each time further on.
            delay = dice.uniform(0, 0.6 * tally.seconds) if count < times else 1e4
            process = start(folder, name, threads)
            if finished(process, delay):
                break
            tally.kills[place(folder)] += 1
            count += 1
        wrong = difference(folder, where / "whole")
        if process.exitcode or wrong is not None:
            tally.failed.append(f"run {tally.runs - 1}: exit code {process.exitcode}, {wrong} differs")
        print(f"{name}: {count} of {times} kills, {tally.runs} runs, {len(tally.failed)} differ", file=sys.stderr)


def earlier(name: str) -> Tally:
    """What is in the results already."""
    path = HERE / "results" / "kills.json"
    records = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
    found = [record for record in records if record.pop("run") == name]
    return Tally(**{**found[0], "kills": Counter(found[0]["kills"])}) if found else Tally()


def main() -> None:
    append = "--append" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--append"]
    chosen = options(__doc__, repeats=100)
    names = ["smoke"] if chosen.smoke else list(RECIPES)
    records, table = [], [["run", "kills", "where they hit", "runs", "not bit-equal"]]
    for i, name in enumerate(names):
        times = chosen.repeats // len(names) + (i < chosen.repeats % len(names))
        tally = earlier(name) if append else Tally()
        dice = random.Random(f"{name} {chosen.seed} {tally.runs}")
        with tempfile.TemporaryDirectory() as folder:
            measure(tally, name, times, dice, chosen.threads, Path(folder))
        hits = ", ".join(f"{where} {number}" for where, number in tally.kills.most_common())
        table.append([name, str(sum(tally.kills.values())), hits, str(tally.runs), str(len(tally.failed))])
        records.append({"run": name, **vars(tally), "kills": dict(tally.kills)})
    chosen.repeats = sum(sum(record["kills"].values()) for record in records)
    finish("kills", chosen, records, table, "kills at random moments")
    if any(record["failed"] for record in records):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
