"""How well an uncertainty tells data of another kind from those of the kind that was trained on.

The convention of all three: *outside* (out of distribution) is the positive class, and a high score means outside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import torchmetrics, vector


def auroc(inside: Tensor, outside: Tensor) -> float:
    r"""Area under the ROC curve: how often an outside example scores higher than an inside one; ties count half.

    .. math:: P(s_{out} > s_{in}) + \tfrac12 P(s_{out} = s_{in})

    Outside is the positive class; exchanged arguments give 1 minus it. By torchmetrics, on the ranks of the scores:
    it would send scores above 1 through a float32 sigmoid, where they may become equal.

    Args:
        inside: scores of data in distribution, (N,); high means outside. Entropy, mutual information.
        outside: scores of data out of distribution, (M,).

    Returns:
        From 0 to 1; 0.5 is chance.

    Raises:
        ValueError: If a set is empty, not (N,), or has NaN or infinite entries.

    Example:
        >>> auroc(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.5]))
        0.75
    """
    return torchmetrics().binary_auroc(*_ranked(inside, outside)).item()


def aupr(inside: Tensor, outside: Tensor) -> float:
    r"""Area under the precision-recall curve with outside as the positive class, as average precision.

    .. math:: \sum_n (R_n - R_{n-1}) \, P_n

    Chance is M / (N + M), so values of differently mixed data do not compare. By torchmetrics, on ranks as `auroc`.

    Args:
        inside: scores of data in distribution, (N,); high means outside.
        outside: scores of data out of distribution, (M,).

    Returns:
        From 0 to 1.

    Raises:
        ValueError: If a set is empty, not (N,), or has NaN or infinite entries.

    Example:
        >>> round(aupr(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.5])), 4)
        0.75
    """
    return torchmetrics().binary_average_precision(*_ranked(inside, outside)).item()


def fpr95(inside: Tensor, outside: Tensor) -> float:
    r"""Share of inside data that is taken for outside when at least 95 % of the outside data are found. Low is good.

    .. math:: \min_t \, P(s_{in} \ge t) \quad \text{subject to} \quad P(s_{out} \ge t) \ge 0.95

    Some papers exchange the roles (95 % of the *inside* data kept): that is another number. By torchmetrics.

    Args:
        inside: scores of data in distribution, (N,); high means outside.
        outside: scores of data out of distribution, (M,).

    Returns:
        A share from 0 to 1.

    Raises:
        ValueError: If a set is empty, not (N,), or has NaN or infinite entries.

    Example:
        >>> fpr95(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.25, 0.5]))
        0.5
    """
    specificity, _ = torchmetrics().binary_specificity_at_sensitivity(*_ranked(inside, outside), min_sensitivity=0.95)
    return 1 - specificity.item()


def ecdf(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""Empirical distribution function: the share of values that are at most x.

    .. math:: F(x) = \frac1N \sum_n [v_n \le x]

    Args:
        values: (N,), for example entropies.

    Returns:
        The different values, ascending, and F there: float64 on the CPU. Between them F is constant.

    Raises:
        ValueError: If ``values`` is empty, not (N,), or has NaN or infinite entries.

    Example:
        >>> ecdf(torch.tensor([3.0, 1.0, 1.0, 2.0]))
        (tensor([1., 2., 3.], dtype=torch.float64), tensor([0.5000, 0.7500, 1.0000], dtype=torch.float64))
    """
    numbers = vector("values", values)
    x, count = numbers.unique(return_counts=True)
    return x, count.cumsum(0).double() / len(numbers)


def _ranked(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of all scores, scaled to [0, 1] where torchmetrics leaves them as they are; 1 for outside."""
    scores = torch.cat((vector("inside", inside), vector("outside", outside)))
    _, rank = scores.unique(return_inverse=True)
    positive = torch.arange(len(scores)) >= len(inside)
    return rank.double() / len(scores), positive.long()
