"""Bad input gets a clear error."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import batchnorm
from dither.pruning import LogNormalNoise
from tests.prediction.networks import Apply, Normal, Shift, conv_net

NET, X = conv_net(), torch.randn(3, 1, 8, 8)


@pytest.mark.parametrize("num_samples", [0, -3])
def test_num_samples(num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"num_samples is {num_samples}, expected at least 1"):
        dither.predict(NET, X, num_samples)


def test_no_room_for_one_row() -> None:
    with pytest.raises(ValueError, match="max_batch is 0: that is not room for one row"):
        dither.predict(NET, X, 4, max_batch=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite(value: float) -> None:
    x = X.clone()
    x[0, 0, 0, 0] = x[2, 0, 1, 1] = value
    with pytest.raises(ValueError, match="2 of the 3 rows of the input hold NaN or infinity"):
        dither.predict(NET, x, 4)
    with pytest.raises(ValueError, match="2 of the 3 rows"):
        dither.predict(NET, [X, x], 4)


def test_outputs_that_are_not_finite() -> None:
    net = nn.Sequential(Shift(Normal(5)), Apply(lambda x: torch.cat([x[:1] / 0, x[1:]]))).eval()
    with pytest.raises(ValueError, match="NaN or infinite in 4 of 4 samples, for 1 of 3 rows"):
        dither.predict(net, torch.randn(3, 5), 4)


def test_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match=r"the input is empty \(\(0, 1, 8, 8\)\)"):
        dither.predict(NET, X[:0], 4)
    with pytest.raises(ValueError, match="no tensor with a batch dimension"):
        dither.predict(NET, (), 4)
    with pytest.raises(ValueError, match="the loader yields no batch"):
        dither.predict(NET, [], 4)
    with pytest.raises(ValueError, match="the loader yields a str"):
        dither.predict(NET, ["image"], 4)
    with pytest.raises(TypeError, match="x is a float, expected a tensor"):
        dither.predict(NET, 3.0, 4)


def test_a_network_without_noise() -> None:
    with pytest.raises(ValueError, match=r"Linear has nothing that draws.*batchnorm\.convert.*num_samples=1"):
        dither.predict(nn.Linear(2, 2).eval(), torch.zeros(1, 2), 4)


def test_a_network_that_was_not_fitted() -> None:
    net = batchnorm.convert(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8)).eval())
    with pytest.raises(RuntimeError, match="fit"):
        dither.predict(net, torch.randn(3, 5), 4)
    assert torch.is_grad_enabled()
    assert not net[1].sampling


@pytest.mark.parametrize("out", [lambda x: [x], lambda x: {"a": x}, lambda x: None])
def test_outputs_without_logits(out) -> None:
    net = nn.Sequential(Shift(Normal(5)), Apply(out)).eval()
    with pytest.raises(ValueError, match=r"the network returns a .*Pass link="):
        dither.predict(net, torch.randn(3, 5), 4)


def test_outputs_without_the_batch() -> None:
    net = nn.Sequential(Shift(Normal(5)), Apply(lambda x: x.sum(0, keepdim=True))).eval()
    with pytest.raises(ValueError, match=r"the output for 3 rows has shape \(1, 5\), expected the batch first"):
        dither.predict(net, torch.randn(3, 5), 4)
    with pytest.raises(ValueError, match=r"For regression pass link=torch\.nn\.Identity\(\)"):
        dither.predict(nn.Sequential(net, Apply(lambda x: x[:, 0])).eval(), torch.randn(1, 5), 4)
    with pytest.raises(ValueError, match="link returned a int"):
        dither.predict(nn.Sequential(Shift(Normal(5))).eval(), torch.randn(3, 5), 4, link=lambda x: 3)


# --- samples that come out identical ---------------------------------------------------------------------------------
class Deaf(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return input


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(5, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class DeafShift(Shift):
    def forward(self, x: Tensor) -> Tensor:
        return x


def silent_noise() -> nn.Module:
    noise = LogNormalNoise(5)
    nn.init.constant_(noise.log_scale, -40.0)
    nn.init.constant_(noise.loc, -1.0)
    return nn.Sequential(noise, nn.Linear(5, 3))


class Still(Normal):
    def prepare(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.held = torch.ones(num_samples, self.size)


def constant_statistics() -> nn.Module:
    net = batchnorm.convert(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)))
    batchnorm.fit(net, [torch.randn(16, 5) for _ in range(4)])
    with torch.no_grad():
        net[0].statistics.scale_mean.zero_()
        net[0].statistics.scale_log_var.zero_()
    return net


IDENTICAL: dict[str, Callable[[], nn.Module]] = {
    r'"0" \(Dropout\): p is 0': lambda: nn.Sequential(nn.Dropout(0.0), nn.Linear(5, 3)),
    r'"0" \(Deaf\): Deaf overrides forward': lambda: nn.Sequential(Deaf(0.5), nn.Linear(5, 3)),
    r'"1" \(DeafShift\): DeafShift overrides forward': lambda: nn.Sequential(nn.Linear(5, 3), DeafShift(Normal(5))),
    r'"drop" \(Dropout\): the forward pass does not call it': Unused,
    r'"0" \(LogNormalNoise\): its noise is zero': silent_noise,
    r'"0" \(StochasticBatchNorm1d\): its statistics do not vary': constant_statistics,
}


@pytest.mark.parametrize("reason", IDENTICAL)
def test_samples_that_come_out_identical(reason: str) -> None:
    net = IDENTICAL[reason]().eval()
    with pytest.raises(ValueError, match=f"all 4 samples are identical, because no layer draws.*{reason}"):
        dither.predict(net, torch.randn(3, 5), 4)


def test_noise_that_does_not_reach_the_output_is_warned_of() -> None:
    """A black image through a layer without bias: dropout has nothing to drop."""
    net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.Dropout(0.5), nn.Linear(8, 3), nn.Dropout(0.0)).eval()
    with pytest.warns(UserWarning, match=r'although 1 drew.*These do not draw: "3" \(Dropout\): p is 0'):
        prediction = dither.predict(net, torch.zeros(2, 5), 4)
    assert bool((prediction.mutual_information < 1e-6).all())


def test_equal_draws_by_chance_are_no_error() -> None:
    """Two draws from two stored batches are the same one half of the time."""
    net = batchnorm.convert(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))).eval()
    batchnorm.fit(net, list(torch.randn(2, 8, 3)), law=batchnorm.Empirical())
    x = torch.randn(2, 3)
    caught = 0
    for seed in range(20):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            dither.predict(net, x, 2, generator=torch.Generator().manual_seed(seed))
        caught += any("the same draw came every time" in str(w.message) for w in found)
    assert 0 < caught < 20
