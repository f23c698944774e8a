"""tune against predictions and sums made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dither
from dither import batchnorm
from dither.batchnorm._rescale import sizes


def make_net(*, fit_at: int = 8, dropout: float = 0.0, sharp: float = 6.0) -> nn.Module:
    """Overconfident: the larger ``sharp``, the more."""
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
    with torch.no_grad():
        model[4].weight *= sharp
    net = batchnorm.convert(model).eval()
    batchnorm.fit(net, torch.randn(100, fit_at, 4).unbind())
    return net


def held_out(count: int = 200) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4), torch.randint(3, (count,))


def by_hand(net: nn.Module, x: Tensor, y: Tensor, size: float, seed: int, num_samples: int) -> np.ndarray:
    """Loss of every example."""
    batchnorm.rescale(net, batch_size=size)
    probs = dither.predict(net, x, num_samples, generator=torch.Generator().manual_seed(seed)).probs.double().numpy()
    return np.array([-math.log(np.mean([p[n, int(y[n])] for p in probs])) for n in range(len(y))])


def test_the_table_is_what_predict_says() -> None:
    net, (x, y), grid = make_net(), held_out(), (2, 8, 64)
    losses = [by_hand(net, x, y, size, 5, 6) for size in grid]
    batchnorm.rescale(net, batch_size=8)
    loader = list(zip(x.split(80), y.split(80), strict=True))
    report = batchnorm.tune(net, loader, batch_sizes=grid, num_samples=6, generator=torch.Generator().manual_seed(5))
    best = int(np.argmin([loss.mean() for loss in losses]))
    assert report.nll == pytest.approx([loss.mean() for loss in losses], rel=1e-6)
    assert report.nll_se == pytest.approx([loss.std(ddof=1) / math.sqrt(200) for loss in losses], rel=1e-5)
    above = [loss - losses[best] for loss in losses]
    assert report.above == pytest.approx([d.mean() for d in above], rel=1e-5, abs=1e-12)
    assert report.above_se == pytest.approx([d.std(ddof=1) / math.sqrt(200) for d in above], rel=1e-5, abs=1e-12)
    assert (report.best, sizes(net)) == (grid[best], (grid[best], 8))
    assert (report.fitted, report.num_examples, report.num_samples) == (8, 200, 6)
    single = -dither.batchnorm.revert(net).eval()(x).double().log_softmax(1)[torch.arange(200), y].mean()
    assert report.single == pytest.approx(single.item(), rel=1e-5)


def test_a_network_that_is_too_sure_wants_much_noise_and_a_modest_one_little() -> None:
    """Labels are random, so less confident is better; with labels that the network itself gives, more is."""
    net, (x, y) = make_net(sharp=30.0), held_out()
    assert batchnorm.tune(net, [(x, y)]).best == 2
    own = dither.predict(batchnorm.rescale(net, batch_size=1e9), x).mean.argmax(1)
    report = batchnorm.tune(net, [(x, own)])
    assert report.best == 512 == sizes(net)[0]
    assert "the best is at the edge of what was tried; give batch_sizes beyond 512" in str(report)


def test_the_default_grid_is_powers_of_two_around_the_fit() -> None:
    report = batchnorm.tune(make_net(), [held_out(20)], num_samples=2)
    assert report.batch_sizes == (2, 4, 8, 16, 32, 64, 128, 256, 512)


def test_the_monte_carlo_error_is_the_spread_over_generators() -> None:
    """300 repetitions know a standard deviation to 4 %; the bounds are five of these and the delta method's own."""
    net, (x, y) = make_net(sharp=2.0), held_out(50)
    reports = [
        batchnorm.tune(net, [(x, y)], batch_sizes=[8], num_samples=32, generator=torch.Generator().manual_seed(i))
        for i in range(300)
    ]
    spread = float(np.std([r.nll[0] for r in reports], ddof=1))
    assert np.mean([r.monte_carlo_se[0] for r in reports]) == pytest.approx(spread, rel=0.2)


def test_the_same_seed_gives_the_same_table_with_dropout_too() -> None:
    net, batch = make_net(dropout=0.3), held_out()
    first, second, third = (
        batchnorm.tune(net, [batch], num_samples=4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == second
    assert first.nll != third.nll
    torch.manual_seed(9)
    without = batchnorm.tune(net, [batch], num_samples=4)
    torch.manual_seed(9)
    assert batchnorm.tune(net, [batch], num_samples=4) == without


def test_pixels_are_examples() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    net = batchnorm.convert(model)
    batchnorm.fit(net, torch.randn(30, 8, 2, 5, 5).unbind())
    x, y = torch.randn(6, 2, 5, 5), torch.randint(3, (6, 5, 5))
    report = batchnorm.tune(net, [(x, y)], batch_sizes=[4], num_samples=3, generator=torch.Generator().manual_seed(0))
    net.eval()
    mean = dither.predict(net, x, 3, generator=torch.Generator().manual_seed(0)).mean
    assert report.num_examples == 150
    assert report.nll[0] == pytest.approx(nn.functional.nll_loss(mean.log(), y).item(), rel=1e-5)


def test_dicts_and_modes() -> None:
    net = make_net().train()
    modes = [module.training for module in net.modules()]
    x, y = held_out(40)
    assert batchnorm.tune(net, iter([{"image": x, "label": y}]), num_samples=2).num_examples == 40
    assert [module.training for module in net.modules()] == modes


# --- bad input -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("loader", "kwargs", "message"),
    [
        ([], {}, "the loader is empty"),
        ([torch.randn(5, 4)], {}, r"batch 0 of the loader has no labels; tune needs \(inputs, target\)"),
        ([held_out(5), torch.randn(5, 4)], {}, "batch 1 of the loader has no labels"),
        (
            [(torch.randn(5, 4), torch.rand(5))],
            {},
            r"the labels in batch 0 are torch.float32; tune needs class numbers",
        ),
        ([(torch.randn(5, 4), torch.arange(5))], {}, "the labels go from 0 to 4; the network has the classes 0 to 2"),
        ([(torch.randn(5, 4), torch.arange(3))], {}, r"the labels have shape \(3,\); .* they need \(5,\)"),
        ([(torch.full((5, 4), math.nan), torch.zeros(5).long())], {}, "holds NaN or infinity in 5 of 5 rows"),
        ([held_out(5)], {"batch_sizes": []}, "batch_sizes is empty"),
        ([held_out(5)], {"batch_sizes": [4, 0]}, "batch_sizes holds 0; expected positive"),
        ([held_out(5)], {"batch_sizes": [math.inf]}, "batch_sizes holds inf; expected positive, finite"),
        ([held_out(5)], {"num_samples": 0}, "num_samples is 0, expected at least 1"),
    ],
)
def test_bad_input_leaves_the_size_as_it_was(loader: Any, kwargs: dict[str, Any], message: str) -> None:
    net = batchnorm.rescale(make_net(), batch_size=24)
    with pytest.raises(ValueError, match=message):
        batchnorm.tune(net, loader, **kwargs)
    assert sizes(net) == (24, 8)


def test_tuning_needs_a_fit() -> None:
    with pytest.raises(ValueError, match="'1' is not fitted"):
        batchnorm.tune(batchnorm.convert(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))), [held_out(5)])
