"""A thousand networks that nobody designed: exact or refused, never wrong, and most lose channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from dither import pruning
from tests.pruning.test_cases import assert_same, drown_half
from tests.random_networks import Program, programs

BLOCKS, EACH = 20, 50  # a thousand networks; a block is one test, so that workers share them
HOW = settings(
    max_examples=EACH,
    deadline=None,
    database=None,  # the same networks everywhere
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def check(program: Program) -> bool:
    """Drop half of all channels of a network at random; whether it has lost any."""
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
    assert_same(net(y), program(y))
    return sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("block", range(BLOCKS))
def test_exact_or_refused(block: int) -> None:
    lost: list[bool] = []

    @seed(block)
    @HOW
    @given(programs())
    def every(program: Program) -> None:
        lost.append(check(program))

    every()
    assert len(lost) == EACH
    assert sum(lost) >= EACH / 2  # the above would hold if everything were refused
