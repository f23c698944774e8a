"""Samples folded by vmap are those of the loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.prediction._fold import can_fold
from dither.prediction._link import softmax
from dither.prediction._sampler import Batch, Sampler
from tests.prediction.networks import Apply, Normal, Shift, conv_net


def both(net: nn.Module, x: Tensor, samples: int = 5) -> tuple[Tensor, Tensor]:
    sampler = Sampler(net, samples, torch.Generator().manual_seed(0))
    batch = Batch(x, len(x), softmax)
    with sampler.ready():
        looped = torch.stack(sampler.looped(batch, range(samples), None))
        calls = sampler.calls(batch, 0)
        parts = [range(2), range(2, samples)]
        return looped, torch.cat([sampler.folded(batch, part, calls) for part in parts])


DROPOUTS = {
    "dropout": nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.3), nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)),
    "on the input": nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)),
    "in place": nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5, inplace=True), nn.Linear(6, 3)),
    "all and none": nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 6), nn.Dropout(0.0), nn.Dropout(1.0), nn.Linear(6, 3)),
    "of channels": nn.Sequential(nn.Unflatten(1, (5, 1)), nn.Dropout1d(0.5), nn.Flatten(), nn.Linear(5, 3)),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_masks_of_dropout_are_exactly_those_of_the_loop(name: str) -> None:
    net = DROPOUTS[name].double().eval()
    looped, folded = both(net, torch.randn(4, 5, dtype=torch.float64))
    torch.testing.assert_close(folded, looped, rtol=1e-13, atol=0)


def test_masks_follow_the_memory_of_the_input() -> None:
    """Dropout draws in the order of the memory; the transposed input has another one."""
    net = nn.Sequential(Apply(lambda x: x.t().contiguous().t()), nn.Dropout(0.5), nn.Linear(5, 3)).double().eval()
    looped, folded = both(net, torch.randn(4, 5, dtype=torch.float64))
    torch.testing.assert_close(folded, looped, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sources_with_and_without_dropout(dropout: float) -> None:
    looped, folded = both(conv_net(dropout=dropout).double(), torch.randn(2, 1, 8, 8, dtype=torch.float64))
    torch.testing.assert_close(folded, looped, rtol=1e-12, atol=0)
    assert bool((looped[0] != looped[1]).any())


def test_dropout_layers_are_as_they_were() -> None:
    net = conv_net(dropout=0.5)
    both(net, torch.randn(2, 1, 8, 8))
    assert all("forward" not in vars(m) for m in net.modules())


class MyDropout(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training) + 1


def test_what_can_be_folded() -> None:
    assert can_fold([nn.Dropout(0.5), nn.Dropout2d(0.5), Shift(Normal(3))])
    assert not can_fold([Shift(Normal(3, foldable=False))])
    assert not can_fold([nn.AlphaDropout(0.5)])
    assert not can_fold([MyDropout(0.5)])
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 5))
    assert not can_fold(list(Sampler(net, 2, None).layers.values()))


def test_random_numbers_of_the_network_itself_are_refused() -> None:
    net = nn.Sequential(Apply(lambda x: x + torch.randn(x.shape)), Shift(Normal(5))).eval()
    with pytest.raises(RuntimeError, match="randomness"):
        both(net, torch.randn(4, 5))
