"""LogNormalNoise and dither.sampling: the law of the draws, one draw for the batch, mean and threshold in eval mode."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dither
from dither.pruning import LogNormalNoise
from tests.pruning import plain

PARAMETERS = [(0.0, -5.0), (-1.0, -1.0), (-3.0, 0.5), (-12.0, 1.5), (2.0, 0.0)]  # loc, log scale


def noise_of(parameters: list[tuple[float, float]], **options: Any) -> LogNormalNoise:
    noise = LogNormalNoise(len(parameters), dtype=torch.float64, **options)
    with torch.no_grad():
        noise.loc.copy_(torch.tensor([loc for loc, _ in parameters]))
        noise.log_scale.copy_(torch.tensor([log_scale for _, log_scale in parameters]))
    return noise


@pytest.mark.parametrize(("loc", "log_scale"), PARAMETERS)
def test_draws_have_the_mean_and_the_deviation_of_the_law(loc: float, log_scale: float) -> None:
    """n draws, Hoeffding for [0, 1]: |average - truth| > sqrt(log(2/p) / 2n) has a probability below p = 1e-9."""
    n, p = 200_000, 1e-9
    draws = noise_of([(loc, log_scale)] * n)(torch.ones(1, n, dtype=torch.float64))[0].detach()
    bound = math.sqrt(math.log(2 / p) / (2 * n))
    mean, sd = plain.mean(loc, math.exp(log_scale)), plain.stddev(loc, math.exp(log_scale))
    assert float(draws.min()) >= 0
    assert float(draws.max()) <= 1
    assert abs(float(draws.mean()) - mean) < bound
    assert abs(float(((draws - mean) ** 2).mean()) - sd**2) < bound


@pytest.mark.parametrize(("loc", "log_scale"), PARAMETERS)
def test_draws_have_the_distribution_function_of_the_law(loc: float, log_scale: float) -> None:
    """Dvoretzky-Kiefer-Wolfowitz: the largest distance exceeds sqrt(log(2/p) / 2n) with probability below p = 1e-9."""
    n, p = 50_000, 1e-9
    draws = noise_of([(loc, log_scale)] * n).theta().detach().log().sort().values
    empirical = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = float((plain.cdf(draws, loc, math.exp(log_scale)) - empirical).abs().max())
    assert distance < math.sqrt(math.log(2 / p) / (2 * n)) + 1e-4  # 1e-4: the trapezoidal sum


@pytest.mark.parametrize(
    ("shape", "dim"), [((7, 4), 1), ((7, 4), -1), ((7, 4, 5), 1), ((7, 4, 5, 6), 1), ((7, 3, 4), -1), ((7, 3, 4), 2)]
)
def test_one_draw_for_the_batch_and_all_positions(shape: tuple[int, ...], dim: int) -> None:
    noise = noise_of([(-1.0, 0.0)] * 4, dim=dim)
    x = torch.randn(shape, dtype=torch.float64)
    factor = (noise(x) / x).movedim(dim, 0).flatten(1)
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor))
    assert len(factor[:, 0].unique()) == 4
    assert bool((noise(x) != noise(x)).all())


def test_eval_is_the_mean_above_the_threshold_and_zero_below() -> None:
    noise = noise_of(PARAMETERS, threshold=1.0).eval()
    truth = [plain.mean(a, math.exp(b)) if plain.snr(a, math.exp(b)) > 1 else 0.0 for a, b in PARAMETERS]
    assert {value > 0 for value in truth} == {True, False}
    torch.testing.assert_close(noise(torch.ones(1, 5).double())[0], torch.tensor(truth).double(), rtol=1e-6, atol=0)


def test_the_threshold_is_the_layers_own() -> None:
    ratio = plain.snr(-3.0, math.exp(0.5))
    x = torch.ones(1, 1, dtype=torch.float64)
    assert float(noise_of([(-3.0, 0.5)], threshold=ratio * 0.999).eval()(x)) > 0
    assert float(noise_of([(-3.0, 0.5)], threshold=ratio * 1.001).eval()(x)) == 0


def test_snr_is_that_of_the_oracle_and_has_no_gradient() -> None:
    truth = torch.tensor([plain.snr(a, math.exp(b)) for a, b in PARAMETERS]).double()
    snr = noise_of(PARAMETERS).snr
    torch.testing.assert_close(snr, truth, rtol=1e-6, atol=0)
    assert not snr.requires_grad


def test_other_bounds() -> None:
    noise = noise_of([(0.3, -0.5)], log_low=-2.0, log_high=1.5).eval()
    truth = plain.mean(0.3, math.exp(-0.5), -2.0, 1.5)
    assert float(noise(torch.ones(1, 1).double())) == pytest.approx(truth, rel=1e-8)


def test_fresh_noise_leaves_a_trained_network_almost_as_it_is() -> None:
    x = torch.randn(3, 8)
    noise = LogNormalNoise(8)
    torch.testing.assert_close(noise(x), x, rtol=0.05, atol=0)
    assert not noise.trained


def test_draws_have_gradients_in_both_parameters() -> None:
    noise = noise_of([(-1.0, -0.5)] * 4)
    noise(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
    assert bool((noise.loc.grad > 0).all())
    assert bool((noise.log_scale.grad != 0).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_answer_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    assert LogNormalNoise(4)(torch.ones(2, 4, dtype=dtype)).dtype == dtype


def test_state_dict_round_trip() -> None:
    noise, other = noise_of(PARAMETERS), noise_of([(0.0, 0.0)] * 5)
    other.load_state_dict(noise.state_dict())
    assert list(noise.state_dict()) == ["loc", "log_scale"]
    assert torch.equal(noise.loc, other.loc)
    assert torch.equal(noise.log_scale, other.log_scale)


# --- sampling --------------------------------------------------------------------------------------------------------
STOCHASTIC = [nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), LogNormalNoise(16)]


@pytest.mark.parametrize("layer", STOCHASTIC, ids=lambda layer: type(layer).__name__)
def test_sampling_draws_in_eval_mode_and_only_inside(layer: nn.Module) -> None:
    net, x = nn.Sequential(layer).eval(), torch.ones(4, 16, 3)
    before = net(x)
    with dither.sampling(net) as same:
        assert same is net
        assert not torch.equal(net(x), net(x))
        assert not net.training
    assert torch.equal(net(x), before)


def test_sampling_leaves_batchnorm_alone() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    state = [t.clone() for t in net.state_dict().values()]
    with dither.sampling(net):
        net(torch.randn(8, 4))
        assert not net[1].training
    assert all(torch.equal(a, b) for a, b in zip(state, net.state_dict().values(), strict=True))


def test_sampling_restores_every_layer_after_an_error() -> None:
    net = nn.Sequential(nn.Dropout().train(), nn.Dropout().eval(), LogNormalNoise(4).eval())
    with pytest.raises(RuntimeError, match="on purpose"), dither.sampling(net):
        raise RuntimeError("on purpose")
    assert [net[0].training, net[1].training, net[2].sampling] == [True, False, False]


def test_sampling_nests() -> None:
    net = nn.Sequential(LogNormalNoise(4), nn.Dropout()).eval()
    with dither.sampling(net):
        with dither.sampling(net[0]):
            pass
        assert net[0].draws
        assert net[1].training
    assert not net[0].draws


# --- bad input -------------------------------------------------------------------------------------------------------
def test_a_wrong_width_says_both_widths() -> None:
    with pytest.raises(ValueError, match=r"5 channels along dimension 1 \(shape \(2, 5, 3\)\).*made for 4"):
        LogNormalNoise(4)(torch.zeros(2, 5, 3))


@pytest.mark.parametrize("width", [0, -3])
def test_no_channels(width: int) -> None:
    with pytest.raises(ValueError, match=f"num_features is {width}.*at least 1"):
        LogNormalNoise(width)


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (1.0, -1.0), (math.nan, 0.0), (0.0, math.nan)])
def test_bounds_in_the_wrong_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="give log_low < log_high"):
        LogNormalNoise(3, log_low=bounds[0], log_high=bounds[1])


@pytest.mark.parametrize("name", ["loc", "log_scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_not_finite(name: str, value: float) -> None:
    noise = LogNormalNoise(3)
    with torch.no_grad():
        tensor: Tensor = getattr(noise, name)
        tensor[1] = value
    with pytest.raises(ValueError, match=r"parameters that are not finite.*good checkpoint"):
        _ = noise.snr
