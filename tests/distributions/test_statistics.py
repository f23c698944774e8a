"""Statistics and their gradients against mpmath, at points that are drawn here."""

from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from dither.distributions import LogUniform, TruncatedLogNormal
from dither.distributions._interval import interval
from dither.distributions._quantile import cdf
from tests.distributions.points import Point, assert_within, columns, fresh_points, oracle
from tests.oracles import TruncatedNormal

NUMBER = 120
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=str)


def truths(points: list[Point], *statistics: Callable[[TruncatedNormal], object]) -> list[Tensor]:
    rows = [[float(statistic(oracle(point))) for statistic in statistics] for point in points]  # type: ignore[arg-type]
    return list(torch.tensor(rows, dtype=torch.float64).unbind(1))


@DTYPES
def test_kl_and_its_gradients(dtype: torch.dtype, tolerance: float, seed: int) -> None:
    points = fresh_points(seed, NUMBER, dtype)
    loc, scale, low, high = columns(points, dtype)
    divergence = kl_divergence(TruncatedLogNormal(loc, scale, low, high), LogUniform(low, high))
    d_loc, d_scale = torch.autograd.grad(divergence.sum(), [loc, scale])

    value, by_loc, by_log_scale = truths(
        points, TruncatedNormal.kl_to_log_uniform, lambda o: o.kl_gradients()[0], lambda o: o.kl_gradients()[1]
    )
    assert_within(divergence, value, tolerance, 1e-3, points)
    assert_within(d_loc, by_loc, tolerance, 1e-3, points)
    per_log = 1 / scale.detach().double()
    assert_within(d_scale, by_log_scale * per_log, tolerance, 1e-3 * per_log, points)


@DTYPES
def test_moments(dtype: torch.dtype, tolerance: float, seed: int) -> None:
    points = fresh_points(seed + 1, NUMBER, dtype)
    q = TruncatedLogNormal(*columns(points, dtype))
    mean, snr, stddev = truths(points, lambda o: o.moment(1), TruncatedNormal.snr, lambda o: o.moment(1) / o.snr())
    assert_within(q.mean, mean, tolerance, 0.0, points)
    assert_within(q.snr, snr, tolerance, 0.0, points)
    assert_within(q.stddev, stddev, tolerance, 0.0, points)
    assert_within(q.variance, stddev**2, tolerance, 0.0, points)


@DTYPES
def test_gradients_of_the_mean(dtype: torch.dtype, tolerance: float, seed: int) -> None:
    points = fresh_points(seed + 2, NUMBER, dtype)
    loc, scale, low, high = columns(points, dtype)
    mean = TruncatedLogNormal(loc, scale, low, high).mean
    d_loc, d_scale = torch.autograd.grad(mean.sum(), [loc, scale])

    size, by_loc, by_log_scale = truths(
        points, lambda o: o.moment(1), lambda o: o.mean_gradients()[0], lambda o: o.mean_gradients()[1]
    )
    # The same rule as for the divergence, on the scale of the mean itself, which may be 1e-9.
    assert_within(d_loc, by_loc, tolerance, 1e-3 * size, points)
    per_log = 1 / scale.detach().double()
    assert_within(d_scale, by_log_scale * per_log, tolerance, 1e-3 * size * per_log, points)


@DTYPES
def test_entropy(dtype: torch.dtype, tolerance: float, seed: int) -> None:
    points = fresh_points(seed + 3, NUMBER, dtype)
    (value,) = truths(points, TruncatedNormal.entropy)
    assert_within(TruncatedLogNormal(*columns(points, dtype)).entropy(), value, tolerance, 1e-3, points)


def test_log_prob_and_cdf(seed: int) -> None:
    points = fresh_points(seed + 4, NUMBER, torch.float64)
    q = TruncatedLogNormal(*columns(points, torch.float64))
    theta = q.icdf(torch.rand(NUMBER, dtype=torch.float64)).detach()
    # A law narrower than the spacing of numbers next to its samples cannot be asked at a sample.
    kept = [i for i in range(NUMBER) if q.snr[i] < 1e7 and theta[i] > 0]
    assert len(kept) > NUMBER / 2
    log_prob = torch.tensor([float(oracle(points[i]).log_prob(theta[i].item())) for i in kept])
    assert_within(q.log_prob(theta)[kept], log_prob.double(), 1e-6, 1.0, [points[i] for i in kept])
    with_mp = [float(oracle(points[i]).cdf(mpmath.log(theta[i].item()))) for i in kept]
    torch.testing.assert_close(
        q.cdf(theta)[kept].detach(), torch.tensor(with_mp, dtype=torch.float64), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(("loc", "scale"), [(-3.0, 0.5), (-30.0, 2.0), (4.0, 3.0), (-1.0, 50.0), (0.0, 1.0)])
def test_mode_is_where_the_density_of_theta_is_largest(loc: float, scale: float) -> None:
    q = TruncatedLogNormal(torch.tensor(loc, dtype=torch.float64), scale)
    grid = torch.linspace(-20, 0, 20001, dtype=torch.float64).exp()
    assert q.log_prob(q.mode) >= q.log_prob(grid).max() - 1e-12


def test_small_probabilities_keep_their_digits() -> None:
    law = (-25.0, 0.1, -20.0, 0.0)
    z = -20.0 + 2.0**-48
    truth = float(oracle(law).cdf(z))
    assert 0 < truth < 1e-11
    got = cdf(interval(*(torch.tensor(v, dtype=torch.float64) for v in law)), torch.tensor(z, dtype=torch.float64))[0]
    assert got.item() == pytest.approx(truth, rel=1e-9)
