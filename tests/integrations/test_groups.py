"""Gates that get a group of their own after the fact train as if they had had it from the start."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from dither import pruning
from dither.integrations._groups import separate

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 7),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=4),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
}
RATES = {  # these have rates of their own, one for each group
    "OneCycleLR": partial(lr_scheduler.OneCycleLR, total_steps=9),
    "CyclicLR": partial(lr_scheduler.CyclicLR, step_size_up=3, cycle_momentum=False),
}


def gated() -> nn.Module:
    torch.manual_seed(0)
    return pruning.attach(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 6))


def noise(net: nn.Module) -> list[nn.Parameter]:
    return [p for gate in pruning.gates(net).values() for p in gate.parameters()]


def trained(net: nn.Module, optimizer: Optimizer, scheduler: Any) -> list[list[float]]:
    rates: list[list[float]] = []
    torch.manual_seed(1)
    for _ in range(8):
        optimizer.zero_grad()
        (net(torch.ones(4, 6)).square().mean() + pruning.kl(net) / 50).backward()
        optimizer.step()
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
    return rates


@pytest.mark.parametrize("name", [*SCHEDULERS, *RATES])
def test_the_schedule_is_that_of_a_group_from_the_start(name: str) -> None:
    late, early = gated(), gated()
    one = torch.optim.SGD(late.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    two = torch.optim.SGD(pruning.param_groups(early, lr=0.02, gate_lr=0.2, weight_decay=0.01), momentum=0.9)
    if name in SCHEDULERS:
        first, second = SCHEDULERS[name](one), SCHEDULERS[name](two)
    elif name == "OneCycleLR":
        first, second = RATES[name](one, max_lr=0.02), RATES[name](two, max_lr=[0.02, 0.2])
    else:
        first = RATES[name](one, base_lr=0.01, max_lr=0.02)
        second = RATES[name](two, base_lr=[0.01, 0.1], max_lr=[0.02, 0.2])
    separate(one, noise(late), None, [first])
    assert [len(group["params"]) for group in one.param_groups] == [4, 2]
    assert torch.tensor(trained(late, one, first)).allclose(torch.tensor(trained(early, two, second)), rtol=1e-12)
    for a, b in zip(late.parameters(), early.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_gates_in_several_groups_are_gathered_and_never_decay() -> None:
    net = gated()
    loc, log_scale = noise(net)
    rest = [p for p in net.parameters() if p is not loc and p is not log_scale]
    optimizer = torch.optim.AdamW(
        [{"params": [*rest[:2], loc], "weight_decay": 0.1}, {"params": [*rest[2:], log_scale], "weight_decay": 0.0}],
        lr=1e-3,
    )
    separate(optimizer, [loc, log_scale], gate_lr=0.05)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert optimizer.param_groups[2]["lr"] == pytest.approx(0.05)
    assert [id(p) for p in optimizer.param_groups[2]["params"]] == [id(loc), id(log_scale)]
    separate(optimizer, [loc, log_scale], gate_lr=0.7)  # again: they are alone, nothing changes
    assert optimizer.param_groups[2]["lr"] == pytest.approx(0.05)
    assert len(optimizer.param_groups) == 3


def test_an_unknown_scheduler_is_refused() -> None:
    net = gated()
    with pytest.raises(ValueError, match=r"a dict does not say what it keeps .* pruning\.param_groups"):
        separate(torch.optim.SGD(net.parameters(), lr=0.1), noise(net), None, [{}])
