"""How good probabilities are: accuracy, negative log-likelihood, Brier score, entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import classified, float64, probabilities


def accuracy(probs: Tensor, target: Tensor) -> float:
    r"""Share of examples whose most probable class is right; of equal probabilities the first class counts.

    .. math:: \frac1N \sum_n [\operatorname{argmax}_k p_{nk} = y_n]

    Args:
        probs: probabilities, (N, K).
        target: class numbers, (N,).

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: If the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.8, 0.2]])
        >>> accuracy(probs, torch.tensor([0, 1, 1, 0]))
        0.75
    """
    values, labels = classified(probs, target)
    return values.argmax(1).eq(labels).double().mean().item()


def nll(probs: Tensor, target: Tensor) -> float:
    r"""Mean negative log-likelihood.

    .. math:: -\frac1N \sum_n \log p_{n y_n}

    A probability below the smallest normal number of the dtype of ``probs`` counts as that number: a float32 that
    underflowed to 0 costs 87.3 nats, and not infinitely many.

    Args:
        probs: probabilities, (N, K).
        target: class numbers, (N,).

    Returns:
        Nats per example.

    Raises:
        ValueError: If the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> round(nll(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 1])), 4)
        0.4904
    """
    _, labels = classified(probs, target)
    return -log_probs(probs).gather(1, labels[:, None]).mean().item()


def brier(probs: Tensor, target: Tensor) -> float:
    r"""Brier score: squared distance to the one-hot label, summed over classes, from 0 to 2.

    .. math:: \frac1N \sum_n \sum_k (p_{nk} - [k = y_n])^2

    Source: Brier 1950. For two classes some libraries report half of it.

    Args:
        probs: probabilities, (N, K).
        target: class numbers, (N,).

    Returns:
        The score, dimensionless.

    Raises:
        ValueError: If the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> round(brier(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1])), 4)
        0.25
    """
    values, labels = classified(probs, target)
    truth = torch.nn.functional.one_hot(labels, values.shape[1])
    return (values - truth).square().sum(1).mean().item()


def entropy(probs: Tensor) -> Tensor:
    r"""Entropy of each row, in nats; 0 log 0 is 0.

    .. math:: H_n = -\sum_k p_{nk} \log p_{nk}

    Args:
        probs: probabilities, (N, K).

    Returns:
        (N,), from 0 to log K, on the CPU and in float64: scores that differ only beyond float32 still rank.

    Raises:
        ValueError: If ``probs`` is empty or no probabilities.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    return torch.special.entr(probabilities("probs", probs)).sum(1)


def log_probs(probs: Tensor) -> Tensor:
    """Logarithms in float64, of nothing smaller than the smallest normal number of the given dtype."""
    dtype = probs.dtype if probs.is_floating_point() else torch.float64
    return float64("probs", probs).clamp_min(torch.finfo(dtype).tiny).log()
