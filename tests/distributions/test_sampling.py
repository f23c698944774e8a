"""Samples by their law, and their gradients against implicit differentiation in mpmath."""

import math

import pytest
import torch
from torch import Tensor

from dither.distributions import LogUniform, TruncatedLogNormal
from dither.distributions._interval import interval
from dither.distributions._quantile import quantile
from tests.distributions.points import BOUNDS, assert_within, columns, fresh_points, oracle

FAILURE_RATE = 1e-7  # of one Kolmogorov-Smirnov test; there are 17 in this file


def assert_uniform(u: Tensor, failure_rate: float) -> None:
    """Kolmogorov-Smirnov with the bound of Dvoretzky, Kiefer, Wolfowitz and Massart: it holds for every n."""
    u, n = u.flatten().sort().values, u.numel()
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - u).max(), (u - steps[:-1]).max()).item()
    bound = math.sqrt(math.log(2 / failure_rate) / (2 * n))
    assert distance < bound, f"Kolmogorov distance {distance:.4f} of {n} samples, expected below {bound:.4f}"


LAWS = [
    (-3.0, 0.5, -20.0, 0.0),  # inside
    (0.0, 1.0, -20.0, 0.0),  # half
    (-26.0, 1.0, -20.0, 0.0),  # lower tail
    (6.0, 0.4, -20.0, 0.0),  # upper tail
    (40.0, 1.0, -20.0, 0.0),  # far upper tail
    (-5.0, 8.0, -20.0, 0.0),  # both bounds
    (-5.0, 1e6, -20.0, 0.0),  # uniform
    (-3.0, 1e-4, -20.0, 0.0),  # a narrow one
]


@pytest.mark.parametrize("law", LAWS)
def test_law_of_the_samples(law: tuple[float, float, float, float]) -> None:
    q = TruncatedLogNormal(torch.tensor(law[0], dtype=torch.float64), *law[1:])
    samples = q.rsample((20_000,))
    assert_uniform(q.cdf(samples), FAILURE_RATE)
    # The same with the oracle, which shares nothing with the sampler.
    some = samples[:200].log().tolist()
    truth = oracle(law)
    assert_uniform(torch.tensor([float(truth.cdf(z)) for z in some], dtype=torch.float64), FAILURE_RATE)


def test_law_of_the_prior() -> None:
    p = LogUniform(torch.tensor(-20.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    assert_uniform((p.rsample((20_000,)).log() + 20) / 20, FAILURE_RATE)


def test_a_wrong_law_is_found() -> None:
    q = TruncatedLogNormal(torch.tensor(-3.0, dtype=torch.float64), 0.5)
    r = TruncatedLogNormal(torch.tensor(-3.0, dtype=torch.float64), 0.55)
    with pytest.raises(AssertionError, match="Kolmogorov"):
        assert_uniform(q.cdf(r.rsample((20_000,))), FAILURE_RATE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=str)
def test_quantiles_and_their_gradients(dtype: torch.dtype, tolerance: float, seed: int) -> None:
    number = 150
    points = fresh_points(seed + 5, number, dtype)
    loc, scale, low, high = columns(points, dtype)
    u = torch.rand(number, dtype=dtype) * 0.998 + 0.001
    theta = TruncatedLogNormal(loc, scale, low, high).icdf(u)
    d_loc, d_scale = torch.autograd.grad(theta.sum(), [loc, scale])

    truth = [(oracle(p).quantile(v), *oracle(p).sample_gradients(v)) for p, v in zip(points, u.tolist(), strict=True)]
    z, by_loc, by_log_scale = torch.tensor([[float(v) for v in row] for row in truth], dtype=torch.float64).unbind(1)
    size = z.exp()
    assert_within(theta, size, tolerance, 0.0, points)
    assert_within(d_loc, size * by_loc, tolerance, 1e-6 * size, points)
    size = size / scale.detach().double()
    assert_within(d_scale, size * by_log_scale, tolerance, 1e-6 * size, points)


LIMITS = [
    (-3.0, 1e-8, -20.0, 0.0),  # σ → 0 inside: z moves with μ
    (-3.0, 1e8, -20.0, 0.0),  # σ → ∞: z does not move
    (2.0, 1e-3, -20.0, 0.0),  # σ → 0 in the upper tail
    (-22.0, 1e-3, -20.0, 0.0),  # and in the lower one
    (1e5, 30.0, -20.0, 0.0),
    (0.0, 1e-12, -20.0, 0.0),  # on the bound
    (-0.005, 1.0, -0.01, 0.0),
    (-20.0, 0.81, -20.0, 0.0),
]


@pytest.mark.parametrize("law", LIMITS)
def test_sample_gradients_in_the_limits_are_relative(law: tuple[float, float, float, float]) -> None:
    for u in (0.01, 0.3, 0.9, 0.999):
        assert_quantile(law, u, tolerance=1e-7)


@pytest.mark.parametrize("slope", [0.0, 0.5, 8.0, 24.9, 25.1, 40.0])
def test_sample_gradients_where_the_starts_of_the_solver_meet(slope: float) -> None:
    for energy in (1e-6, 1.1e-4, 1e-2, 50.0):  # of the far bound
        high = 2 * energy / (slope + math.sqrt(slope * slope + 2 * energy))
        for u in (0.002, 0.5, 0.998):
            assert_quantile((-slope, 1.0, 0.0, high), u, tolerance=1e-9)


def assert_quantile(law: tuple[float, float, float, float], u: float, tolerance: float) -> None:
    """z to 1e-12, and its derivatives by μ and σ to ``tolerance``, relative."""
    arguments = (torch.tensor(value, dtype=torch.float64) for value in law)
    z, d_loc, d_scale, _ = quantile(interval(*arguments), torch.tensor(u, dtype=torch.float64))
    by_loc, by_log_scale = oracle(law).sample_gradients(u)
    assert z.item() == pytest.approx(float(oracle(law).quantile(u)), rel=1e-12)
    assert d_loc.item() == pytest.approx(float(by_loc), rel=tolerance, abs=0.0)
    assert d_scale.item() * law[1] == pytest.approx(float(by_log_scale), rel=tolerance, abs=1e-12 * law[1])


def test_a_draw_is_a_quantile_of_torch_rand(seed: int) -> None:
    loc, scale, low, high = columns(fresh_points(seed, 40, torch.float64), torch.float64)
    q = TruncatedLogNormal(loc, scale, low, high)
    torch.manual_seed(1)
    drawn = q.rsample((3,))
    torch.manual_seed(1)
    quantile = q.icdf(torch.rand(3, 40, dtype=torch.float64))
    torch.testing.assert_close(drawn, quantile, rtol=0.0, atol=0.0)
    torch.testing.assert_close(
        torch.autograd.grad(drawn.sum(), [loc, scale]), torch.autograd.grad(quantile.sum(), [loc, scale])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_samples_stay_in_the_support_of_their_dtype(dtype: torch.dtype) -> None:
    for low, high in BOUNDS:
        q = TruncatedLogNormal(torch.tensor([-50.0, -5.0, 0.0, 4.0], dtype=dtype), 0.5, low, high)
        samples = q.rsample((1000,))
        assert samples.dtype == dtype
        assert q.support.check(samples).all()
