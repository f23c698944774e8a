"""plan: the threshold, multiples, never an empty layer, and a decision that can be read and stored."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dither import pruning
from tests.cases import CASES, LAYERS
from tests.pruning import plain
from tests.pruning.test_cases import build, drown_half

X = torch.zeros(2, 5)


def attached(signal: Sequence[float], skip: Sequence[str] = ()) -> nn.Module:
    """Two hidden layers of 8; unit i of the first has log σ = signal[i], those of the second are all good."""
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    net = pruning.attach(model, X, skip=skip)
    with torch.no_grad():
        pruning.gates(net)["0"].loc.fill_(-3.0)
        pruning.gates(net)["0"].log_scale.copy_(torch.tensor(signal))
    return net


def kept(plan: pruning.Plan, name: str = "0") -> tuple[int, ...]:
    return next(c.kept for c in (*plan.spaces, *plan.columns) if c.name == name)


MIXED = [-4.0, 2.0, -1.0, 1.0, -3.0, 3.0, -2.0, 0.5]  # a smaller σ is a larger SNR


def test_units_above_the_threshold_stay() -> None:
    truth = [i for i, log_scale in enumerate(MIXED) if plain.snr(-3.0, math.exp(log_scale)) > 1]
    assert kept(pruning.plan(attached(MIXED), X)) == tuple(truth) == (0, 2, 4, 6)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.5, 2.0, 5.0, 25.0])
def test_other_thresholds(threshold: float) -> None:
    truth = [i for i, log_scale in enumerate(MIXED) if plain.snr(-3.0, math.exp(log_scale)) > threshold]
    assert kept(pruning.plan(attached(MIXED), X, threshold=threshold)) == tuple(truth)


@pytest.mark.parametrize(("multiple", "wanted"), [(1, 4), (2, 4), (3, 6), (4, 4), (5, 5), (8, 8), (16, 8)])
def test_multiples_round_up_with_the_next_best(multiple: int, wanted: int) -> None:
    by_snr = sorted(range(8), key=lambda i: MIXED[i])
    assert kept(pruning.plan(attached(MIXED), X, multiple_of=multiple)) == tuple(sorted(by_snr[:wanted]))


def test_a_layer_is_never_emptied_and_its_best_channel_stays() -> None:
    assert kept(pruning.plan(attached([2.0, 2.5, 1.9, 3.0, 3.0, 2.1, 2.2, 4.0]), X)) == (2,)
    assert kept(pruning.plan(attached([9.0] * 8), X, threshold=math.inf)) == (0,)


def test_columns_of_a_reader() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), X, features=True)
    with torch.no_grad():
        pruning.gates(net)["0[in]"].loc[[1, 3]] = -10.0
        pruning.gates(net)["0[in]"].log_scale[[1, 3]] = 2.0
    plan = pruning.plan(net, X, multiple_of=4)
    assert kept(plan, "0[in]") == (0, 2, 4)
    assert plan.widths == {"0": (8, 8), "2": (3, 3), "0[in]": (3, 5)}


def test_the_table_has_every_space_with_its_numbers_and_its_reason() -> None:
    text = str(pruning.plan(attached(MIXED, skip=["2"]), X))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "4/8" in lines["0"]
    assert "8/8" in lines["2"]
    assert "skip" in lines["2"]
    assert "3/3" in lines["4"]
    assert "the network returns them" in lines["4"]
    assert "SNR(threshold=1.0)" in text.splitlines()[-1]


class Branching(nn.Module):
    """A path that depends on values, a layer that this path does not reach, and a width in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.aux = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.aux(h) if x.sum() > 1e9 else self.c(self.b(h).view(-1, 6).relu())


def test_what_attach_and_the_label_run_found_out_is_in_the_plan() -> None:
    net = pruning.attach(Branching(), torch.randn(2, 5))
    pruning.gates(net)["a"].loc.data.fill_(-1.0)
    plan = pruning.plan(net, torch.randn(2, 5))
    assert "analysed on the path that the example takes" in plan.note
    assert "does not reach aux.weight, aux.bias" in plan.note
    assert plan.note in str(plan)
    reasons = {choice.name: choice.reason for choice in plan.spaces}
    assert reasons["a"] is None
    assert "fixes a size that would have to change" in str(reasons["b"])
    assert "the network returns them" in str(reasons["c"])
    assert pruning.shrink(net, plan, torch.randn(2, 5)).dither_shrunk["plan"]["note"] == plan.note


def test_quantiles_are_those_of_the_oracle() -> None:
    ratios = sorted(plain.snr(-3.0, math.exp(log_scale)) for log_scale in MIXED)
    found = pruning.plan(attached(MIXED), X).spaces[0].snr
    assert found is not None
    assert found[0] == pytest.approx(ratios[0], rel=1e-5)
    assert found[2] == pytest.approx((ratios[3] + ratios[4]) / 2, rel=1e-5)
    assert found[4] == pytest.approx(ratios[-1], rel=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.removable and c not in LAYERS], ids=lambda c: c.name)
def test_a_trip_through_json(case) -> None:
    net = pruning.attach(build(case), case.inputs())
    drown_half(net, 0)
    plan = pruning.plan(net, case.inputs())
    again = pruning.Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert str(again) == str(plan)


@pytest.mark.parametrize(
    "values", [{}, {"spaces": 3}, {"spaces": [], "columns": [], "sites": {}, "colour": 1}], ids=str
)
def test_values_that_are_no_plan(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no plan.*Plan\.to_dict"):
        pruning.Plan.from_dict(values)


def test_an_untrained_network_is_planned_with_a_warning() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), X)
    with pytest.warns(UserWarning, match="Nothing was learned"):
        plan = pruning.plan(net, X)
    assert "Nothing was learned" in str(plan)
    assert kept(plan) == tuple(range(8))
    with pytest.warns(UserWarning, match="Nothing was learned"):  # one width for both: shrinking is allowed
        pruning.shrink(net, pruning.plan(net, X), X)


def test_planning_changes_nothing() -> None:
    net = attached(MIXED).train()
    net[2].eval()
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    pruning.plan(net, X)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert modes == [m.training for m in net.modules()]
    assert [type(m).__name__ for m in net] == ["Linear", "ReLU", "ParametrizedLinear", "ReLU", "ParametrizedLinear"]


def test_planning_does_not_draw() -> None:
    net, state = attached(MIXED).train(), torch.get_rng_state()
    pruning.plan(net, X)
    assert torch.equal(state, torch.get_rng_state())


def test_two_plans_are_identical() -> None:
    net = attached(MIXED)
    assert pruning.plan(net, X) == pruning.plan(net, X) == pruning.plan(copy.deepcopy(net), X)


def test_a_plan_is_frozen() -> None:
    plan = pruning.plan(attached(MIXED), X)
    with pytest.raises(AttributeError):
        plan.criterion = "SNR(threshold=2.0)"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold": -1.0}, "threshold >= 0"),
        ({"threshold": math.nan}, "threshold >= 0"),
        ({"multiple_of": 0}, "multiple_of >= 1"),
        ({"threshold": 1.0, "criterion": pruning.SNR(1.0)}, "give one of them"),
    ],
    ids=str,
)
def test_arguments_out_of_range(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        pruning.plan(attached(MIXED), X, **options)


def test_noise_that_is_not_finite() -> None:
    net = attached(MIXED)
    tensor: Tensor = pruning.gates(net)["2"].loc
    tensor.data[3] = math.nan
    with pytest.raises(ValueError, match=r'loc\[[0-9]+\] of the gate "2" is nan: the noise has exploded'):
        pruning.plan(net, X)


class Hand(nn.Module):
    """Noise placed by hand on two layers; the width of the second is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.na, self.nb = pruning.LogNormalNoise(8), pruning.LogNormalNoise(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.nb(self.b(self.na(self.a(x).relu())).relu()).view(-1, 6))


def test_widths_in_the_code_stay_under_noise_placed_by_hand_too(seed: int) -> None:
    net, x = Hand().eval(), torch.randn(4, 5)
    with torch.no_grad():
        for noise in (net.na, net.nb):
            noise.log_scale[:4].fill_(4.0)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    plan = pruning.plan(net, X)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert (kept(plan, "a"), kept(plan, "b")) == ((4, 5, 6, 7), tuple(range(6)))
    assert "fixes a size that would have to change" in str({c.name: c.reason for c in plan.spaces}["b"])
    assert plan.sites["nb"] == (4, 5)
    small = pruning.shrink(net, plan, X)
    torch.testing.assert_close(small(x), net(x))
    assert (small.a.out_features, small.b.out_features) == (4, 6)
