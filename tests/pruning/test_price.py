"""The price of a network with part of its units: what the shrunk network costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dither import pruning
from dither._cost import cost
from dither.pruning.budget._price import price
from dither.pruning.measuring._macs import macs_of_tensors
from tests.cases import CASES, Case
from tests.pruning.test_cases import build, drown_half


@pytest.mark.parametrize("case", [c for c in CASES if c.removable], ids=lambda c: c.name)
def test_of_decided_units_it_is_the_cost_of_the_shrunk_network(case: Case) -> None:
    x = case.inputs()
    net = pruning.attach(build(case), x)
    before = cost(build(case), x, batch_sizes=())
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    after = cost(pruning.shrink(net, plan, x), x, batch_sizes=())
    params, macs = price(net, x, "params"), price(net, x, "macs")
    kept = params.units.kept(plan)
    assert params.exact
    assert (params.full, float(params(kept))) == pytest.approx((before.params, after.params), rel=1e-12)
    assert macs.full == pytest.approx(before.macs, rel=1e-9, abs=1)
    if macs.exact:
        assert float(macs(kept)) == pytest.approx(after.macs, rel=1e-9, abs=1)


def test_most_cases_have_an_exact_price() -> None:
    cases = [c for c in CASES if c.removable]
    exact = [price(pruning.attach(build(c), c.inputs()), c.inputs(), "macs").exact for c in cases[:30]]
    assert sum(exact) >= 0.9 * len(exact)


def test_single_columns_count_too() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    x = torch.zeros(2, 1, 4, 4)
    net = pruning.attach(model, x, features=["3"])
    found = price(net, x, "macs")
    assert found.full == 6 * 9 * 4 + 24 * 5
    keep = torch.ones(found.units.size, dtype=torch.float64)
    keep[found.units.parts["0"].start] = 0  # a channel: 9 taps at 4 places, and 4 columns
    keep[found.units.parts["3[in]"].stop - 1] = 0  # one more column
    assert float(found(keep)) == 5 * 9 * 4 + 19 * 5
    assert found.per_unit() == {"0": 9 * 4 + 4 * 5, "3[in]": 5.0}


def test_several_layers_of_noise_must_all_drown() -> None:
    """The signal of a channel that two layers of noise guard is that of the louder one."""
    noise = [pruning.LogNormalNoise(4), pruning.LogNormalNoise(4)]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), noise[0], noise[1], nn.Linear(4, 2))
    with torch.no_grad():
        noise[0].log_scale.copy_(torch.tensor([-1.0, 3.0, -1.0, 3.0]))
        noise[1].log_scale.copy_(torch.tensor([-2.0, -2.0, 3.0, 3.0]))
    found = price(model, torch.zeros(1, 3), "macs").units.snr(model)
    wanted = torch.stack([layer.snr for layer in noise]).amax(0)
    torch.testing.assert_close(found, wanted.double())


def test_views_of_a_weight_count_for_the_weight_and_attention_for_nobody() -> None:
    net, x = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(2, 5, 16)
    spent, rest = macs_of_tensors(net, (x, x, x))
    assert spent == {"in_proj_weight": 3 * 5 * 16 * 16, "out_proj.weight": 5 * 16 * 16}
    assert rest == 2 * 4 * 5 * 5 * 4  # 4 heads: 5 queries on 5 keys and 5 values, 4 wide


def test_a_time_is_measured_at_both_ends_and_grows_between() -> None:
    model = nn.Sequential(nn.Linear(600, 2000), nn.ReLU(), nn.Linear(2000, 600))
    x = torch.randn(64, 600)
    found = price(pruning.attach(model, x), x, "latency")
    assert not found.exact
    keep = torch.zeros(2000, dtype=torch.float64)
    shares = []
    for count in (1, 500, 1000, 2000):
        keep[:count] = 1
        shares.append(float(found(keep)) / found.full)
    assert shares == sorted(shares)
    assert shares[0] < 0.5  # one unit of 2,000 takes next to no time; half of it leaves room for a busy machine
    assert shares[-1] == pytest.approx(1.0)
    assert math.isfinite(found.full)
