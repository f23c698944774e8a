"""AUROC, AUPR, FPR95, ECDF, risk and coverage: against scikit-learn, scipy, plain loops and by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torch import Tensor

from dither import metrics
from tests.metrics import oracles


def scores(kind: str) -> tuple[Tensor, Tensor]:
    """Scores inside and outside: overlapping; many ties; beyond what a sigmoid in float32 can tell apart; tiny."""
    generator = torch.Generator().manual_seed(3)
    inside = torch.randn(300, generator=generator, dtype=torch.float64)
    outside = torch.randn(170, generator=generator, dtype=torch.float64) + 1.2
    change = {
        "overlapping": lambda x: x,
        "tied": lambda x: (2 * x).round() / 2,
        "large": lambda x: 100 + x,
        "tiny": lambda x: 1e-12 * x,
        "float32": lambda x: x.float(),
        "whole numbers": lambda x: (3 * x).round().long(),
    }[kind]
    return change(inside), change(outside)


KINDS = ["overlapping", "tied", "large", "tiny", "float32", "whole numbers"]


def sklearn_input(inside: Tensor, outside: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.r_[np.zeros(len(inside)), np.ones(len(outside))], torch.cat((inside, outside)).numpy()


# --- inside against outside ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_auroc(kind: str) -> None:
    inside, outside = scores(kind)
    truth = sklearn.metrics.roc_auc_score(*sklearn_input(inside, outside))
    assert 0.6 < truth < 0.9
    assert metrics.auroc(inside, outside) == pytest.approx(truth, abs=1e-6)
    assert metrics.auroc(inside, outside) == pytest.approx(
        oracles.auroc_pairs(inside.tolist(), outside.tolist()), abs=1e-6
    )
    assert metrics.auroc(outside, inside) == pytest.approx(1 - truth, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_aupr(kind: str) -> None:
    inside, outside = scores(kind)
    truth = sklearn.metrics.average_precision_score(*sklearn_input(inside, outside))
    assert metrics.aupr(inside, outside) == pytest.approx(truth, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_fpr95(kind: str) -> None:
    inside, outside = scores(kind)
    fpr, tpr, _ = sklearn.metrics.roc_curve(*sklearn_input(inside, outside), drop_intermediate=False)
    assert metrics.fpr95(inside, outside) == pytest.approx(fpr[tpr >= 0.95].min(), abs=1e-6)
    loop = oracles.fpr_at(inside.tolist(), outside.tolist(), Fraction(95, 100))
    assert metrics.fpr95(inside, outside) == pytest.approx(loop, abs=1e-6)


def test_fpr95_finds_exactly_95_percent() -> None:
    """Outside 1 … 20, inside 1.5 and 2.5: the threshold 2 finds 19 of 20 and lets one of the two through."""
    assert metrics.fpr95(torch.tensor([1.5, 2.5]), torch.arange(1.0, 21.0)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("inside", "outside", "expected"), [([1, 2], [3, 4], (1, 1, 0)), ([2, 2], [2, 2], (0.5, 0.5, 1))]
)
def test_apart_and_equal(inside: list[float], outside: list[float], expected: tuple[float, float, float]) -> None:
    pair = torch.tensor(inside), torch.tensor(outside)
    assert (metrics.auroc(*pair), metrics.aupr(*pair), metrics.fpr95(*pair)) == pytest.approx(expected)


def test_many_scores() -> None:
    """As many as MNIST and notMNIST have: float32 in torchmetrics still gives six digits."""
    rng = np.random.default_rng(0)
    inside, outside = rng.exponential(size=10_000), rng.exponential(2.0, size=18_724)
    pair = torch.from_numpy(inside), torch.from_numpy(outside)
    labels, values = sklearn_input(*pair)
    assert metrics.auroc(*pair) == pytest.approx(sklearn.metrics.roc_auc_score(labels, values), abs=2e-6)
    assert metrics.aupr(*pair) == pytest.approx(sklearn.metrics.average_precision_score(labels, values), abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_ecdf(kind: str) -> None:
    values, _ = scores(kind)
    truth = scipy.stats.ecdf(values.numpy()).cdf
    x, share = metrics.ecdf(values)
    np.testing.assert_array_equal(x.numpy(), truth.quantiles)
    np.testing.assert_allclose(share.numpy(), truth.probabilities, rtol=1e-12)


# --- risk and coverage -----------------------------------------------------------------------------------------------
def test_risk_coverage() -> None:
    uncertainty, _ = scores("overlapping")
    loss = torch.arange(300.0) % 7
    coverage, risk = metrics.risk_coverage(uncertainty, loss)
    truth = oracles.risks(uncertainty.tolist(), loss.tolist())
    np.testing.assert_allclose(risk.numpy(), truth, rtol=1e-12)
    np.testing.assert_allclose(coverage.numpy(), np.arange(1, 301) / 300, rtol=1e-12)
    assert metrics.aurc(uncertainty, loss) == pytest.approx(sum(truth) / 300, rel=1e-12)


def test_risk_of_ties_is_the_mean_over_their_orders() -> None:
    """Certain and right; then three of the same uncertainty, one wrong: risks 0, 1/6, 2/9, 1/4."""
    uncertainty = torch.tensor([5.0, 1.0, 5.0, 5.0])
    for wrong in ([True, False, False, False], [False, False, False, True]):
        _, risk = metrics.risk_coverage(uncertainty, torch.tensor(wrong))
        assert risk.tolist() == pytest.approx([0, 1 / 6, 2 / 9, 1 / 4])


def test_aurc_by_hand() -> None:
    """Ten examples, two wrong. Perfect: (1/9 + 2/10) / 10. Upside down: the two come first."""
    wrong, order = torch.tensor([False] * 8 + [True] * 2), torch.arange(10.0)
    assert metrics.aurc(order, wrong) == pytest.approx((1 / 9 + 2 / 10) / 10)
    assert metrics.aurc(-order, wrong) == pytest.approx((2 + sum(2 / n for n in range(3, 11))) / 10)
    assert metrics.aurc(torch.zeros(10), wrong) == pytest.approx(0.2)


def test_risk_of_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="uncertainty has 3 examples and wrong 2"):
        metrics.risk_coverage(torch.zeros(3), torch.zeros(2))
