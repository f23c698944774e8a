"""Is a network with fewer multiply-accumulates faster by as much?

ResNet-18 of width 32 for 32x32 images, with random weights: a random half of the channels of every space is removed;
then between 30 and 70 % of them, at random for each space, with the widths as they come and with
``plan(multiple_of="auto")``, which keeps more channels where that costs no measured time. Target: at batch 64 the
speed-up is at least 0.6 times the ratio of multiply-accumulates.

Run: python -m benchmarks.speed_of_shrunk
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch
from torch import nn

from benchmarks.networks import resnet18
from benchmarks.report import finish, milliseconds, options, times
from dither import compare, pruning


def drown(noisy: nn.Module, low: float, high: float) -> None:
    """Let a random part of the units of every gate, between two fractions, have more noise than signal."""
    with torch.no_grad():
        for layer in pruning.gates(noisy).values():
            stays = round(layer.num_features * float(torch.empty(()).uniform_(low, high)))
            order = torch.randperm(layer.num_features)
            layer.log_scale[order[stays:]] = 3.0


def main() -> None:
    chosen = options(__doc__, repeats=30)
    sizes = (1, 4) if chosen.smoke else (1, 64)
    net = resnet18(8 if chosen.smoke else 32).to(chosen.device).eval()
    x = torch.randn(sizes[-1], 3, 32, 32, device=chosen.device)
    records: list[dict[str, object]] = []
    table = [["widths", "batch", "original, ms", "shrunk, ms", "MACs, ratio", "speed-up", "speed-up / ratio of MACs"]]
    half, uneven = pruning.attach(net, x[:1]), pruning.attach(net, x[:1])
    drown(half, 0.5, 0.5)
    drown(uneven, 0.3, 0.7)
    cases: list[tuple[str, nn.Module, int | Literal["auto"]]] = [
        ("half of every space", half, 1),
        ("30 to 70 %, as they come", uneven, 1),
        ("30 to 70 %, free ones kept", uneven, "auto"),
    ]
    for name, noisy, multiple in cases:
        small = pruning.shrink(noisy, pruning.plan(noisy, x, multiple_of=multiple), x[:2])
        found = compare(net, small, x, batch_sizes=sizes, repeats=chosen.repeats, warmup=chosen.warmup)
        for size in sizes:
            speedup, before, after = found.speedup[size], found.original.latency[size], found.small.latency[size]
            share = speedup.median / found.macs_ratio
            records.append(
                {"widths": name, "batch": size, "macs_ratio": found.macs_ratio, "speedup": asdict(speedup)}
                | {"original_s": asdict(before), "shrunk_s": asdict(after), "speedup_by_macs_ratio": share}
            )
            row = [name, str(size), milliseconds(before), milliseconds(after), f"{found.macs_ratio:.2f}"]
            table.append([*row, times(speedup), f"{share:.2f}"])
    finish("speed_of_shrunk", chosen, records, table)


if __name__ == "__main__":
    main()
