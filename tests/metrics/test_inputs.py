"""What the metrics refuse, and with which words; the table; what is imported when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dither import metrics
from tests.metrics.conftest import classifier

Data = tuple[Tensor, Tensor]
OF_PROBS: dict[str, Callable[..., Any]] = {
    "accuracy": metrics.accuracy,
    "nll": metrics.nll,
    "brier": metrics.brier,
    "ece": metrics.ece,
    "fit_temperature": metrics.fit_temperature,
    "calibrated_nll": lambda p, y: metrics.calibrated_nll(p, y, *classifier()),
    "held_out": lambda p, y: metrics.calibrated_nll(*classifier(), p, y),
    "classification_table": metrics.classification_table,
    "reliability": metrics.reliability,
}
OF_SCORES: dict[str, Callable[..., Any]] = {
    "auroc": metrics.auroc,
    "aupr": metrics.aupr,
    "fpr95": metrics.fpr95,
    "risk_coverage": metrics.risk_coverage,
    "aurc": metrics.aurc,
    "ecdf": lambda a, _: metrics.ecdf(a),
}


def with_entry(probs: Tensor, value: float) -> Tensor:
    probs = probs.clone()
    probs[3, 1] = value
    return probs


@pytest.mark.parametrize("metric", OF_PROBS.values(), ids=OF_PROBS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: (p[:0], y[:0]), "is empty"),
        (lambda p, y: (with_entry(p, float("nan")), y), "probs has 1 NaN or infinite entries of 2000"),
        (lambda p, y: (with_entry(p, float("inf")), y), "probs has 1 NaN or infinite"),
        (lambda p, y: (p.log(), y), "400 of 400 rows do not sum to 1 .* of logits pass logits.softmax"),
        (lambda p, y: (with_entry(p, -0.5), y), r"are no probabilities: 1 of 400 .* smallest entry -0.5\)"),
        (lambda p, y: (p, y[:-1]), "has 399 labels for 400 rows of probabilities"),
        (lambda p, y: (p, y + 1), "has labels from 1 to 5, expected 0 to 4"),
        (lambda p, y: (p, y - 1), "has labels from -1 to 3, expected 0 to 4"),
        (lambda p, y: (p, y.double()), "has dtype torch.float64, expected class numbers"),
        (lambda p, y: (p, y == 0), "has dtype torch.bool, expected class numbers"),
    ],
    ids=["empty", "nan", "inf", "logits", "negative", "lengths", "label K", "label -1", "float labels", "bool labels"],
)
def test_probabilities_and_labels(metric: Callable[..., Any], change: Any, message: str, data: Data) -> None:
    with pytest.raises(ValueError, match=message):
        metric(*change(*data))


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((4,), "two classes: torch.stack"), ((2, 4, 5), "pass its mean"), ((2, 4, 3, 3), r"movedim\(1, -1\)")],
)
def test_shapes_of_probabilities_come_with_a_hint(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(ValueError, match=rf"probs has shape .*, expected \(N, K\); .*{hint}"):
        metrics.entropy(torch.full(shape, 0.25))


def test_the_hint_for_segmentations_is_right() -> None:
    probs = torch.randn(2, 3, 4, 5).softmax(1)
    assert metrics.entropy(probs.movedim(1, -1).flatten(0, -2)).shape == (2 * 4 * 5,)


def test_one_hot_labels_are_refused(data: Data) -> None:
    with pytest.raises(ValueError, match=r"target has shape \(400, 5\), expected \(N,\): one number per example"):
        metrics.nll(data[0], torch.nn.functional.one_hot(data[1]))


@pytest.mark.parametrize("metric", OF_SCORES.values(), ids=OF_SCORES)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(0), "is empty"),
        (torch.tensor([0.0, float("nan")]), "has 1 NaN or infinite entries of 2"),
        (torch.zeros(2, 1), r"has shape \(2, 1\), expected \(N,\)"),
    ],
    ids=["empty", "nan", "matrix"],
)
def test_scores(metric: Callable[..., Any], bad: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(bad, torch.zeros(2))


def test_the_second_set_is_checked_too() -> None:
    for name in ("auroc", "aupr", "fpr95"):
        with pytest.raises(ValueError, match="outside is empty"):
            OF_SCORES[name](torch.zeros(2), torch.zeros(0))


def test_no_tensors() -> None:
    with pytest.raises(TypeError, match=r"probs is a list, expected a torch.Tensor: torch.as_tensor\(probs\)"):
        metrics.entropy([[0.5, 0.5]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"inside has dtype torch\.complex64, expected real numbers"):
        metrics.auroc(torch.zeros(2, dtype=torch.complex64), torch.zeros(2))


# --- the table -------------------------------------------------------------------------------------------------------
PLAIN = ["error_pct", "nll", "brier", "ece", "ece_adaptive", "aurc"]
KEYS = [*PLAIN[:2], "nll_calibrated", "temperature", *PLAIN[2:], "ood_auroc", "ood_aupr", "ood_fpr95"]


def test_the_table_is_its_metrics(data: Data, held_out: Data) -> None:
    probs, target = data
    outside = torch.randn(50, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    table = metrics.classification_table(probs, target, held_out=held_out, outside=outside)
    doubt, doubt_outside = metrics.entropy(probs), metrics.entropy(outside)
    assert list(table) == KEYS
    assert table == pytest.approx(
        {
            "error_pct": 100 - 100 * metrics.accuracy(probs, target),
            "nll": metrics.nll(probs, target),
            "nll_calibrated": metrics.calibrated_nll(probs, target, *held_out),
            "temperature": metrics.fit_temperature(*held_out),
            "brier": metrics.brier(probs, target),
            "ece": metrics.ece(probs, target),
            "ece_adaptive": metrics.ece(probs, target, adaptive=True),
            "aurc": metrics.aurc(doubt, probs.argmax(1) != target),
            "ood_auroc": metrics.auroc(doubt, doubt_outside),
            "ood_aupr": metrics.aupr(doubt, doubt_outside),
            "ood_fpr95": metrics.fpr95(doubt, doubt_outside),
        }
    )
    assert table["ood_auroc"] > 0.6  # outside is the doubtful one


def test_what_is_not_given_is_left_out(data: Data) -> None:
    table = metrics.classification_table(*data)
    assert list(table) == PLAIN


def test_the_table_wants_the_same_classes(data: Data) -> None:
    with pytest.raises(ValueError, match=r"outside has probabilities of shape \(4, 2\) and probs \(400, 5\)"):
        metrics.classification_table(*data, outside=torch.full((4, 2), 0.5))
    with pytest.raises(ValueError, match=r"held_out has probabilities of shape \(4, 2\) and probs \(400, 5\)"):
        metrics.classification_table(*data, held_out=(torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.long)))


# --- imports ---------------------------------------------------------------------------------------------------------
def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_torchmetrics_is_imported_by_what_needs_it_only() -> None:
    code = (
        "import sys, torch; from dither import metrics\n"
        "p, y = torch.full((2, 2), 0.5), torch.tensor([0, 1])\n"
        "metrics.classification_table(p, y); print('torchmetrics' in sys.modules)\n"
        "metrics.auroc(p[0], p[1]); print('torchmetrics' in sys.modules)"
    )
    assert python(code).split() == ["False", "True"]


def test_missing_torchmetrics_says_what_to_install() -> None:
    code = (
        "import sys, torch; sys.modules['torchmetrics'] = None\n"
        "from dither import metrics\n"
        "try: metrics.auroc(torch.zeros(1), torch.zeros(1))\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert "pip install 'dither[train]'" in python(code)
