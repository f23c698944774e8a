"""The prior against closed forms with 100 digits, and as the limit of the posterior."""

import math

import pytest
import torch

from dither.distributions import LogUniform, TruncatedLogNormal
from tests.oracles import log_uniform_moments

BOUNDS = [(-20.0, 0.0), (-100.0, 3.0), (-0.01, 0.0), (-1e-6, 0.0), (1.0, 1.9), (1.0, 2.1), (-1000.0, 0.0)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_moments(low: float, high: float, dtype: torch.dtype, tolerance: float) -> None:
    low, high = torch.tensor([low, high], dtype=dtype).tolist()
    p = LogUniform(torch.tensor(low, dtype=dtype), torch.tensor(high, dtype=dtype))
    mean, variance = (float(value) for value in log_uniform_moments(low, high))
    assert p.mean.dtype == dtype
    assert p.mean.item() == pytest.approx(mean, rel=tolerance)
    assert p.variance.item() == pytest.approx(variance, rel=tolerance)
    assert p.stddev.item() == pytest.approx(math.sqrt(variance), rel=tolerance)
    assert p.snr.item() == pytest.approx(mean / math.sqrt(variance), rel=tolerance)


def test_it_is_the_limit_of_wide_noise() -> None:
    q, p = TruncatedLogNormal(torch.tensor(-3.0, dtype=torch.float64), 1e9), LogUniform()
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(q.icdf(u), p.icdf(u))
    theta = torch.tensor([1e-8, 1e-3, 0.7], dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(theta), p.log_prob(theta))
    torch.testing.assert_close(q.cdf(theta), p.cdf(theta))
    for name in ("mean", "variance", "stddev", "snr", "mode"):
        torch.testing.assert_close(getattr(q, name).float(), getattr(p, name))
    torch.testing.assert_close(q.entropy().float(), p.entropy())


def test_gradients_by_the_bounds() -> None:
    low = torch.tensor([-20.0, -0.3, -1e-2], dtype=torch.float64, requires_grad=True)
    high = torch.tensor([0.0, 0.3, 0.0], dtype=torch.float64, requires_grad=True)
    for statistic in (lambda p: p.mean, lambda p: p.variance, lambda p: p.entropy(), lambda p: p.log_prob(p.mean)):
        assert torch.autograd.gradcheck(lambda a, b, statistic=statistic: statistic(LogUniform(a, b)), (low, high))


def test_divergence_of_two_priors() -> None:
    inner, outer = LogUniform(-10.0, 0.0), LogUniform(-20.0, 0.0)
    torch.testing.assert_close(torch.distributions.kl_divergence(inner, outer), torch.tensor(2.0).log())
    assert torch.distributions.kl_divergence(outer, inner).isinf()
