"""Plain loops for the metrics: what the definitions say, one example at a time. Never imports dither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def ece_loop(probs: np.ndarray, target: np.ndarray, num_bins: int) -> float:
    """Equal widths, the last bin closed; bin borders are exact fractions."""
    total = 0.0
    for b in range(num_bins):
        low, high = Fraction(b, num_bins), Fraction(b + 1, num_bins)
        members = [
            (float(row.max()), float(row.argmax() == y))
            for row, y in zip(probs, target, strict=True)
            if low <= Fraction(float(row.max())) < high or (b == num_bins - 1 and row.max() >= 1)
        ]
        total += abs(sum(right for _, right in members) - sum(confidence for confidence, _ in members))
    return total / len(probs)


def ece_adaptive_loop(probs: np.ndarray, target: np.ndarray, num_bins: int) -> float:
    """Equal numbers, for confidences that all differ."""
    order = sorted(range(len(probs)), key=lambda i: float(probs[i].max()))
    total = 0.0
    for part in np.array_split(order, num_bins):
        total += abs(sum(float(probs[i].argmax() == target[i]) - float(probs[i].max()) for i in part))
    return total / len(probs)


def risks(uncertainty: Sequence[float], loss: Sequence[float]) -> list[float]:
    """Mean loss of the n most certain examples, for uncertainties that all differ."""
    ordered = [each for _, each in sorted(zip(uncertainty, loss, strict=True))]
    return [sum(ordered[:n]) / n for n in range(1, len(ordered) + 1)]


def auroc_pairs(inside: Sequence[float], outside: Sequence[float]) -> float:
    """Every pair counted."""
    return sum(float(o > i) + 0.5 * (o == i) for i in inside for o in outside) / (len(inside) * len(outside))


def fpr_at(inside: Sequence[float], outside: Sequence[float], share: Fraction) -> float:
    """Every threshold tried, in whole numbers."""
    rates = [
        Fraction(sum(i >= t for i in inside), len(inside))
        for t in {*inside, *outside}
        if Fraction(sum(o >= t for o in outside), len(outside)) >= share
    ]
    return float(min(rates))


def nll_at_temperature(probs: Sequence[Sequence[float]], target: Sequence[int], t: float) -> float:
    """NLL of the probabilities to the power 1/t, made to sum to one again."""
    total = 0.0
    for row, y in zip(probs, target, strict=True):
        powers = [p ** (1 / t) for p in row]
        total -= math.log(powers[y] / sum(powers))
    return total / len(target)
