"""Oracles of the pruning tests in plain torch: a dense sum over the interval, nothing of dither."""

from __future__ import annotations

import math

import torch
from torch import Tensor

POINTS = 200_001  # 1e-4 apart on [-20, 0]: the sums below are right to 1e-9 for σ >= 0.02


def grid(loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> tuple[Tensor, Tensor, float]:
    """z, the weights of the truncated normal law on it (Simpson's rule, sum 1), and the log of its normaliser."""
    z = torch.linspace(low, high, POINTS, dtype=torch.float64)
    rule = torch.full_like(z, 2.0)
    rule[1::2] = 4.0
    rule[[0, -1]] = 1.0
    rule *= (high - low) / (POINTS - 1) / 3
    logits = -0.5 * ((z - loc) / scale) ** 2
    weights = rule * (logits - logits.max()).exp()
    return z, weights / weights.sum(), math.log(float(weights.sum())) + float(logits.max())


def mean(loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> float:
    """E θ."""
    z, w, _ = grid(loc, scale, low, high)
    return float((w * z.exp()).sum())


def stddev(loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> float:
    """The standard deviation of θ, from squared distances to the mean."""
    z, w, _ = grid(loc, scale, low, high)
    return float((w * (z.exp() - mean(loc, scale, low, high)) ** 2).sum().sqrt())


def snr(loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> float:
    """E θ / sd θ."""
    return mean(loc, scale, low, high) / stddev(loc, scale, low, high)


def divergence(loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> float:
    """KL from the uniform law of z on [low, high], in nats: the mean of log q(z) (b - a)."""
    z, w, log_normaliser = grid(loc, scale, low, high)
    log_q = -0.5 * ((z - loc) / scale) ** 2 - log_normaliser
    return float((w * (log_q + math.log(high - low))).sum())


def cdf(draws: Tensor, loc: float, scale: float, low: float = -20.0, high: float = 0.0) -> Tensor:
    """P(z <= draw): the trapezoidal sum of the density, interpolated."""
    z, _, log_normaliser = grid(loc, scale, low, high)
    density = (-0.5 * ((z - loc) / scale) ** 2 - log_normaliser).exp()
    below = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, z)])
    right = torch.searchsorted(z, draws).clamp(1, POINTS - 1)
    part = (draws - z[right - 1]) / (z[right] - z[right - 1])
    return below[right - 1] + part * (below[right] - below[right - 1])
