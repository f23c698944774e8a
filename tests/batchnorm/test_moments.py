"""Moments that are merged, against two passes in plain Python and against scipy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from dither.batchnorm._moments import MIN_TESTED, Moments, normality_p_value
from tests.batchnorm import oracles


def pushed(rows: Tensor) -> Moments:
    """One row after the other."""
    return functools.reduce(Moments.merge, (Moments.of(row) for row in rows))


def skewed(n: int, ratio: float) -> Tensor:
    """Columns of different shape; mean over standard deviation is ``ratio``."""
    generator = torch.Generator().manual_seed(n)
    z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return torch.stack((z[:, 0], z[:, 1].exp() / 2, z[:, 2].abs() ** 3 / 4), 1) + ratio


def assert_right(moments: Moments, rows: Tensor, rtol: float) -> None:
    truth = [oracles.central_moments(column.tolist()) for column in rows.double().T]
    for name, expected in zip(("mean", "m2", "m3", "m4"), zip(*truth, strict=True), strict=True):
        torch.testing.assert_close(
            getattr(moments, name), torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=0, msg=f"{name} is off"
        )


@pytest.mark.parametrize(("ratio", "rtol"), [(0.0, 1e-11), (1e2, 1e-11), (1e4, 1e-9), (1e6, 1e-7)])
def test_one_by_one_is_two_passes(ratio: float, rtol: float) -> None:
    rows = skewed(300, ratio)
    moments = pushed(rows)
    assert moments.count == 300
    assert_right(moments, rows, rtol)


@pytest.mark.parametrize("cuts", [[1], [299], [150], [7, 8, 200], [100, 100, 200]], ids=str)
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    rows = skewed(300, 1e4)
    parts = torch.tensor_split(rows, cuts)
    nothing = Moments.unstacked(0, torch.zeros(4, 3, dtype=torch.float64))
    found = functools.reduce(Moments.merge, (pushed(part) if len(part) else nothing for part in parts))
    assert found.count == 300
    assert_right(found, rows, 1e-8)


def test_merging_is_symmetric() -> None:
    a, b = pushed(skewed(20, 3.0)), pushed(skewed(51, -2.0))
    torch.testing.assert_close(a.merge(b).stacked(), b.merge(a).stacked(), rtol=1e-12, atol=1e-12)


def test_variance_is_unbiased() -> None:
    rows = skewed(17, 1.0)
    torch.testing.assert_close(pushed(rows).variance, rows.var(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(pushed(rows).std, rows.std(0), rtol=1e-12, atol=0)
    assert bool(pushed(rows[:1]).variance.isnan().all())


def test_a_float32_observation_is_taken_as_it_is() -> None:
    rows = skewed(64, 1e4).float()
    assert pushed(rows).mean.dtype == torch.float64
    assert_right(pushed(rows), rows, 1e-9)


def test_stacking_loses_nothing() -> None:
    moments = pushed(skewed(9, 2.0))
    again = Moments.unstacked(9, moments.stacked())
    assert again.count == 9
    assert torch.equal(again.stacked(), moments.stacked())


@pytest.mark.parametrize("n", [20, 21, 50, 400, 5000])
def test_p_values_are_those_of_scipy(n: int) -> None:
    rows = skewed(n, 10.0)
    expected = scipy.stats.normaltest(rows.numpy(), axis=0).pvalue
    np.testing.assert_allclose(normality_p_value(pushed(rows)).numpy(), expected, rtol=1e-6, atol=1e-300)


def test_about_one_in_a_hundred_normal_columns_is_rejected() -> None:
    """K² is approximate: at n = 200 its level is 1.475 ± 0.038 %, from 100,000 columns with scipy.

    Of 2,000 columns, less than 4 or more than 60 are rejected with probability 2e-7 (binomial).
    """
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(200, 2000, generator=generator, dtype=torch.float64)
    rejected = int((normality_p_value(pushed(rows)) < 0.01).sum())
    assert 4 <= rejected <= 60


def test_too_few_or_equal_observations_have_no_p_value() -> None:
    assert bool(normality_p_value(pushed(skewed(MIN_TESTED - 1, 0.0))).isnan().all())
    assert bool(normality_p_value(pushed(torch.ones(50, 3))).isnan().all())
