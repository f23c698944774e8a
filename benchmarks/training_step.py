"""What does noise on every channel add to a training step?

Four steps in turns, each with its own copy of the network and Adam: the plain one; gates on the readers' weights
(pruning.attach); the same noise on the activations (LogNormalNoise layers); and noise as the paper has it, one draw for
every example and channel between convolution and BatchNorm, by its formulas in float32 (per_example.py). The last
three add the KL to the loss. 32x32 images. Target: gates at most 1.10 times the plain step.

Run: python -m benchmarks.training_step
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import networks, per_example
from benchmarks.report import finish, milliseconds, options, times, waiting
from dither import pruning
from dither._cost import Spread, ratio, time_in_turns

NUM_DATA = 50_000


Divergence = Callable[[nn.Module], Tensor]


def step(net: nn.Module, x: Tensor, y: Tensor, kl: Divergence | None = None) -> Callable[[], None]:
    """One training step; with the KL where there is noise."""
    groups: Any = net.parameters() if kl is not pruning.kl else pruning.param_groups(net, lr=1e-4)
    optimizer = torch.optim.Adam(groups, lr=1e-4)

    def run() -> None:
        loss = F.cross_entropy(net(x), y)
        if kl is not None:
            loss = loss + kl(net) / NUM_DATA
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    chosen = options(__doc__, repeats=60)
    batch, convnet_width, resnet_width = (4, 4, 4) if chosen.smoke else (64, 32, 32)
    cases = {
        f"convnet, 8 layers, width {convnet_width}": (networks.convnet8, convnet_width),
        f"ResNet-18, width {resnet_width}": (networks.resnet18, resnet_width),
    }
    x, y = torch.randn(batch, 3, 32, 32, device=chosen.device), torch.arange(batch, device=chosen.device) % 10
    names = ("plain", "gates", "noise layers", "per example")
    records = []
    table = [["network", *(f"{name}, ms" for name in names), *(f"{name} / plain" for name in names[1:])]]
    for network, (make, width) in cases.items():
        plain = make(width).to(chosen.device)
        gated = pruning.attach(plain, x[:1])
        layers = make(width, noise=True).to(chosen.device)
        own = per_example.behind_convolutions(copy.deepcopy(plain)).to(chosen.device)
        noisy = ((gated, pruning.kl), (layers, pruning.kl), (own, per_example.kl))
        steps = [step(copy.deepcopy(plain).train(), x, y), *(step(net.train(), x, y, kl) for net, kl in noisy)]
        seconds = time_in_turns([waiting(chosen, run) for run in steps], chosen.repeats, chosen.warmup)
        spreads = [Spread.of(s) for s in seconds]
        ratios = [ratio(s, seconds[0]) for s in seconds[1:]]
        channels = sum(gate.num_features for gate in pruning.gates(gated).values())
        keys = [name.replace(" ", "_") for name in names]
        records.append(
            {"network": network, "batch": batch, "gated_channels": channels}
            | {f"{key}_s": asdict(s) for key, s in zip(keys, spreads, strict=True)}
            | {f"{key}_ratio": asdict(r) for key, r in zip(keys[1:], ratios, strict=True)}
        )
        table.append([network, *map(milliseconds, spreads), *map(times, ratios)])
    finish("training_step", chosen, records, table)


if __name__ == "__main__":
    main()
