"""The picture of a fit: what is drawn where."""

from __future__ import annotations

from pathlib import Path

import pytest
import scipy.stats
import torch
from torch import nn

from dither import batchnorm
from dither.figures import save, statistics_figure


@pytest.fixture(scope="module")
def report() -> batchnorm.FitReport:
    layers = [layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4))]
    generator = torch.Generator().manual_seed(2)
    return batchnorm.fit(batchnorm.convert(nn.Sequential(*layers)), torch.randn(60, 8, 4, generator=generator).unbind())


def test_first_middle_and_last_layer_are_shown(report: batchnorm.FitReport) -> None:
    axes = report.figure().axes
    assert [a.get_title(loc="left") for a in axes] == ["1", "5", "9", "", "", ""]


def test_a_line_is_sorted_statistics_against_normal_quantiles(report: batchnorm.FitReport) -> None:
    figure = statistics_figure(report, ["3"])
    for axes, sample in zip(figure.axes, (report.layers[1].mean_sample, report.layers[1].log_var_sample), strict=True):
        *channels, diagonal = axes.get_lines()
        assert len(channels) == 4
        for line, values in zip(channels, sample.T, strict=True):
            assert list(line.get_ydata()) == pytest.approx(sorted(values.tolist()))
            quantiles = scipy.stats.norm.ppf([(i + 0.5) / 60 for i in range(60)])
            assert list(line.get_xdata()) == pytest.approx(list(quantiles))
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())


def test_the_band_holds_what_chance_does(report: batchnorm.FitReport) -> None:
    """At the median of K = 60 the standard error of a normal quantile is sqrt(π / 2 / 60) = 0.162."""
    (band,) = statistics_figure(report, ["3"]).axes[0].collections
    points = band.get_paths()[0].vertices
    near = points[abs(points[:, 0]) < 0.03]
    assert max(near[:, 1]) == pytest.approx(2.576 * 0.162, rel=0.1)
    assert min(near[:, 1]) == pytest.approx(-2.576 * 0.162, rel=0.1)


def test_it_can_be_saved(report: batchnorm.FitReport, tmp_path: Path) -> None:
    assert save(report.figure(), tmp_path / "fit.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv"], "no layer 'conv'; it has 1, 3, 5, 7, 9"),
        ([], "layers names 0 layers, expected 1 to 3"),
        (["1", "3", "5", "7"], "layers names 4 layers, expected 1 to 3"),
    ],
)
def test_layers_that_cannot_be_shown(report: batchnorm.FitReport, layers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics_figure(report, layers)


@pytest.mark.filterwarnings("ignore:dead channels")
def test_a_layer_that_is_dead() -> None:
    net = batchnorm.convert(nn.Sequential(nn.BatchNorm1d(4)))
    with pytest.raises(ValueError, match=r"all channels of '0' .* are dead"):
        batchnorm.fit(net, [torch.ones(8, 4)] * 5).figure()
