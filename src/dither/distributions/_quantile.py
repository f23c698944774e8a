r"""The normal law on an interval, cut at a point: probabilities, quantiles and the derivatives of a sample.

For a point z let x ≥ 0 be its distance from the mode in units of σ, and *beyond* what lies on its far side. The mass
beyond, measured by the density at x, is one half-panel that stands at x:

.. math:: N(x) = \int_0 e^{-(\delta + x) y - y^2/2} dy .

Implicit differentiation of F(z; μ, σ) = u, with the score of the law, gives the derivatives of a sample as a difference
of two means, :math:`\bar f = E[f \mid \text{beyond } z] - E f`:

.. math::
    \frac{\partial z}{\partial\mu} = \pm N(x)\, \bar x, \qquad
    \frac{\partial z}{\partial\log\sigma} = \pm 2 \sigma N(x)\, \bar e,

plus above the mode and minus below it. In the middle the first is 1; for σ → 0 in a tail, and for σ → ∞, it goes to 0
and every digit of it is right, where 1 - (1-u) φ(α)/φ(t) - u φ(β)/φ(t) has none left.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._interval import Interval, panel_moments, reach

# erfc underflows beyond 37; the expansion of the tail in 1/δ² is good from 10 on.
FAR_TAIL = 25.0
# With less than this energy at the far end the law is uniform but for a correction of first order.
UNIFORM = 1e-4
TINY = 1e-300
# Larger energies would underflow, which costs exp a hundred times the time.
LAST_ENERGY = 690.0


class Piece(NamedTuple):
    """A part of the law on one side of the mode: its mass, and its means of the distance from the mode and of e."""

    mass: Tensor  # measured by the density where the piece begins
    x: Tensor
    energy: Tensor


def _piece(slope: Tensor, start: Tensor, end: Tensor) -> Piece:
    """The part from ``start`` to ``end``, distances from the mode."""
    steep = slope + start
    length = reach(steep, (end - start).clamp(min=0.0))
    moments = panel_moments(steep * length, length * length / 2, 2)
    x, square = length * moments[1] / moments[0], length * length * moments[2] / moments[0]
    energy = (slope + start / 2) * start
    return Piece(length * moments[0], start + x, energy + steep * x + square / 2)


def cdf(law: Interval, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """P(Z ≤ z) for z on the interval, and its derivatives by μ, by σ and by z (the density).

    Both sides of z are integrated, so that neither a small probability nor a small derivative is a difference.
    """
    above = z >= law.mode
    slope, room, behind = law.pull.abs(), _side(above, law.room), _side(~above, law.room)
    x = torch.minimum((z - law.mode).abs() / law.scale, room)
    zero = torch.zeros_like(x)
    beyond, near, other = _piece(slope, x, room), _piece(slope, zero, x), _piece(slope, zero, behind)
    density = torch.exp(-(slope + x / 2) * x)
    outer, inner = beyond.mass * density, near.mass + other.mass
    total = outer + inner
    # On the other side of the mode distances count negative.
    share = near.mass / inner.clamp(min=TINY)
    gap_x = beyond.x - share * near.x + (1 - share) * other.x
    gap_energy = beyond.energy - share * near.energy - (1 - share) * other.energy
    spread = (outer / total) * (inner / total) / law.scale
    sign = 2 * above.to(z.dtype) - 1
    value = torch.where(above, inner, outer) / total
    return value, -spread * gap_x, -2 * sign * spread * gap_energy, density / (law.scale * total)


def quantile(law: Interval, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The z with P(Z ≤ z) = u, and its derivatives by μ, by σ and by u.

    On the side of the mode where z lies, :math:`\log S(x)`, S the part of that side beyond x, is concave, so Newton's
    method :math:`x \leftarrow x + N(x) \log(S(x) / s)` converges from anywhere. The start is good to 1e-6: one step.
    """
    below = law.mass[0] / law.total
    above = (u >= below) & (below < 1)
    sign = 2 * above.to(u.dtype) - 1
    survival = torch.where(above, (1 - u) / (1 - below), u / below)
    room, mass, slope = _side(above, law.room), _side(above, law.mass), law.pull.abs()
    x = torch.where(survival > 0, _start(slope, room, survival.clamp(TINY, 1.0)), room)
    beyond = _piece(slope, x, room)
    energy = (slope + x / 2) * x
    error = torch.log(beyond.mass.clamp(min=TINY) / (mass * survival.clamp(min=TINY))) - energy
    newton = torch.minimum((x + beyond.mass * error).clamp(min=0.0), room)
    # N f̄ at x, carried along the step by its differential equation (N f̄)' = e'(x) N f̄ - (f(x) - E f).
    here_x, here_energy = x - sign * law.mean_x, energy - law.mean_energy
    d_loc = beyond.mass * (beyond.x - sign * law.mean_x)
    d_scale = beyond.mass * (beyond.energy - law.mean_energy)
    step, steep = newton - x, slope + x
    d_loc = d_loc + step * (steep * d_loc - here_x)
    d_scale = d_scale + step * (steep * d_scale - here_energy)
    d_u = law.scale * law.total * torch.exp(energy + steep * step)
    return law.mode + sign * law.scale * newton, d_loc, 2 * sign * d_scale, d_u


def _side(above: Tensor, sides: Tensor) -> Tensor:
    return torch.where(above, sides[1], sides[0])


def _start(slope: Tensor, room: Tensor, survival: Tensor) -> Tensor:
    """The x with S(x) = survival, for the density e^{-δx - x²/2} on [0, room], to a relative 1e-6."""
    # The textbook: mix the two upper tails and invert.
    near = slope.clamp(max=FAR_TAIL)
    mixed = survival * _upper_tail(near) + (1 - survival) * _upper_tail(near + room)
    normal = -torch.special.ndtri(mixed) - near
    # The far tail: the same in terms of the energy, -log S∞ = e + correction(e), inverted by iteration.
    square = slope.clamp(min=FAR_TAIL) ** 2
    end = ((slope + room / 2) * room).clamp(max=LAST_ENERGY)
    depth = -torch.log(survival + (1 - survival) * torch.exp(-end - _correction(end, square)))
    energy = depth - _correction(depth - _correction(depth, square), square)
    tail = 2 * energy / (slope + torch.sqrt(square + 2 * energy))
    # The wide law: uniform, and what the energy changes to first order.
    part = 1 - survival
    uniform = room * part * (1 - survival * (slope * room / 2 + room * room * (1 + part) / 6))
    x = torch.where(slope < FAR_TAIL, normal, tail)
    x = torch.where(end < UNIFORM, uniform, x)
    return torch.minimum(x.clamp(min=0.0), room)


def _correction(energy: Tensor, square: Tensor) -> Tensor:
    """Of -log S∞ at e, from the expansion of Mills' ratio (1 - 1/t²) / t at t² = δ² and at δ² + 2e."""
    return torch.log1p(2 * energy / square) / 2 - 2 * energy / (square * (square + 2 * energy))


def _upper_tail(t: Tensor) -> Tensor:
    """1 - Φ(t). Not torch.special.ndtr(-t), which in torch 2.13 is 0 from t = 9 on."""
    return torch.erfc(t * math.sqrt(0.5)) / 2
