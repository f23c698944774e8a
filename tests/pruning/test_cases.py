"""Every network of the table: the right channels are found, and removing them is exact."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from dither import pruning
from dither._inputs import call, tensors, with_batch
from tests.cases import CASES, WEIGHTS, Case

SCALE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 2e-2}  # of the output
FIXED = "(fixes a size|takes channels by position|has one hidden_size)"
build = Case.build


def drown_half(net: nn.Module, seed: int) -> None:
    """Give about half of all units, at random, so much noise that their signal-to-noise ratio is far below 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in pruning.gates(net).values():
            drop = torch.rand(layer.num_features, generator=generator) < 0.5
            layer.loc.copy_(torch.where(drop, -10.0, -0.3 * torch.rand(layer.num_features, generator=generator)))
            layer.log_scale.copy_(torch.where(drop, 2.0, -3.0))


def assert_same(a: Any, b: Any) -> None:
    """Tensor for tensor, to rounding: two networks that give these outputs are one function."""
    a, b = tensors(a), tensors(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=SCALE.get(x.dtype, 0.0) * float(x.detach().abs().max()))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_right_channels_are_found(case: Case) -> None:
    spaces = {s.name: s for s in pruning.analyse(build(case), case.inputs()).spaces}
    assert {name: s.size for name, s in spaces.items() if s.reason is None} == {**case.removable, **case.fixed}
    for name, word in case.whole.items():
        assert word in " ".join(s.reason or "" for n, s in spaces.items() if n.partition("#")[0] == name), str(spaces)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", [*WEIGHTS, *(c for c in CASES if c.removable)], ids=lambda c: c.name)
def test_removal_is_exact(case: Case, seed: int) -> None:
    x = case.inputs()
    net = pruning.attach(build(case), x)
    assert list(pruning.gates(net)) == list(case.removable)
    drown_half(net, seed)
    plan = pruning.plan(net, x)
    assert {c.name for c in plan.spaces if re.search(FIXED, str(c.reason))} == case.fixed.keys()
    assert any(kept < total for kept, total in plan.widths.values())
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    assert_same(case.run(whole, 2), case.run(small, 2))
    one = with_batch(x, 1)
    assert_same(call(whole, one), call(small, one))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("case", [c for c in CASES if not c.removable], ids=lambda c: c.name)
def test_a_network_without_removable_channels_says_why(case: Case) -> None:
    with pytest.raises(ValueError, match="no channel of this model can be removed") as refused:
        pruning.attach(build(case), case.inputs())
    for name in case.fixed:
        assert re.search(rf"^{name} .*{FIXED}", str(refused.value), re.MULTILINE)
