"""The criteria of plan: scores by the published formulas, where they change sign, what a plan does with them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor, nn

from dither import pruning
from dither.distributions import TruncatedLogNormal
from tests.oracles import TruncatedNormal

LOW, HIGH = -20.0, 0.0
CRITERIA = [pruning.SNR(), pruning.BMRSUniform(), pruning.BMRSUniform(log_high=-4 * math.log(2)), pruning.BMRSNormal()]

# μ and σ: as a run starts, signal, on the way, drowned, next to zero.
UNITS = [
    (0.0, math.exp(-5)),
    (-0.3, 0.2),
    (0.9, 0.5),
    (-1.8, 1.6),
    (-0.8, 90.0),
    (-6.0, 4.0),
    (-15.0, 60.0),
    (-19.0, 0.5),
]


def law(units: list[tuple[float, float]], dtype: torch.dtype = torch.float64) -> TruncatedLogNormal:
    return TruncatedLogNormal(*torch.tensor(units, dtype=dtype).unbind(1))


def normal_cdf(t: mpf) -> mpf:
    return mpmath.erfc(-t / mpmath.sqrt(2)) / 2


def uniform_formula(loc: float, scale: float, log_high: float) -> float:
    """-ΔF of BMRS_U as published: widths and a probability."""
    with mp.workdps(100):
        share = (mpf(log_high) - LOW) / (HIGH - LOW)
        return float(mpmath.log(share) - mpmath.log(TruncatedNormal(loc, scale, LOW, HIGH).cdf(log_high)))


def normal_formula(loc: float, scale: float, reduced: float) -> float:
    """-ΔF of BMRS_N as published: the integral of a product of two normal densities."""
    with mp.workdps(100):
        mu, s, t, a, b = mpf(loc), mpf(scale), mpf(reduced), mpf(LOW), mpf(HIGH)
        z = normal_cdf((b - mu) / s) - normal_cdf((a - mu) / s)
        z_reduced = normal_cdf((b - a) / t) - normal_cdf(mpf(0))
        both = 1 / mpmath.sqrt(1 / s**2 + 1 / t**2)
        mean = both**2 * (mu / s**2 + a / t**2)
        spread = s**2 + t**2
        log_density = -((mu - a) ** 2) / (2 * spread) - mpmath.log(2 * mpmath.pi * spread) / 2
        inside = normal_cdf((b - mean) / both) - normal_cdf((a - mean) / both)
        delta = mpmath.log(b - a) - mpmath.log(z) - mpmath.log(z_reduced) + log_density + mpmath.log(inside)
        return float(-delta)


@pytest.mark.parametrize("log_high", [-8 * math.log(2), -4 * math.log(2), -15.0])
def test_bmrs_uniform_is_the_published_formula(log_high: float) -> None:
    truth = [uniform_formula(*unit, log_high) for unit in UNITS]
    got = pruning.BMRSUniform(log_high).score(law(UNITS))
    torch.testing.assert_close(got, torch.tensor(truth, dtype=torch.float64), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 3.0])
def test_bmrs_normal_is_the_published_formula(scale: float) -> None:
    truth = [normal_formula(*unit, scale) for unit in UNITS]
    got = pruning.BMRSNormal(scale).score(law(UNITS))
    torch.testing.assert_close(got, torch.tensor(truth, dtype=torch.float64), rtol=1e-10, atol=1e-9)


def test_snr_is_the_log_of_the_oracles_ratio() -> None:
    truth = [float(mpmath.log(TruncatedNormal(*unit, LOW, HIGH).snr() / 2)) for unit in UNITS]
    got = pruning.SNR(2.0).score(law(UNITS))
    torch.testing.assert_close(got, torch.tensor(truth, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_scores_are_float64_of_the_laws_shape_and_finite_where_training_goes(criterion: pruning.Criterion) -> None:
    loc, log_scale = torch.meshgrid(torch.linspace(-20, 5, 26), torch.linspace(-20, 5, 26), indexing="ij")
    score = criterion.score(TruncatedLogNormal(loc.flatten(), log_scale.flatten().exp()))
    assert score.dtype == torch.float64
    assert score.shape == (26 * 26,)
    assert bool(score.isfinite().all())


@pytest.mark.parametrize("threshold", [0.0, 1e-300, 1e300, math.inf])
def test_extreme_thresholds_keep_all_or_none_and_the_order(threshold: float) -> None:
    score = pruning.SNR(threshold).score(law(UNITS))
    assert bool((score > 0).all()) == (threshold < 1)
    assert bool((score > 0).any()) == (threshold < 1)
    assert score.argsort().tolist() == pruning.SNR().score(law(UNITS)).argsort().tolist()


def test_prior_odds_shift_the_score() -> None:
    for one, other in (
        (pruning.BMRSUniform(log_odds=1.5), pruning.BMRSUniform()),
        (pruning.BMRSNormal(log_odds=1.5), pruning.BMRSNormal()),
    ):
        torch.testing.assert_close(one.score(law(UNITS)), other.score(law(UNITS)) - 1.5)


# A drowned unit is all but the prior: ΔF is of the order 1/σ², and its sign is that of where μ stands. To that order a
# normal density is a parabola in z, and E_p̃ (z - μ)² = E_p (z - μ)² at μ = a + (w + w')/3, w and w' the two widths.
@pytest.mark.parametrize(
    ("criterion", "width"),
    [(pruning.BMRSUniform(), 20 - 8 * math.log(2)), (pruning.BMRSUniform(-5.0), 15.0), (pruning.BMRSNormal(), 0.0)],
    ids=repr,
)
def test_drowned_units_go_only_where_mu_is_low(criterion: pruning.Criterion, width: float) -> None:
    turn = LOW + (HIGH - LOW + width) / 3
    for scale in (50.0, 150.0):
        above, below = criterion.score(law([(turn + 0.05, scale), (turn - 0.05, scale)])).tolist()
        assert above > 0 > below
        drowned = float(criterion.score(law([(-0.8, scale)])))
        assert 0 < drowned < 300 / scale**2  # kept, for less than that many nats
    assert float(pruning.SNR().score(law([(-0.8, 50.0)]))) < -1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: pruning.SNR(-0.1), "threshold >= 0"),
        (lambda: pruning.SNR(math.nan), "threshold >= 0"),
        (lambda: pruning.BMRSNormal(0.0), "scale > 0"),
        (lambda: pruning.BMRSNormal(math.inf), "scale is inf"),
        (lambda: pruning.BMRSUniform(log_odds=math.nan), "log_odds is nan"),
        (lambda: pruning.BMRSUniform(0.0).score(law(UNITS)), "log θ from -20 to 0"),
        (lambda: pruning.BMRSUniform(-20.0).score(law(UNITS)), "log θ from -20 to 0"),
    ],
)
def test_arguments_out_of_range(make, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make()


X = torch.zeros(2, 5)


def network(loc: list[float], scale: list[float]) -> nn.Module:
    net = pruning.attach(nn.Sequential(nn.Linear(5, len(loc)), nn.ReLU(), nn.Linear(len(loc), 3)), X)
    with torch.no_grad():
        pruning.gates(net)["0"].loc.copy_(torch.tensor(loc))
        pruning.gates(net)["0"].log_scale.copy_(torch.tensor(scale).log())
    return net


LOCS, SCALES = [-0.3, -17.0, 0.5, -19.5, -0.8, -9.5], [0.2, 1.0, 0.4, 2.0, 80.0, 6.0]


@pytest.mark.parametrize(
    ("criterion", "kept"),
    [
        (pruning.SNR(), (0, 2)),
        (pruning.BMRSUniform(), (0, 2, 4)),
        (pruning.BMRSUniform(log_odds=1.0), (0, 2)),
        (pruning.BMRSNormal(), (0, 1, 2, 4, 5)),
    ],
    ids=repr,
)
def test_the_plan_keeps_what_scores_and_says_who_decided(criterion: pruning.Criterion, kept: tuple[int, ...]) -> None:
    net = network(LOCS, SCALES)
    plan = pruning.plan(net, X, criterion=criterion)
    assert plan.spaces[0].kept == kept
    assert plan.criterion == repr(criterion)
    assert f"kept by {criterion!r}" in str(plan)
    assert pruning.Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    small = pruning.shrink(net, plan, X)
    assert small[0].out_features == len(kept)
    torch.testing.assert_close(small(X + 1), pruning.masked(net, plan)(X + 1))


def test_rounding_keeps_the_next_best_by_the_criterions_own_order() -> None:
    net = network(LOCS, SCALES)
    score = pruning.BMRSNormal().score(law(list(zip(LOCS, SCALES, strict=True))))
    best = score.argsort(descending=True)[:4].sort().values.tolist()
    plan = pruning.plan(net, X, criterion=pruning.BMRSNormal(log_odds=1e9), multiple_of=4)
    assert list(plan.spaces[0].kept) == best


def test_without_a_criterion_it_is_the_papers_and_a_threshold_is_short_for_it() -> None:
    net = network(LOCS, SCALES)
    assert pruning.plan(net, X) == pruning.plan(net, X, criterion=pruning.SNR(1.0))
    assert pruning.plan(net, X, threshold=0.4) == pruning.plan(net, X, criterion=pruning.SNR(0.4))


def test_snr_keeps_what_eval_mode_keeps(seed: int) -> None:
    net = network((torch.rand(400) * 25 - 20).tolist(), (torch.rand(400) * 8 - 4).exp().tolist()).eval()
    plan = pruning.plan(net, X)
    assert 0 < len(plan.spaces[0].kept) < 400
    assert torch.equal(pruning.masked(net, plan)(X + 1), net(X + 1))


@dataclass(frozen=True)
class MeanAbove(pruning.Criterion):
    """A user's own."""

    least: float

    def score(self, law: TruncatedLogNormal) -> Tensor:
        return law.mean.double() - self.least


def test_a_criterion_of_ones_own() -> None:
    plan = pruning.plan(network(LOCS, SCALES), X, criterion=MeanAbove(0.5))
    assert plan.spaces[0].kept == (0, 2)
    assert plan.criterion == "MeanAbove(least=0.5)"


@pytest.mark.parametrize(
    "answer", [torch.zeros(()), torch.zeros(3), torch.full((6,), math.nan)], ids=["one", "few", "nan"]
)
def test_a_criterion_that_does_not_answer_for_each_unit(answer: Tensor) -> None:
    class Wrong(pruning.Criterion):
        def score(self, law: TruncatedLogNormal) -> Tensor:
            return answer

    with pytest.raises(ValueError, match=r"NaN for 6 units; it must give one number to each"):
        pruning.plan(network(LOCS, SCALES), X, criterion=Wrong())


@pytest.mark.parametrize("criterion", CRITERIA, ids=repr)
def test_noise_placed_by_hand(criterion: pruning.Criterion) -> None:
    """Two layers of noise on the same channels: a channel goes when both drop it, and the other's noise is its own."""
    net = nn.Sequential(
        nn.Linear(5, 6), pruning.LogNormalNoise(6), nn.ReLU(), pruning.LogNormalNoise(6), nn.Linear(6, 3)
    ).eval()
    units = list(zip(LOCS, SCALES, strict=True))
    with torch.no_grad():
        for noise, order in ((net[1], units), (net[3], units[::-1])):
            noise.loc.copy_(torch.tensor([loc for loc, _ in order]))
            noise.log_scale.copy_(torch.tensor([scale for _, scale in order]).log())
    plan = pruning.plan(net, X, criterion=criterion)
    signal = (criterion.score(law(units, torch.float32)) > 0).tolist()
    assert plan.spaces[0].kept == tuple(i for i in range(6) if signal[i] or signal[5 - i])
    assert plan.sites["1"] == tuple(i for i in range(6) if signal[i])
    x = torch.randn(4, 5)
    torch.testing.assert_close(pruning.shrink(net, plan, X)(x), pruning.masked(net, plan)(x))


def test_plans_from_before_there_were_criteria_are_read() -> None:
    plan = pruning.plan(network(LOCS, SCALES), X, threshold=0.4)
    old = plan.to_dict()
    del old["criterion"]
    assert pruning.Plan.from_dict({**old, "threshold": 0.4}) == plan
