r"""Mean and signal-to-noise ratio of :math:`\theta = e^z`, z a normal law on an interval.

Two forms, and they overlap. Where the law is **wide**, moments are ratios of normalisers,
:math:`E\theta^k = e^{k\mu + k^2\sigma^2/2}\, T(\mu + k\sigma^2) / T(\mu)`, because :math:`e^{kz}` only moves the mean
of a normal density by kσ². Each law stands on its own mode, so the exponents stay small. Where the law is **narrow**,
those ratios differ from one another in their last digits only, and the variance is a sum of squares on the nodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ._interval import PANELS, Derived, Interval, in_chunks, interval, panel, reach, rule

# The forms change where the effective support is this long in z; both are right from 0.5 to 10.
NARROW = 4.0

Form = Callable[[Interval, Tensor, Tensor, Tensor], Derived]


def log_mean(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Derived:
    """Logarithm of E θ."""
    return _by_width(_mean_wide, _mean_narrow, loc, scale, low, high)


def log_snr(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Derived:
    """Logarithm of E θ / sd θ."""
    return _by_width(_snr_wide, _snr_narrow, loc, scale, low, high)


def _by_width(wide: Form, narrow: Form, *parameters: Tensor) -> Derived:
    """Either form of a statistic, in pieces that fit the cache."""

    def piece(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Derived:
        law = interval(loc, scale, low, high)
        is_narrow = law.scale * reach(law.pull.abs(), law.room).sum(0) < NARROW
        forms = zip(narrow(law, loc, low, high), wide(law, loc, low, high), strict=True)
        value, d_loc, d_scale = (torch.where(is_narrow, n, w) for n, w in forms)
        return value, d_loc, d_scale

    broadcast = torch.broadcast_tensors(*parameters)
    value, d_loc, d_scale = in_chunks(piece, PANELS // 2, *(parameter.reshape(-1) for parameter in broadcast))
    shape = broadcast[0].shape
    return value.reshape(shape), d_loc.reshape(shape), d_scale.reshape(shape)


def _moment(law: Interval, loc: Tensor, low: Tensor, high: Tensor, k: int) -> Derived:
    """Logarithm of E θ^k as the difference of two normalisers."""
    scale = law.scale
    tilted = interval(loc + k * scale * scale, scale, low, high)
    gap = (tilted.mode - law.mode) / scale
    away = (tilted.mode - loc) / scale
    # What the density that is not tilted loses from one mode to the other, in nats.
    loss = gap * (away + (law.mode - loc) / scale) / 2
    value = k * tilted.mode - loss + torch.log(tilted.total) - torch.log(law.total)
    d_loc = gap + tilted.mean_x - law.mean_x
    d_scale = 2 * (loss + away * tilted.mean_x + tilted.mean_square / 2 - law.mean_energy)
    return value, d_loc / scale, d_scale / scale


def _mean_wide(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    return _moment(law, loc, low, high, 1)


def _snr_wide(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    first, second = (_moment(law, loc, low, high, k) for k in (1, 2))
    # E θ² / (E θ)² = e^t, and (sd / mean)² = e^t - 1.
    t, t_loc, t_scale = (s - 2 * f for f, s in zip(first, second, strict=True))
    excess = -torch.expm1(-t)
    return -(t + torch.log(excess)) / 2, -t_loc / excess / 2, -t_scale / excess / 2


class _Nodes:
    """The law's own panel, and f = (e^{z-m} - 1) / unit on it: of order one however narrow the law."""

    def __init__(self, law: Interval) -> None:
        self.law = law
        slope = law.pull.abs()
        self.reach = reach(slope, law.room)
        self.linear, self.quadratic = slope * self.reach, self.reach**2 / 2
        self.density = panel(self.linear, self.quadratic)
        self.unit = law.scale * self.reach.sum(0)
        step = law.scale * torch.stack([-self.reach[0], self.reach[1]])
        self.f = torch.expm1(rule(step.device).nodes.reshape(-1, 1, 1) * step) / self.unit

    def averages(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E v, Cov(v, x) and Cov(v, e) of the values (nodes, 2, n) at the nodes."""
        flat = (self.density * values).flatten(1)
        v = (rule(flat.device).moments[:3] @ flat).reshape(3, 2, -1) * (self.reach / self.law.total)
        mean = v[0].sum(0)
        x = self.reach[1] * v[1, 1] - self.reach[0] * v[1, 0]
        energy = (self.linear * v[1] + self.quadratic * v[2]).sum(0)
        return mean, x - mean * self.law.mean_x, energy - mean * self.law.mean_energy


def _mean_narrow(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    nodes = _Nodes(law)
    f, f_x, f_energy = nodes.averages(nodes.f)
    growth = nodes.unit * f
    relative = nodes.unit / (1 + growth) / law.scale
    return law.mode + torch.log1p(growth), relative * f_x, 2 * relative * f_energy


def _snr_narrow(law: Interval, loc: Tensor, low: Tensor, high: Tensor) -> Derived:
    nodes = _Nodes(law)
    f, f_x, f_energy = nodes.averages(nodes.f)
    variance, variance_x, variance_energy = nodes.averages((nodes.f - f) ** 2)
    relative = nodes.unit / (1 + nodes.unit * f)
    d_loc = relative * f_x - variance_x / variance / 2
    d_scale = 2 * relative * f_energy - variance_energy / variance
    return -torch.log(relative) - torch.log(variance) / 2, d_loc / law.scale, d_scale / law.scale
