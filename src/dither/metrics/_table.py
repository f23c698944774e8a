"""All numbers of a classifier at once, under the names that reports and studies use."""

from __future__ import annotations

from torch import Tensor

from ._calibration import ece
from ._checks import classified
from ._classification import brier, entropy, nll
from ._outside import aupr, auroc, fpr95
from ._selective import aurc
from ._temperature import fit_temperature, nll_at


def classification_table(
    probs: Tensor,
    target: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    outside: Tensor | None = None,
) -> dict[str, float]:
    """Error, likelihood, calibration and, with the entropy as the score, selection and detection.

    Args:
        probs: probabilities of the test data, (N, K); of a `dither.Prediction` its mean.
        target: their class numbers, (N,).
        held_out: (probabilities, class numbers) that fit the temperature; without, what needs one is left out.
        outside: probabilities of data out of distribution, (M, K); without, what needs them is left out.

    Returns:
        In this order: ``error_pct`` in percent; ``nll``, ``nll_calibrated`` in nats; ``temperature``; ``brier``;
        ``ece``, ``ece_adaptive`` as shares, 15 bins; ``aurc``; ``ood_auroc``, ``ood_aupr``, ``ood_fpr95``.

    Raises:
        ValueError: If an input is empty, no probabilities, or they do not fit each other.

    Example:
        >>> import torch
        >>> probs, target = torch.tensor([[0.9, 0.1]] * 4), torch.tensor([0, 0, 0, 1])
        >>> table = classification_table(probs, target, outside=torch.tensor([[0.5, 0.5]]))
        >>> for name, value in table.items():
        ...     print(f"{name:12s} {value:.3f}")
        error_pct    25.000
        nll          0.655
        brier        0.420
        ece          0.150
        ece_adaptive 0.150
        aurc         0.250
        ood_auroc    1.000
        ood_aupr     1.000
        ood_fpr95    0.000
    """
    values, labels = classified(probs, target)
    doubt = entropy(probs)
    wrong = values.argmax(1) != labels
    table = {"error_pct": 100 * wrong.double().mean().item(), "nll": nll(probs, target)}
    if held_out is not None:
        _same_classes("held_out", probs, held_out[0])
        t = fit_temperature(*held_out)
        table |= {"nll_calibrated": nll_at(probs, target, t), "temperature": t}
    table["brier"] = brier(probs, target)
    table["ece"] = ece(probs, target)
    table["ece_adaptive"] = ece(probs, target, adaptive=True)
    table["aurc"] = aurc(doubt, wrong)
    if outside is not None:
        _same_classes("outside", probs, outside)
        doubt_outside = entropy(outside)
        table["ood_auroc"] = auroc(doubt, doubt_outside)
        table["ood_aupr"] = aupr(doubt, doubt_outside)
        table["ood_fpr95"] = fpr95(doubt, doubt_outside)
    return table


def _same_classes(name: str, probs: Tensor, other: Tensor) -> None:
    if probs.shape[1:] != other.shape[1:]:
        got = tuple(other.shape), tuple(probs.shape)
        raise ValueError(f"{name} has probabilities of shape {got[0]} and probs {got[1]}, expected the same classes")
