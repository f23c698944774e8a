"""Independent answers about batch statistics: plain Python loops in float64, two passes. Never imports dither."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def channel_statistics(batch: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and biased variance of every channel of one batch, (B, C) or (B, C, ...)."""
    means, variances = [], []
    for channel in range(batch.shape[1]):
        values = [float(v) for v in batch[:, channel].astype(np.float64).ravel()]
        mean = math.fsum(values) / len(values)
        means.append(mean)
        variances.append(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return means, variances


def normalised(batch: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """What BatchNorm makes of a batch (B, C) in training, without scale and shift."""
    mean, variance = (np.array(values) for values in channel_statistics(batch))
    return (batch - mean) / np.sqrt(variance + eps)


def central_moments(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean and the sums of second, third and fourth powers of the deviations."""
    mean = math.fsum(values) / len(values)
    sums = (math.fsum((v - mean) ** k for v in values) for k in (2, 3, 4))
    return (mean, *sums)


def law(batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Mean and unbiased standard deviation over batches of μ_B and log σ²_B, (C,) each: what fit has to find."""
    means, logs = [], []
    for batch in batches:
        mean, variance = channel_statistics(batch)
        means.append(mean)
        logs.append([math.log(v) for v in variance])
    found: dict[str, np.ndarray] = {}
    for name, rows in (("mean", means), ("log_var", logs)):
        columns = [central_moments(column) for column in zip(*rows, strict=True)]
        found[f"loc_{name}"] = np.array([m[0] for m in columns])
        found[f"scale_{name}"] = np.array([math.sqrt(m[1] / (len(rows) - 1)) for m in columns])
    return found
