"""How much time does it save to remove channels while the network trains?

A convolutional network on the digits, trained under noise from the same weights: channels removed at the end only, or
every so many epochs with ``pruning.shrink(..., optimizer=)``. The time is CPU time (take one thread) of the whole
training under noise, with planning, removal and verification. Noise is drawn for the units that are left, so the runs
see other draws: widths and errors agree as those of two seeds do. Two factors of the KL, neither of them chosen by an
error: a mild one, and one under which almost nothing is left.

Run: python -m benchmarks.shrink_while_training --threads 1
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.report import finish, options
from dither import cost, pruning
from dither.training import Batches, Fit, Images, evaluate, load_images

EVERY = (0, 1, 5)  # epochs between removals; 0 is at the end only
KL_FACTORS = (0.03, 0.3)  # beside weights by MACs
SETTINGS = [(factor, every) for factor in KL_FACTORS for every in EVERY]
BASE = Fit(epochs=4, batch_size=64, lr=2e-3, shift=1)
PRUNE = Fit(epochs=24, batch_size=64, lr=2e-3, shift=1)


def network(width: int) -> nn.Module:
    convolutions = [(1, 1), (1, 1), (1, 2), (2, 2)]
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(convolutions):
        layers += [nn.Conv2d(a * width if i else 1, b * width, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 2 else []
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 10))


def train(
    net: nn.Module, images: Images, fit: Fit, seed: int, every: int = 0, factor: float = 0.0
) -> tuple[nn.Module, float, float]:
    """The network, the seconds that it took, and those of them that went into removals."""
    noisy, x = bool(pruning.gates(net)), images.float_batch(slice(0, 2))
    weights = pruning.mac_weights(net, x) if noisy else None
    groups = pruning.param_groups(net, lr=fit.lr, gate_lr=0.05) if noisy else [{"params": list(net.parameters())}]
    optimizer: torch.optim.Optimizer = torch.optim.Adam(groups, lr=fit.lr)
    rates, batches = [group["lr"] for group in optimizer.param_groups], Batches(images, fit, seed)
    torch.manual_seed(seed)
    begin, removing, step = time.process_time(), 0.0, 0
    for epoch in range(fit.epochs):
        net.train()
        for batch, labels in batches.epoch(epoch):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * fit.lr_factor(step, fit.epochs * batches.steps)
            loss = F.cross_entropy(net(batch), labels)
            if noisy:
                loss = loss + pruning.kl(net, weights) * factor / len(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        if every and (epoch + 1) % every == 0 and epoch + 1 < fit.epochs:
            now = time.process_time()
            net, optimizer = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
            removing += time.process_time() - now
    return net.eval(), time.process_time() - begin, removing


def measure(chosen: argparse.Namespace, seed: int, width: int, base: Fit, prune: Fit) -> list[dict[str, Any]]:
    images, test = load_images("digits", "train"), load_images("digits", "test")
    if chosen.smoke:
        images = images.split_last(len(images) - 96)[0]
    torch.manual_seed(seed)
    plain, _, _ = train(network(width), images, base, seed)
    x, records = images.float_batch(slice(0, 2)), []
    noisy = pruning.attach(plain, x)
    if chosen.smoke:  # too short to learn anything: some units drown from the start
        for gate in pruning.gates(noisy).values():
            gate.log_scale.data[::2] = 2.0
    for factor, every in SETTINGS:
        net, seconds, removing = train(copy.deepcopy(noisy), images, prune, seed, every, factor)
        plan = pruning.plan(net, x)
        small = pruning.shrink(net, plan, x)
        macs = cost(small, x, batch_sizes=()).macs / cost(plain, x, batch_sizes=()).macs
        kept = {c.name: len(c.kept) for c in plan.spaces if c.snr is not None}
        records.append(
            {
                "seed": seed,
                "factor": factor,
                "every": every,
                "seconds": seconds,
                "removing": removing,
                "macs": macs,
                "widths": kept,
            }
            | {"error_pct": evaluate(small, test).error_pct, "plain_error_pct": evaluate(plain, test).error_pct}
        )
    return records


def main() -> None:
    chosen = options(__doc__, repeats=3)
    width, base, prune = (4, Fit(1, 32), Fit(2, 32)) if chosen.smoke else (64, BASE, PRUNE)
    runs = [measure(chosen, chosen.seed + i, width, base, prune) for i in range(chosen.repeats)]
    table = [
        [
            "KL factor",
            "removal",
            "CPU seconds",
            "of which removals",
            "time, share",
            "widths",
            "MACs left, %",
            "test error, %",
        ]
    ]
    for k, (factor, every) in enumerate(SETTINGS):
        mine = [records[k] for records in runs]
        at_the_end = SETTINGS.index((factor, 0))
        shares = [records[k]["seconds"] / records[at_the_end]["seconds"] for records in runs]
        table.append(
            [
                str(factor),
                f"every {every} epochs" if every else "at the end",
                _range([r["seconds"] for r in mine], ".1f"),
                _range([r["removing"] for r in mine], ".2f"),
                _range(shares, ".2f"),
                "; ".join("-".join(map(str, r["widths"].values())) for r in mine),
                _range([100 * r["macs"] for r in mine], ".1f"),
                _range([r["error_pct"] for r in mine], ".2f"),
            ]
        )
    records = [record for run in runs for record in run]
    finish("shrink_while_training", chosen, records, table, "seeds; median (smallest to largest)")


def _range(values: list[float], digits: str) -> str:
    """Median and range over the seeds."""
    return f"{sorted(values)[len(values) // 2]:{digits}} ({min(values):{digits}} to {max(values):{digits}})"


if __name__ == "__main__":
    main()
