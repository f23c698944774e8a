"""Networks that nobody designed: exact, or whole with a reason; never wrong, and never refused by the trial run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dither import pruning
from tests.pruning.test_cases import assert_same, drown_half
from tests.random_networks import Program

SEEDS = range(60)


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    net = Program(seed).double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


def removable(net: nn.Module, x: torch.Tensor) -> bool:
    return any(space.reason is None for space in pruning.analyse(net, x).spaces)


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_or_whole(seed: int) -> None:
    net, generator = build(seed), torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)
    if not removable(net, x):
        with pytest.raises(ValueError, match="no channel"):
            pruning.attach(net, x)
        return
    noisy = pruning.attach(net, x)
    drown_half(noisy, seed)
    plan = pruning.plan(noisy, x)
    y = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=generator)
    assert_same(pruning.masked(noisy, plan)(y), pruning.shrink(noisy, plan, x)(y))


def test_most_of_them_lose_channels() -> None:
    """The test above would pass if everything were pinned."""
    x = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    assert sum(removable(build(seed), x) for seed in SEEDS) >= 2 * len(SEEDS) // 3
