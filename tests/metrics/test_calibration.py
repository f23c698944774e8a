"""Calibration error against plain loops, torchmetrics and by hand; temperature against scipy's minimiser."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from dither import metrics
from tests.metrics import oracles
from tests.metrics.conftest import classifier

Data = tuple[Tensor, Tensor]


# --- expected calibration error --------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_bins", [1, 4, 10, 15, 100])
def test_equal_widths(data: Data, num_bins: int) -> None:
    probs, target = data
    truth = oracles.ece_loop(probs.numpy(), target.numpy(), num_bins)
    assert metrics.ece(probs, target, num_bins) == pytest.approx(truth, abs=1e-13)
    of_torchmetrics = multiclass_calibration_error(probs, target, num_classes=5, n_bins=num_bins, norm="l1").item()
    assert metrics.ece(probs, target, num_bins) == pytest.approx(of_torchmetrics, abs=1e-6)


@pytest.mark.parametrize("num_bins", [1, 7, 15, 400])
def test_equal_numbers(data: Data, num_bins: int) -> None:
    probs, target = data
    truth = oracles.ece_adaptive_loop(probs.numpy(), target.numpy(), num_bins)
    assert metrics.ece(probs, target, num_bins, adaptive=True) == pytest.approx(truth, abs=1e-13)


def test_by_hand() -> None:
    """Confidence .6 is right once of twice (gap .1), .9 twice of twice (gap .1): .1; one bin: .75 right of .75."""
    p = torch.tensor([0.6, 0.6, 0.9, 0.9], dtype=torch.float64)
    probs, target = torch.stack((p, 1 - p), 1), torch.tensor([0, 1, 0, 0])
    assert metrics.ece(probs, target, 10) == pytest.approx(0.1)
    assert metrics.ece(probs, target, 2, adaptive=True) == pytest.approx(0.1)
    assert metrics.ece(probs, target, 1) == pytest.approx(0.0, abs=1e-15)


def test_a_confidence_of_one_belongs_to_the_last_bin() -> None:
    """0.95 and 1.0 share [.9, 1]: one of two right against .975 on average. Bins of their own would give .025 + .5."""
    probs, target = torch.tensor([[0.95, 0.05], [1.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1])
    assert metrics.ece(probs, target, 10) == pytest.approx(0.475)


def test_a_confidence_on_a_border_belongs_to_the_upper_bin() -> None:
    probs, target = torch.tensor([[0.75, 0.25], [0.625, 0.375]]), torch.tensor([0, 1])
    confidence, right, share = metrics.reliability(probs, target, 4)  # [.5, .75) and [.75, 1]
    assert (confidence.tolist(), right.tolist(), share.tolist()) == ([0.625, 0.75], [0.0, 1.0], [0.5, 0.5])


def test_the_order_of_the_examples_does_not_matter_although_confidences_are_tied() -> None:
    """.75 sure, six of eight right: honest, in two bins as in one. With the wrong ones in one bin it would be .25."""
    probs, target = torch.tensor([[0.75, 0.25]] * 8), torch.tensor([0] * 6 + [1] * 2)
    for order in (torch.arange(8), torch.arange(8).flip(0), torch.tensor([6, 0, 1, 2, 3, 4, 5, 7])):
        assert metrics.ece(probs[order], target[order], 2, adaptive=True) == pytest.approx(0.0, abs=1e-12)
        _, right, _ = metrics.reliability(probs[order], target[order], 2, adaptive=True)
        assert right.tolist() == pytest.approx([0.75, 0.75])


def test_bins_are_never_more_than_examples(data: Data) -> None:
    probs, target = data[0][:3], data[1][:3]
    confidence, _, share = metrics.reliability(probs, target, 15, adaptive=True)
    torch.testing.assert_close(confidence, probs.amax(1).sort().values)
    torch.testing.assert_close(share, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_many_confidences_near_one_keep_their_digits() -> None:
    """What float32 sums would lose: all 50,000 right with confidence 1 - 1e-5."""
    p = torch.full((50_000,), 1 - 1e-5, dtype=torch.float64)
    probs, target = torch.stack((p, 1 - p), 1), torch.zeros(50_000, dtype=torch.long)
    assert metrics.ece(probs, target) == pytest.approx(1e-5, rel=1e-6)
    assert metrics.ece(probs, target, adaptive=True) == pytest.approx(1e-5, rel=1e-6)


def test_bins_are_counted_from_one(data: Data) -> None:
    with pytest.raises(ValueError, match="num_bins is 0, expected at least 1"):
        metrics.ece(*data, num_bins=0)


# --- temperature -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sharpen", [0.3, 1.0, 4.0])
def test_temperature_is_the_minimiser(sharpen: float) -> None:
    probs, target = classifier()
    probs = metrics.apply_temperature(probs, 1 / sharpen)
    rows, labels = probs.tolist(), target.tolist()
    found = minimize_scalar(
        lambda log_t: oracles.nll_at_temperature(rows, labels, math.exp(log_t)), bounds=(-3, 3), method="bounded"
    )
    assert metrics.fit_temperature(probs, target) == pytest.approx(math.exp(found.x), rel=1e-4)


def test_temperature_of_constant_confidence_by_hand() -> None:
    """.9 sure and right in 3 of 4: 9^(1/t) = 3, so t = 2."""
    probs, target = torch.tensor([[0.9, 0.1]] * 4, dtype=torch.float64), torch.tensor([0, 0, 0, 1])
    assert metrics.fit_temperature(probs, target) == pytest.approx(2.0, rel=1e-12)


def test_temperature_undoes_temperature(data: Data) -> None:
    probs, target = data
    base = metrics.fit_temperature(probs, target)
    assert metrics.fit_temperature(metrics.apply_temperature(probs, 0.25), target) == pytest.approx(base / 0.25)
    torch.testing.assert_close(metrics.apply_temperature(metrics.apply_temperature(probs, 3.0), 1 / 3), probs)


def test_temperature_keeps_classes_dtype_and_the_sum(data: Data) -> None:
    probs = data[0].float()
    scaled = metrics.apply_temperature(probs, 3.0)
    assert scaled.dtype == torch.float32
    assert torch.equal(scaled.argmax(1), probs.argmax(1))
    torch.testing.assert_close(scaled.sum(1), torch.ones(len(probs)))
    torch.testing.assert_close(metrics.apply_temperature(probs, 1.0), probs)


def test_extreme_probabilities_have_a_temperature() -> None:
    """Zeros and ones in float32, one in ten wrong: the log-odds are 87.3 and should be log 9."""
    probs, target = torch.eye(2)[torch.arange(200) % 2], torch.arange(200) % 2
    target[::10] = 1 - target[::10]
    t = metrics.fit_temperature(probs, target)
    assert t == pytest.approx(-math.log(torch.finfo(torch.float32).tiny) / math.log(9), rel=1e-9)
    torch.testing.assert_close(metrics.apply_temperature(probs, t)[0], torch.tensor([0.9, 0.1]))


@pytest.mark.parametrize(("shift", "bound", "which"), [(0, 0.05, "less"), (1, 1000.0, "more")])
def test_no_optimum(shift: int, bound: float, which: str) -> None:
    """Always right: colder is always better. Always wrong: hotter is."""
    probs, target = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]), torch.tensor([shift, 1 - shift])
    with pytest.warns(UserWarning, match=rf"no best temperature, {which} doubt is always better; {bound:g} is used"):
        assert metrics.fit_temperature(probs, target) == bound


def test_uniform_rows_stay_as_they_are() -> None:
    assert metrics.fit_temperature(torch.full((4, 4), 0.25), torch.tensor([0, 1, 2, 3])) == 1.0


def test_calibrated_nll_takes_its_temperature_from_elsewhere(data: Data, held_out: Data) -> None:
    probs, target = data
    t = metrics.fit_temperature(*held_out)
    found = metrics.calibrated_nll(probs, target, *held_out)
    assert found == pytest.approx(oracles.nll_at_temperature(probs.tolist(), target.tolist(), t), rel=1e-12)
    own = metrics.calibrated_nll(probs, target, probs, target)
    assert own < found  # its own data would flatter it
    assert own <= metrics.nll(probs, target)


def test_calibrated_nll_of_other_classes(data: Data) -> None:
    with pytest.raises(ValueError, match=r"probs has shape \(400, 5\) and held_out_probs \(4, 2\), expected the same"):
        metrics.calibrated_nll(*data, torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("t", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_is_positive(data: Data, t: float) -> None:
    with pytest.raises(ValueError, match=r"the temperature is .*, expected a positive number"):
        metrics.apply_temperature(data[0], t)
