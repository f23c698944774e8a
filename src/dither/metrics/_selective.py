"""What is gained when the least certain examples are left to somebody else."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import group_means, vector


def risk_coverage(uncertainty: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    r"""Risk among the most certain examples, for every number of them.

    .. math:: \mathrm{risk}(n/N) = \frac1n \sum_{i \le n} \ell_{(i)}, \qquad u_{(1)} \le u_{(2)} \le \dots

    Examples of the same uncertainty count with their mean loss: the expectation over their order.
    Source: Geifman and El-Yaniv 2017.

    Args:
        uncertainty: one number per example, (N,); high is uncertain. Entropy, mutual information, 1 - confidence.
        wrong: (N,), True where the answer was wrong; or any loss.

    Returns:
        Coverage 1/N, 2/N, …, 1 and the risk there, (N,) each, float64 on the CPU.

    Raises:
        ValueError: If the shapes differ, or something is empty, NaN or infinite.

    Example:
        >>> coverage, risk = risk_coverage(torch.tensor([0.1, 0.9, 0.4, 0.2]), torch.tensor([0, 1, 1, 0]))
        >>> coverage.tolist(), [round(r, 3) for r in risk.tolist()]
        ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.333, 0.5])
    """
    score, loss = vector("uncertainty", uncertainty), vector("wrong", wrong)
    if len(score) != len(loss):
        raise ValueError(f"uncertainty has {len(score)} examples and wrong {len(loss)}, expected the same ones")
    loss = group_means(score, loss)[score.argsort()]
    number = torch.arange(1, len(loss) + 1, dtype=torch.float64)
    return number / len(loss), loss.cumsum(0) / number


def aurc(uncertainty: Tensor, wrong: Tensor) -> float:
    r"""Area under the risk-coverage curve: the mean risk over all coverages. Low is good.

    .. math:: \frac1N \sum_n \mathrm{risk}(n/N)

    A useless uncertainty gives the error rate e, a perfect one about e²/2. Source: Geifman et al. 2019.

    Args:
        uncertainty: one number per example, (N,); high is uncertain.
        wrong: (N,), True where the answer was wrong; or any loss.

    Returns:
        The area, in units of the loss.

    Raises:
        ValueError: If the shapes differ, or something is empty, NaN or infinite.

    Example:
        >>> wrong = torch.tensor([False, True, True, False])
        >>> round(aurc(torch.tensor([0.1, 0.9, 0.4, 0.2]), wrong), 4), aurc(torch.ones(4), wrong)
        (0.2083, 0.5)
    """
    return risk_coverage(uncertainty, wrong)[1].mean().item()
