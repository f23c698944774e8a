"""What the report of a fit says, and that it says it about the right channels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from dither import batchnorm
from dither.batchnorm._observe import PICTURED
from tests.batchnorm import oracles


def rows(count: int, size: int = 16) -> list[Tensor]:
    """Ten normal channels and ten whose batch means are far from normal."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(count, size, 20, generator=generator)
    x[:, :, 10:] += 3 * torch.randn(count, 1, 10, generator=generator) ** 3
    return list(x)


def fitted(batches: list[Tensor]) -> batchnorm.FitReport:
    return batchnorm.fit(batchnorm.convert(nn.Sequential(nn.BatchNorm1d(20))), batches)


def test_shares_of_rejected_channels_are_those_of_scipy() -> None:
    batches = rows(300)
    layer = fitted(batches).layers[0]
    statistics = [oracles.channel_statistics(batch.numpy()) for batch in batches]
    means, logs = np.array([m for m, _ in statistics]), np.log([v for _, v in statistics])
    assert layer.normal_rejected == pytest.approx(float((scipy.stats.normaltest(means).pvalue < 0.01).mean()))
    assert layer.log_normal_rejected == pytest.approx(float((scipy.stats.normaltest(logs).pvalue < 0.01).mean()))
    assert layer.normal_rejected >= 0.5
    assert layer.mean_sample.shape == layer.log_var_sample.shape == (300, PICTURED)


def test_noise_is_relative_to_the_standard_deviation() -> None:
    """Normal data, batch 16: sd(μ_B)/σ = 1/sqrt(16), of E σ²_B = 15/16; sd(log σ²_B) = sqrt(ψ'(7.5)) = 0.3777.

    Medians over 500 channels of what is known to 2.2 % from 1,000 batches: 0.12 %; the bounds are eight of these.
    """
    generator = torch.Generator().manual_seed(1)
    net = batchnorm.convert(nn.Sequential(nn.BatchNorm1d(500)))
    report = batchnorm.fit(net, (torch.randn(16, 500, generator=generator) * 7 - 20 for _ in range(1000)))
    assert report.layers[0].mean_noise == pytest.approx(0.25 / math.sqrt(15 / 16), rel=0.01)
    assert report.layers[0].log_var_noise == pytest.approx(0.3777, rel=0.01)


def test_samples_are_standardised_single_statistics() -> None:
    batches = rows(60)
    sample = fitted(batches).layers[0].mean_sample.double()
    torch.testing.assert_close(sample.mean(0), torch.zeros(PICTURED, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(sample.std(0), torch.ones(PICTURED, dtype=torch.float64), atol=1e-6, rtol=0)
    first = torch.tensor([oracles.channel_statistics(batch.numpy())[0][0] for batch in batches]).double()
    torch.testing.assert_close(sample[:, 0], (first - first.mean()) / first.std(), atol=1e-5, rtol=0)


def test_the_table() -> None:
    text = str(fitted(rows(300)))
    assert text.splitlines()[0].startswith("300 batches of 16 examples in ")
    assert "K² test at 1 %, chance: 1 %" in text
    assert "few batches" not in text


def test_few_batches_are_noted() -> None:
    report = fitted(rows(19))
    assert report.notes == (
        "few batches: standard deviations are known to about 17 %",
        "the tests of the laws need 20 batches",
    )
    assert math.isnan(report.layers[0].normal_rejected)
    assert "  -" in str(report)


@pytest.mark.filterwarnings("ignore:dead channels")
def test_dead_channels_are_left_out_of_everything() -> None:
    batches = rows(50)
    for batch in batches:
        batch[:, ::2] = 1.0
    layer = fitted(batches).layers[0]
    assert (layer.dead, layer.num_features) == (10, 20)
    assert layer.mean_noise > 0.1
    assert 0 < layer.mean_sample.shape[1] < PICTURED
    all_dead = fitted([torch.ones(16, 20)] * 3).layers[0]
    assert math.isnan(all_dead.mean_noise)
    assert all_dead.mean_sample.shape[1] == 0


def test_reports_of_equal_numbers_are_equal() -> None:
    report = fitted(rows(30))
    assert report == report
    assert "tensor" not in repr(report)
