"""Entropies and standard errors by plain Python; never imports dither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, variance


def entropy(p: Sequence[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def average(samples: Sequence[Sequence[float]]) -> list[float]:
    return [mean(column) for column in zip(*samples, strict=True)]


def expected_entropy(samples: Sequence[Sequence[float]]) -> float:
    return mean(entropy(p) for p in samples)


def mutual_information(samples: Sequence[Sequence[float]]) -> float:
    """As a mean divergence from the mean, not as a difference of entropies."""
    m = average(samples)
    return mean(sum(q * math.log(q / c) for q, c in zip(p, m, strict=True) if q > 0) for p in samples)


def standard_error(values: Sequence[float]) -> float:
    return math.sqrt(variance(values) / len(values))


def jackknife(statistic, samples: Sequence[Sequence[float]]) -> float:
    """Standard error of any statistic of the samples, by leaving one out: no gradient needed."""
    n = len(samples)
    left = [statistic([*samples[:i], *samples[i + 1 :]]) for i in range(n)]
    return math.sqrt((n - 1) / n * sum((v - mean(left)) ** 2 for v in left))
