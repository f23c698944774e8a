"""Loaders, networks and arguments that fit refuses, and what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dither import batchnorm
from tests.cases import Net


def single(layer: nn.Module) -> nn.Module:
    return batchnorm.convert(nn.Sequential(layer))


def with_nan() -> Tensor:
    x = torch.randn(10, 8, 6)
    x[4, 2:5, 1] = math.nan
    return x


@pytest.mark.parametrize(
    ("loader", "kwargs", "message"),
    [
        ([], {}, "the loader is empty"),
        ([torch.ones(8, 6)], {}, r"one batch of 8 examples; a law .* needs 2"),
        ([torch.ones(8, 6), torch.ones(3, 6)], {}, r"one batch of 8 examples \(and one of 3, which was left out\)"),
        (torch.randn(5, 1, 6).unbind(), {}, "batches of one example"),
        ([torch.randn(n, 6) for n in (8, 8, 9)], {}, "different sizes: 8 examples at first, 9 in batch 2"),
        ([torch.randn(n, 6) for n in (8, 5, 8)], {}, "different sizes: 8 examples at first, 5 and then 8 in batch 2"),
        ([torch.randn(8, 6), torch.randn(0, 6)], {}, "batch 1 of the loader holds no example"),
        (with_nan().unbind(), {}, "batch 4 of the loader holds NaN or infinity in 3 of 8 rows"),
        (["a", "b"], {}, "batch 0: the loader yields a str"),
        ([{"words": torch.ones(8, 6)}] * 2, {}, "batch 0: the loader yields a dict with 'words'"),
        (torch.randn(5, 8, 6).unbind(), {"num_batches": 1}, "num_batches is 1"),
        (torch.randn(5, 8, 6).unbind(), {"records": -1}, "records is -1; expected 0 or more"),
        (
            torch.randn(5, 8, 6).unbind(),
            {"records": 1, "law": batchnorm.Empirical()},
            "records is 1; expected 2 or more",
        ),
    ],
)
def test_bad_loaders_and_arguments(loader: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batchnorm.fit(single(nn.BatchNorm1d(6)), loader, **kwargs)


@pytest.mark.parametrize(
    ("loader", "kwargs", "message"),
    [
        (torch.randn(5, 8, 6), {}, r"the loader is a tensor of shape \(5, 8, 6\); expected an iterable of batches"),
        (7, {}, "the loader is a int; expected an iterable"),
        (torch.randn(5, 8, 6).unbind(), {"law": "empirical"}, r"law is 'empirical'; expected a law"),
    ],
)
def test_arguments_of_the_wrong_type(loader: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        batchnorm.fit(single(nn.BatchNorm1d(6)), loader, **kwargs)


def test_a_network_without_converted_layers() -> None:
    with pytest.raises(ValueError, match=r"no StochasticBatchNorm.*convert"):
        batchnorm.fit(nn.Sequential(nn.BatchNorm1d(6)), torch.randn(5, 8, 6).unbind())


def test_a_network_that_calls_no_converted_layer() -> None:
    net = batchnorm.convert(Net(lambda m, x: x, bn=nn.BatchNorm1d(6)))
    with pytest.raises(ValueError, match="no converted layer is called in a forward pass: bn"):
        batchnorm.fit(net, torch.randn(5, 8, 6).unbind())


def test_a_network_that_calls_its_layers_differently() -> None:
    calls = iter([1, 1, 2])

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(next(calls)):
            x = m.bn(x)
        return x

    net = batchnorm.convert(Net(forward, bn=nn.BatchNorm1d(6)))
    with pytest.raises(
        ValueError, match=r"batch 2: 'bn' is called 2 times in a forward pass, and 1 times in the first"
    ):
        batchnorm.fit(net, torch.randn(5, 8, 6).unbind())


def test_weights_that_are_not_finite() -> None:
    net = batchnorm.convert(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)))
    with torch.no_grad():
        net[0].weight[1, 1] = math.inf
    with pytest.raises(ValueError, match="the input of '1' holds NaN or infinity"):
        batchnorm.fit(net, torch.randn(5, 8, 6).unbind())
