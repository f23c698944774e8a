"""The exact prediction against a plain loop over torch's own BatchNorm in training mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dither import batchnorm
from dither.batchnorm import exact_predict


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4),
        nn.BatchNorm1d(4), nn.Linear(4, 3),
    ).double()  # fmt: skip


def by_hand(plain: nn.Module, x: Tensor, batches: tuple[Tensor, ...]) -> Tensor:
    """Every example in every batch, in a fresh copy in training mode."""

    def row(batch: Tensor, one: Tensor) -> Tensor:
        return copy.deepcopy(plain).train()(torch.cat([batch, one[None]]))[-1].softmax(0)

    return torch.stack([torch.stack([row(batch, one) for one in x]) for batch in batches]).detach()


def test_against_batchnorm_in_training_mode() -> None:
    plain = model()
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    batches = torch.randn(20, 2, 6, dtype=torch.float64).split(5)
    net = batchnorm.convert(plain).train()
    before = copy.deepcopy(net.state_dict())
    found = exact_predict(net, x, [(batch, None) for batch in batches])
    torch.testing.assert_close(found.probs, by_hand(plain, x, batches))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_example_changes_its_own_statistics() -> None:
    """Were only the batch's statistics used, the rows of x would be predicted as by a fixed network."""
    net = batchnorm.convert(model())
    batches = torch.randn(20, 2, 6, dtype=torch.float64).split(5)
    x = torch.randn(1, 2, 6, dtype=torch.float64)
    far = exact_predict(net, 1e3 * x, batches).mean
    further = exact_predict(net, 1e6 * x, batches).mean
    torch.testing.assert_close(far, further, rtol=0, atol=1e-2)


def test_bad_input() -> None:
    net = batchnorm.convert(model())
    x = torch.randn(2, 2, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="convert"):
        exact_predict(model(), x, [x])
    with pytest.raises(ValueError, match="batches is empty"):
        exact_predict(net, x, [])
    with pytest.raises(ValueError, match="x has no examples"):
        exact_predict(net, x[:0], [x])
    with pytest.raises(ValueError, match=r"examples of shape \(2, 7\), x of \(2, 6\)"):
        exact_predict(net, x, [torch.randn(4, 2, 7, dtype=torch.float64)])
    with pytest.raises(ValueError, match="NaN or infinite"):
        exact_predict(net, x * torch.nan, [x])
