"""rescale against a fit at the other size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dither import batchnorm
from dither.batchnorm._fitted import Fitted


def single(layer: nn.Module) -> nn.Module:
    return batchnorm.convert(nn.Sequential(layer))


def fitted_at(size: int, *, channels: int = 200, batches: int = 2000) -> nn.Module:
    net = single(nn.BatchNorm1d(channels))
    generator = torch.Generator().manual_seed(size)
    batchnorm.fit(net, (torch.randn(size, channels, generator=generator) * 3 + 1 for _ in range(batches)))
    return net


def test_rescaling_is_fitting_at_the_other_size() -> None:
    """16 rescaled to 64 against a fit at 64: 200 channels, 2,000 batches, normal data, averages over channels.

    One variance is known to sqrt(2 / 2000) = 3.2 %, the ratio of two averages to 0.32 %: five of these are 1.6 %
    (failure rate 6e-7). The variance of log σ² goes with 1/B to first order: ψ'(7.5)/4 over ψ'(31.5) is 1.106.
    """
    moved, direct = fitted_at(16), fitted_at(64)
    assert batchnorm.rescale(moved, batch_size=64) is moved
    a, b = (Fitted([net[0].statistics]) for net in (moved, direct))
    assert float((a.scale_mean**2).mean() / (b.scale_mean**2).mean()) == pytest.approx(1.0, rel=0.016)
    assert float((a.scale_log_var**2).mean() / (b.scale_log_var**2).mean()) == pytest.approx(1.106, rel=0.016)
    expected = [float((f.loc_log_var + f.scale_log_var**2 / 2).exp().mean()) for f in (a, b)]
    assert expected[0] == pytest.approx(expected[1], rel=0.005)  # of 9 · 63/64; without the correction 4.8 % less
    assert expected[1] == pytest.approx(9 * 63 / 64, rel=0.002)


def test_rescaling_back_gives_the_fitted_law() -> None:
    net = fitted_at(16, channels=6, batches=30)
    before = Fitted([net[0].statistics])
    batchnorm.rescale(net, batch_size=3)
    batchnorm.rescale(net, batch_size=4096)
    batchnorm.rescale(net, batch_size=16)
    after = Fitted([net[0].statistics])
    for name in ("loc_mean", "scale_mean", "loc_log_var", "scale_log_var"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_fitting_again_forgets_the_rescaling() -> None:
    net = batchnorm.rescale(fitted_at(16, channels=6, batches=30), batch_size=64)
    batchnorm.fit(net, torch.randn(10, 8, 6).unbind())
    assert (float(net[0].statistics.batch_size), float(net[0].statistics.fitted_batch_size)) == (8, 8)


@pytest.mark.parametrize("size", [0, -4, math.inf, math.nan])
def test_sizes_that_cannot_be(size: float) -> None:
    net = fitted_at(16, channels=6, batches=30)
    with pytest.raises(ValueError, match=r"batch_size is .*; expected a positive, finite number"):
        batchnorm.rescale(net, batch_size=size)
    assert float(net[0].statistics.batch_size) == 16


def test_rescaling_needs_a_fit() -> None:
    with pytest.raises(ValueError, match=r"'0' is not fitted: call batchnorm\.fit"):
        batchnorm.rescale(single(nn.BatchNorm1d(6)), batch_size=8)
