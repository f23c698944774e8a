"""A thousand networks that nobody designed: exact or refused, never wrong, and most lose channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from dither import pruning
from tests.pruning.test_cases import assert_same, drown_half
from tests.random_networks import Program, programs

ATTACHED, PLACED, EACH = 16, 4, 50  # a thousand networks; a block of them is one test, so that workers share them
LEAST = 0.5  # of a block loses channels; of all, 0.90 and 0.74: hypothesis varies what it drew, so blocks differ
HOW = settings(
    max_examples=EACH,
    deadline=None,
    database=None,  # the same networks everywhere
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def blocks(number: int) -> list[Any]:
    """The first in the quick tests."""
    return [pytest.param(block, marks=[pytest.mark.slow] * (block > 0)) for block in range(number)]


def lost_by(check: Callable[[Program], bool], block: int, noisy: bool) -> int:
    """Check every network of a block; how many of them lost channels."""
    lost: list[bool] = []

    @seed(block)
    @HOW
    @given(programs(noisy))
    def every(program: Program) -> None:
        lost.append(check(program))

    every()
    assert len(lost) == EACH
    return sum(lost)


def smaller(small: torch.nn.Module, whole: torch.nn.Module) -> bool:
    return sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())


def attached(program: Program) -> bool:
    """Attach noise, drop half of all channels at random, remove them; whether there were any."""
    net, x, y = program.build(), program.example(2, seed=1), program.example(3, seed=2)
    try:
        noisy = pruning.attach(net, x)
    except ValueError as refused:
        if "no channel of this model can be removed" not in str(refused):
            raise
        return False
    drown_half(noisy, seed=3)
    with torch.no_grad():  # no layer may be empty, or the plan keeps more than the noise does
        for gate in pruning.gates(noisy).values():
            gate.loc[0], gate.log_scale[0] = -0.1, -3.0
    plan = pruning.plan(noisy, x)
    whole, small = pruning.masked(noisy, plan), pruning.shrink(noisy, plan, x)
    assert_same(whole(y), small(y))
    assert_same(whole(y), noisy(y))
    return smaller(small, whole)


def placed(program: Program) -> bool:
    """The same where the noise is written into the network: the constants that it leaves must be carried along."""
    net, x, y = program.build(), program.example(2, seed=1), program.example(3, seed=2)
    if not pruning.gates(net):
        return False
    drown_half(net, seed=3)
    plan = pruning.plan(net, x)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    assert_same(whole(y), small(y))
    return smaller(small, whole)


@pytest.mark.parametrize("block", blocks(ATTACHED))
def test_attached_noise_is_exact_or_refused(block: int) -> None:
    assert lost_by(attached, block, noisy=False) >= LEAST * EACH


@pytest.mark.parametrize("block", blocks(PLACED))
def test_placed_noise_is_exact_or_refused(block: int) -> None:
    assert lost_by(placed, block, noisy=True) >= LEAST * EACH
