r"""Mean and signal-to-noise ratio of :math:`\theta = e^z`, z a normal law on an interval.

Two forms, and they overlap. Where the law is **wide**, moments are ratios of normalisers,
:math:`E\theta^k = e^{k\mu + k^2\sigma^2/2}\, T(\mu + k\sigma^2) / T(\mu)`, because :math:`e^{kz}` only moves the mean
of a normal density by kσ². Each law stands on its own mode, so the exponents stay small. Where the law is **narrow**,
those ratios differ from one another in their last digits only, and the variance is a sum of squares on the nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.distributions._interval import Interval, interval, rule

# The forms change where the effective support is this long in z; both are right from 0.5 to 10.
NARROW = 4.0

Derived = tuple[Tensor, Tensor, Tensor]


def log_mean(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    """log E θ with its derivatives by μ and by σ."""
    wide, narrow = _log_moment(law, loc, low, high, 1), _narrow(law)[0]
    return _choose(law, narrow, wide)


def log_snr(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    """log(Eθ / sd θ) with its derivatives by μ and by σ."""
    first, second = (_log_moment(law, loc, low, high, k) for k in (1, 2))
    # E θ² / (E θ)² = e^t, and the squared coefficient of variation is e^t - 1.
    t, t_loc, t_scale = (s - 2 * f for f, s in zip(first, second, strict=True))
    excess = -torch.expm1(-t)
    wide = (-(t + torch.log(excess)) / 2, -t_loc / excess / 2, -t_scale / excess / 2)
    return _choose(law, _narrow(law)[1], wide)


def _choose(law: Interval, narrow: Derived, wide: Derived) -> Derived:
    is_narrow = law.scale * law.reach.sum(0) < NARROW
    value, d_loc, d_scale = (torch.where(is_narrow, n, w) for n, w in zip(narrow, wide, strict=True))
    return value, d_loc, d_scale


def _log_moment(law: Interval, loc: Tensor, low: Tensor, high: Tensor, k: int) -> Derived:
    """log E θ^k as the difference of two normalisers."""
    scale = law.scale
    tilted = interval(loc + k * scale * scale, scale, low, high)
    gap = (tilted.mode - law.mode) / scale
    away = (tilted.mode - loc) / scale
    # What the untilted density loses between the two modes, in nats.
    loss = gap * (away + (law.mode - loc) / scale) / 2
    value = k * tilted.mode - loss + torch.log(tilted.total) - torch.log(law.total)
    d_loc = gap + tilted.mean_x - law.mean_x
    d_scale = 2 * (loss + away * tilted.mean_x + tilted.mean_square / 2 - law.mean_energy)
    return value, d_loc / scale, d_scale / scale


def _narrow(law: Interval) -> tuple[Derived, Derived]:
    """log E θ and log SNR by sums over the nodes of the law's own panel, with θ / e^m - 1 as the variable."""
    nodes, energy, moments = rule(law.scale.device)
    shape = (-1, *[1] * law.reach.ndim)
    nodes, weights = nodes.reshape(shape), moments[0].reshape(shape)
    sign = law.reach.new_tensor([-1.0, 1.0]).reshape(2, *[1] * law.scale.ndim)
    e = law.linear * nodes + law.quadratic * nodes * nodes
    x = sign * law.reach * nodes
    p = weights * torch.exp(-e) * law.reach / law.total
    unit = law.scale * law.reach.sum(0)
    f = torch.expm1(law.scale * x) / unit

    def mean(values: Tensor) -> Tensor:
        return (p * values).sum((0, 1))

    x, e = x - mean(x), e - mean(e)
    center = mean(f)
    theta = 1 + unit * center
    ratio = unit / theta
    slopes = ratio * mean(f * x), 2 * ratio * mean(f * e)
    square = (f - center) ** 2
    variance = mean(square)
    value = -torch.log(ratio) - torch.log(variance) / 2
    d_loc = slopes[0] - mean(square * x) / variance / 2
    d_scale = slopes[1] - mean(square * e) / variance
    return (
        (law.mode + torch.log1p(unit * center), slopes[0] / law.scale, slopes[1] / law.scale),
        (value, d_loc / law.scale, d_scale / law.scale),
    )
