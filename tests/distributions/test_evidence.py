"""evidence_change: the log-evidence difference against numerical integration, in every regime."""

import random

import pytest
import torch

from dither.distributions import LogUniform, TruncatedLogNormal, evidence_change
from tests.distributions.points import Point, assert_within, fresh_points
from tests.oracles import evidence_change as integrated

NUMBER = 24


def posterior(points: list[Point]) -> TruncatedLogNormal:
    return TruncatedLogNormal(*torch.tensor(points, dtype=torch.float64).unbind(1))


def assert_equal(got: torch.Tensor, truth: list[float], points: list[Point]) -> None:
    """To 1e-9 nats, and 1e-10 where the evidence changes by more."""
    assert_within(got, torch.tensor(truth, dtype=torch.float64), 1e-10, 10.0, points)


def test_uniform_on_a_part(seed: int) -> None:
    points, draw = fresh_points(seed, NUMBER, torch.float64), random.Random(seed)
    parts = [sorted((draw.uniform(low, high), draw.choice([low, draw.uniform(low, high)]))) for *_, low, high in points]
    truth = [float(integrated(p[:2], p[2:], None, tuple(part))) for p, part in zip(points, parts, strict=True)]
    reduced = LogUniform(*torch.tensor(parts, dtype=torch.float64).unbind(1))
    assert_equal(evidence_change(posterior(points), reduced), truth, points)


def test_normal_at_the_lower_bound(seed: int) -> None:
    points = fresh_points(seed + 1, NUMBER, torch.float64)
    scales = [(1e-6, 1e-2, 1.0, 100.0)[i % 4] for i in range(NUMBER)]
    truth = [float(integrated(p[:2], p[2:], (p[2], s), p[2:])) for p, s in zip(points, scales, strict=True)]
    q = posterior(points)
    reduced = TruncatedLogNormal(q.log_low, torch.tensor(scales, dtype=torch.float64), q.log_low, q.log_high)
    assert_equal(evidence_change(q, reduced), truth, points)


def test_normal_anywhere(seed: int) -> None:
    points, others = (fresh_points(s, NUMBER, torch.float64) for s in (seed + 2, seed + 3))
    truth = [float(integrated(p[:2], p[2:], o[:2], p[2:])) for p, o in zip(points, others, strict=True)]
    loc, scale, *_ = torch.tensor(others, dtype=torch.float64).unbind(1)
    q = posterior(points)
    assert_equal(evidence_change(q, TruncatedLogNormal(loc, scale, q.log_low, q.log_high)), truth, points)


@pytest.mark.parametrize("narrow", [1e-8, 1e-15, 1e-25])
def test_narrow_laws_inside_the_interval(narrow: float) -> None:
    """Alone, far apart, and two neighbours, whose distance is lost when each is counted from a bound."""
    pairs = [
        ((-8.3, 2.0), (-3.1, narrow)),
        ((-3.1, narrow), (-8.3, 1e8 * narrow)),
        ((-3.1, 20 * narrow), (-3.1 + 1e-12, narrow)),
    ]
    for q, p in pairs:
        truth = float(integrated(q, (-20.0, 0.0), p, (-20.0, 0.0)))
        laws = [TruncatedLogNormal(*torch.tensor(law, dtype=torch.float64)) for law in (q, p)]
        got = evidence_change(*laws)
        assert float(got) == pytest.approx(truth, rel=1e-10, abs=1e-9)


def test_the_prior_itself_changes_nothing(seed: int) -> None:
    points = fresh_points(seed + 4, NUMBER, torch.float64)
    q = posterior(points)
    assert_equal(evidence_change(q, LogUniform(q.log_low, q.log_high)), [0.0] * NUMBER, points)


def test_float32_arguments_are_taken_as_they_are_and_carry_no_gradient() -> None:
    loc, scale = torch.tensor([[-3.0], [-12.1]], requires_grad=True), torch.tensor([0.3, 2.0], requires_grad=True)
    got = evidence_change(TruncatedLogNormal(loc, scale), LogUniform(-20.0, -5.0))
    truth = [[float(integrated((m, s), (-20, 0), None, (-20, -5))) for s in scale.tolist()] for (m,) in loc.tolist()]
    assert got.dtype == torch.float64
    assert not got.requires_grad
    torch.testing.assert_close(got, torch.tensor(truth, dtype=torch.float64), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize(
    "reduced", [LogUniform(-21.0, -5.0), LogUniform(-20.0, 0.5), TruncatedLogNormal(0.0, 1.0, -21)]
)
def test_a_prior_where_the_data_said_nothing(reduced: LogUniform | TruncatedLogNormal) -> None:
    with pytest.raises(ValueError, match="reaches beyond the posterior's"):
        evidence_change(TruncatedLogNormal(torch.zeros(3), 1.0), reduced)
