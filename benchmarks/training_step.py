"""What does noise on every channel add to a training step?

Three steps in turns, each with its own copy of the network and Adam: the plain one; gates on the readers' weights
(pruning.attach); the same noise on the activations (LogNormalNoise layers). The last two add the KL to the loss.
32x32 images. Target: gates at most 1.10 times the plain step.

Run: python -m benchmarks.training_step
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import networks
from benchmarks.report import finish, milliseconds, options, times, waiting
from dither import pruning
from dither._cost import Spread, ratio, time_in_turns

NUM_DATA = 50_000


def step(net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """One training step; with the KL where there is noise."""
    noisy = bool(pruning.gates(net))
    groups = pruning.param_groups(net, lr=1e-4) if noisy else [{"params": list(net.parameters()), "lr": 1e-4}]
    optimizer = torch.optim.Adam(groups)

    def run() -> None:
        loss = F.cross_entropy(net(x), y)
        if noisy:
            loss = loss + pruning.kl(net) / NUM_DATA
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
    records, table = (
        [],
        [["network", "plain, ms", "gates, ms", "noise layers, ms", "gates / plain", "noise layers / plain"]],
    )
    for name, (make, width) in cases.items():
        plain = make(width).to(chosen.device)
        nets = [copy.deepcopy(plain), pruning.attach(plain, x[:1]), make(width, noise=True).to(chosen.device)]
        runs = [waiting(chosen, step(net.train(), x, y)) for net in nets]
        seconds = time_in_turns(runs, chosen.repeats, chosen.warmup)
        spreads = [Spread.of(s) for s in seconds]
        gates, layers = ratio(seconds[1], seconds[0]), ratio(seconds[2], seconds[0])
        channels = sum(gate.num_features for gate in pruning.gates(nets[1]).values())
        records.append(
            {"network": name, "batch": batch, "gated_channels": channels, "gates_ratio": asdict(gates)}
            | {"noise_layers_ratio": asdict(layers)}
            | {f"{key}_s": asdict(s) for key, s in zip(("plain", "gates", "noise_layers"), spreads, strict=True)}
        )
        table.append([name, *map(milliseconds, spreads), times(gates), times(layers)])
    finish("training_step", chosen, records, table)


if __name__ == "__main__":
    main()
