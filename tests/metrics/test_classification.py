"""Accuracy, NLL, Brier score, entropy: against scikit-learn, scipy and by hand."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor

from dither import metrics

Data = tuple[Tensor, Tensor]


def test_accuracy(data: Data) -> None:
    probs, target = data
    truth = sklearn.metrics.accuracy_score(target, probs.argmax(1))
    assert 0.6 < truth < 0.95  # a case that can go wrong both ways
    assert metrics.accuracy(probs, target) == pytest.approx(truth, abs=1e-15)


def test_nll(data: Data) -> None:
    probs, target = data
    assert metrics.nll(probs, target) == pytest.approx(sklearn.metrics.log_loss(target, probs), rel=1e-12)


@pytest.mark.parametrize(("dtype", "nats"), [(torch.float32, 87.33654), (torch.float64, 708.39642)])
def test_a_probability_that_underflowed_costs_much_and_not_infinitely_much(dtype: torch.dtype, nats: float) -> None:
    probs = torch.tensor([[1.0, 0.0]], dtype=dtype)
    assert metrics.nll(probs, torch.tensor([1])) == pytest.approx(nats, rel=1e-6)
    assert metrics.nll(probs, torch.tensor([0])) == 0.0


def test_brier(data: Data) -> None:
    probs, target = data
    one_hot = torch.nn.functional.one_hot(target, 5).double()
    loop = sum(float(((p - y) ** 2).sum()) for p, y in zip(probs, one_hot, strict=True)) / len(probs)
    assert metrics.brier(probs, target) == pytest.approx(loop, rel=1e-12)


def test_brier_of_two_classes_is_twice_that_of_scikit_learn() -> None:
    p, target = torch.tensor([0.1, 0.8, 0.6, 0.95], dtype=torch.float64), torch.tensor([0, 1, 0, 1])
    truth = 2 * sklearn.metrics.brier_score_loss(target, p)
    assert metrics.brier(torch.stack((1 - p, p), 1), target) == pytest.approx(truth, rel=1e-12)


def test_brier_by_hand() -> None:
    # right and sure 0, wrong and sure 2, undecided between two 1/2
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert metrics.brier(probs, torch.tensor([0, 1, 1])) == pytest.approx(2.5 / 3)


def test_entropy(data: Data) -> None:
    probs, _ = data
    truth = torch.from_numpy(scipy.stats.entropy(probs.numpy(), axis=1))
    torch.testing.assert_close(metrics.entropy(probs), truth, rtol=1e-12, atol=1e-14)


def test_entropy_of_one_hot_and_uniform_rows() -> None:
    found = metrics.entropy(torch.cat((torch.eye(4)[:1], torch.full((1, 4), 0.25))))
    assert found.tolist() == [0.0, pytest.approx(math.log(4))]


def test_entropies_that_float32_could_not_tell_apart_still_rank() -> None:
    p = torch.tensor([1e-12, 2e-12], dtype=torch.float64)
    low, high = metrics.entropy(torch.stack((1 - p, p), 1)).tolist()
    assert 0 < low < high


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_read_as_it_is_given(data: Data, dtype: torch.dtype) -> None:
    probs, target = data
    rounded = probs.to(dtype)
    assert metrics.nll(rounded, target) == pytest.approx(sklearn_nll(rounded, target), rel=1e-9)


def sklearn_nll(probs: Tensor, target: Tensor) -> float:
    return -sum(math.log(row[y]) for row, y in zip(probs.double().tolist(), target.tolist(), strict=True)) / len(target)


def test_gradients_are_neither_needed_nor_kept(data: Data) -> None:
    probs, target = data
    assert not metrics.entropy(probs.clone().requires_grad_()).requires_grad
    assert metrics.nll(probs.clone().requires_grad_(), target) == metrics.nll(probs, target)
