"""What each side does to one network, and what that takes in a process of its own.

``python -m benchmarks.graph.measure "ResNet-18, 32x32" graph 1`` prints a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.graph.subjects import SMOKE, SUBJECTS
from benchmarks.scaling.measure import GIVES_BACK, step
from dither import pruning
from dither._inputs import Inputs, tensors
from zoo import exact, rival
from zoo.networks import Entry

LIMIT = 60  # seconds of the processor, for one answer
SEED = 0


def graph(net: nn.Module, x: Inputs) -> list[Any]:
    """The dependency graph of torch-pruning, and all of its groups."""
    import torch_pruning

    def scalar(out: Any) -> torch.Tensor:
        return sum((t.sum() for t in tensors(out) if t.requires_grad), torch.zeros(()))

    found = torch_pruning.DependencyGraph().build_dependency(net, x, output_transform=scalar, verbose=False)
    return [*found.get_all_groups()]


ANSWERS: dict[str, Callable[[nn.Module, Inputs], Any]] = {
    "labels": pruning.analyse,
    "attach": pruning.attach,
    "graph": graph,
}
REMOVALS = {"dither": exact.examine, "torch-pruning": rival.examine}


def measure(entry: Entry, what: str) -> dict[str, Any]:
    """Seconds and bytes of an answer and how many groups it has, or what is left after a removal; in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch-pruning does not know
        if what in REMOVALS:
            return REMOVALS[what](entry, SEED)
        net, x = entry.build(SEED), entry.inputs(1, SEED)
        found, record = step(lambda: ANSWERS[what](net, x))
    sizes = {
        "labels": lambda: len(found.spaces),
        "attach": lambda: len(pruning.gates(found)),
        "graph": lambda: len(found),
    }
    return {**record, "groups": sizes[what](), "params": sum(p.numel() for p in net.parameters())}


def apart(entry: Entry, what: str, threads: int) -> dict[str, Any] | None:
    """The same in a process of its own; None if it has not ended after `LIMIT` seconds of the processor."""
    command = [sys.executable, "-m", "benchmarks.graph.measure", entry.name, what, str(threads)]
    done = subprocess.run(command, env={**os.environ, **GIVES_BACK}, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGPROF:
        return None
    if done.returncode:
        raise SystemExit(f"{entry.name}, {what} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    name, what, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    measure(SMOKE[0], what)  # what is loaded when it is first used
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    print(json.dumps(measure(SUBJECTS[name], what)))
