"""How long do attach and plan take on a ResNet-50-sized network?

ResNet-50 in plain torch, one 224x224 image. Target: both together at most 3 seconds.

Run: python -m benchmarks.attach_plan
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict
from itertools import pairwise

import torch

from benchmarks.networks import resnet50
from benchmarks.report import finish, milliseconds, options
from dither import pruning
from dither._cost import Spread


def main() -> None:
    chosen = options(__doc__, repeats=10)
    net = (resnet50(8, (1, 1, 1, 1)) if chosen.smoke else resnet50()).to(chosen.device)
    x = torch.randn(1, 3, *(2 * [64 if chosen.smoke else 224]), device=chosen.device)
    seconds: dict[str, list[float]] = {"forward pass": [], "attach": [], "plan": [], "attach + plan": []}
    for turn in range(chosen.warmup + chosen.repeats):
        marks = [time.perf_counter()]
        with torch.no_grad():
            net.eval()(x)
        marks.append(time.perf_counter())
        noisy = pruning.attach(net, x)
        marks.append(time.perf_counter())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing was trained, and plan says so
            plan = pruning.plan(noisy, x)
        marks.append(time.perf_counter())
        if turn >= chosen.warmup:
            steps = [after - before for before, after in pairwise(marks)]
            for name, value in zip(seconds, [*steps, steps[1] + steps[2]], strict=True):
                seconds[name].append(value)
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    params = sum(p.numel() for p in net.parameters())
    record = {"network": "ResNet-50", "params": params, "spaces": len(plan.spaces)}
    record |= {f"{name.replace(' ', '_').replace('_+_', '_and_')}_s": asdict(s) for name, s in spreads.items()}
    table = [["parameters", "channel spaces", *(f"{name}, ms" for name in spreads)]]
    table.append([f"{params:,}", str(len(plan.spaces)), *map(milliseconds, spreads.values())])
    finish("attach_plan", chosen, [record], table)


if __name__ == "__main__":
    main()
