r"""The normal law on an interval, exact from a point mass to a uniform law and in both tails.

A variable :math:`z` is normal(μ, σ²) truncated to :math:`[a, b]`. The textbook formulas divide differences of
:math:`\Phi`; they lose every digit when the interval lies in a tail, when σ is small and when σ is large.
Here nothing is subtracted that could cancel. Three steps:

1. **Stand on the mode.** :math:`m = \mathrm{clamp}(\mu, a, b)`, and :math:`x = (z - m) / \sigma`. The density is
   :math:`e^{-e(x)}` with the *energy* :math:`e(x) = \delta |x| + x^2/2 \ge 0`, where :math:`\delta = |m - \mu| / \sigma`.
   (If :math:`\delta > 0` the mode is a bound, and only one side of it exists.)
2. **Keep what carries mass.** Beyond :math:`e = 36` there is less than 1e-15 of it. On each side of the mode the
   interval is cut there, so that a half-panel is :math:`x = r\xi`, :math:`\xi \in [0, 1]`, with energy
   :math:`A\xi + B\xi^2` and :math:`A, B \ge 0`, :math:`A + B \le 36`. That covers all regimes with one formula.
3. **Integrate.** 20 Gauss-Legendre nodes give :math:`I_k = \int_0^1 \xi^k e^{-A\xi - B\xi^2} d\xi`, k = 0 … 4,
   to 2e-11 or better (the cut included). Every statistic is an average with these positive weights.

The derivatives are averages too. For any function f of z,

.. math::
    \frac{\partial}{\partial\mu} E f = \frac{\mathrm{Cov}(f, x)}{\sigma}, \qquad
    \frac{\partial}{\partial\log\sigma} E f = 2\,\mathrm{Cov}(f, e),

because the score of the law is :math:`x - E x` in units of σ, and twice :math:`e - E e`.

All tensors are float64 and carry no gradient; ``exact`` hands the derivatives to autograd.
Oracles: ``tests/oracles.py``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_ENERGY = 36.0
NUM_NODES = 20
NUM_MOMENTS = 5
# Half-panels per pass: 20 nodes of 8192 doubles stay in the second-level cache.
CHUNK = 8192
# Where erfc underflows the tail is exponential to better than 1 / δ².
FAR_TAIL = 25.0
# Below this energy at the far end the law is uniform to the same relative precision.
UNIFORM = 1e-4


@functools.lru_cache(maxsize=None)
def rule(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre on [0, 1]: nodes ξ; -log2(e) (ξ, ξ²) as (nodes, 2); w ξ^k as (moments, nodes)."""
    # Golub and Welsch 1969: nodes are the eigenvalues of the Jacobi matrix, weights come from its eigenvectors.
    k = torch.arange(1, NUM_NODES, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k * k - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    nodes, weights = (values + 1) / 2, vectors[0] ** 2
    # exp2 is twice as fast as exp, so the change of base is folded into the polynomials.
    energy = -math.log2(math.e) * torch.stack([nodes, nodes**2], dim=1)
    moments = torch.stack([weights * nodes**k for k in range(NUM_MOMENTS)])
    return nodes.to(device), energy.to(device), moments.to(device)


def panel_moments(linear: Tensor, quadratic: Tensor, order: int) -> Tensor:
    r"""Integrals :math:`I_k = \int_0^1 \xi^k e^{-A\xi - B\xi^2} d\xi` for k = 0 … order, stacked in front.

    Two matrix products around one pass of exponentials; A, B ≥ 0 and A + B ≤ 36.
    """
    _, energy, moments = rule(linear.device)
    coefficients = torch.stack([linear.reshape(-1), quadratic.reshape(-1)])
    size = CHUNK if linear.device.type == "cpu" else max(coefficients.shape[1], 1)
    parts = [moments[: order + 1] @ torch.exp2(energy @ part) for part in coefficients.split(size, dim=1)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).reshape(order + 1, *linear.shape)


def reach(slope: Tensor, room: Tensor) -> Tensor:
    """How far the mass goes: the smaller of ``room`` and the x at which δx + x²/2 = MAX_ENERGY."""
    root = torch.hypot(slope, slope.new_tensor(math.sqrt(2 * MAX_ENERGY)))
    return torch.minimum(room, 2 * MAX_ENERGY / (slope + root))


@dataclass(frozen=True)
class Interval:
    """A normal law on an interval, seen from its mode. Tensors with two rows hold the sides below and above it."""

    scale: Tensor  # σ, (n,)
    mode: Tensor  # m, (n,)
    slope: Tensor  # δ ≥ 0, (n,)
    room: Tensor  # distance from the mode to the two bounds, in σ, (2, n)
    reach: Tensor  # the part of it that carries mass, (2, n)
    linear: Tensor  # A, (2, n)
    quadratic: Tensor  # B, (2, n)
    moments: Tensor  # I_0 … I_4, (5, 2, n)
    mass: Tensor  # ∫ e^{-e(x)} dx per side, (2, n)

    @functools.cached_property
    def total(self) -> Tensor:
        return self.mass[0] + self.mass[1]

    @functools.cached_property
    def mean_x(self) -> Tensor:
        """E x."""
        side = self.reach**2 * self.moments[1]
        return (side[1] - side[0]) / self.total

    @functools.cached_property
    def mean_square(self) -> Tensor:
        """E x²."""
        return (self.reach**3 * self.moments[2]).sum(0) / self.total

    @functools.cached_property
    def mean_energy(self) -> Tensor:
        """E e(x)."""
        _, i1, i2, _, _ = self.moments
        return (self.reach * (self.linear * i1 + self.quadratic * i2)).sum(0) / self.total


def interval(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Interval:
    """The law of normal(loc, scale²) on [low, high], arguments broadcast and in float64."""
    loc, scale, low, high = torch.broadcast_tensors(loc, scale, low, high)
    mode = torch.minimum(torch.maximum(loc, low), high)
    slope = (mode - loc).abs() / scale
    room = torch.stack([mode - low, high - mode]) / scale
    length = reach(slope, room)
    linear, quadratic = slope * length, length * length / 2
    moments = panel_moments(linear, quadratic, NUM_MOMENTS - 1)
    return Interval(scale, mode, slope, room, length, linear, quadratic, moments, length * moments[0])


def entropy(law: Interval) -> tuple[Tensor, Tensor, Tensor]:
    r"""Entropy of z in nats, :math:`\log(\sigma T) + E e`, and its derivatives by μ and by σ.

    The derivatives are :math:`\mathrm{Cov}(x, e) / \sigma` and :math:`2 \mathrm{Var}(e) / \sigma`.
    """
    a, b, r = law.linear, law.quadratic, law.reach
    _, _, i2, i3, i4 = law.moments
    mean = law.mean_energy
    variance = (r * (a * a * i2 + 2 * a * b * i3 + b * b * i4)).sum(0) / law.total - mean * mean
    side = r * r * (a * i2 + b * i3)
    covariance = (side[1] - side[0]) / law.total - law.mean_x * mean
    # Well inside the interval the two sides balance and their difference is rounding, which 1/σ would magnify.
    # There, integration by parts gives the covariance by the densities at the bounds alone.
    low, high = room = law.room.clamp(max=50.0)
    at_low, at_high = torch.exp(-room * room / 2) / law.total
    by_parts = (
        (1 + low * low) * at_low - (1 + high * high) * at_high + (at_low - at_high) * (low * at_low + high * at_high)
    ) / 2
    covariance = torch.where(torch.minimum(low, high) > 3, by_parts, covariance)
    return torch.log(law.scale) + torch.log(law.total) + mean, covariance / law.scale, 2 * variance / law.scale


def quantile(law: Interval, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The z below which lies the mass u, with its derivatives by μ, by σ and by u.

    On the side of the mode where z lies, :math:`\log S(x)`, S the mass beyond x, is concave, so Newton's method
    :math:`x \leftarrow x + N(x) \log(S(x) / s)` converges from anywhere; :math:`N(x)` is that mass measured by the
    density at x, one half-panel that stands at x. Two steps are enough from the start below.

    The derivatives follow from implicit differentiation: with :math:`\bar f(x) = E[f \mid \text{beyond } x] - E f`,
    :math:`\partial z / \partial\mu = N(x) \bar x` and :math:`\partial z / \partial\log\sigma = \pm 2\sigma N(x) \bar e`.
    """
    below = law.mass[0] / law.total
    above = (u >= below) & (below < 1)
    sign = torch.where(above, 1.0, -1.0).to(u.dtype)
    survival = torch.where(above, (1 - u) / (1 - below), u / below).clamp(1e-300, 1.0)
    room = torch.where(above, law.room[1], law.room[0])
    mass = torch.where(above, law.mass[1], law.mass[0])
    slope = law.slope.expand_as(room)
    x = _start(slope, room, survival)
    for _ in range(2):
        steep, rest = slope + x, (room - x).clamp(min=0.0)
        length = reach(steep, rest)
        moments = panel_moments(steep * length, length * length / 2, 2)
        beyond = length * moments[0]
        mean_rest = length * moments[1] / moments[0]
        mean_square = length * length * moments[2] / moments[0]
        here = x
        energy = (slope + x / 2) * x
        error = torch.log(beyond.clamp(min=1e-300) / mass) - energy - torch.log(survival)
        x = torch.minimum((x + beyond * error).clamp(min=0.0), room)
    d_loc = beyond * (here + mean_rest - sign * law.mean_x)
    d_scale = 2 * sign * beyond * (energy + steep * mean_rest + mean_square / 2 - law.mean_energy)
    d_u = law.scale * law.total * torch.exp(energy)
    return law.mode + sign * law.scale * x, d_loc, d_scale, d_u


def _upper_tail(t: Tensor) -> Tensor:
    """1 - Φ(t). Not torch.special.ndtr(-t): in torch 2.13 that is 0 from t = 9 on."""
    return torch.erfc(t * math.sqrt(0.5)) / 2


def _start(slope: Tensor, room: Tensor, survival: Tensor) -> Tensor:
    """A first guess of x with S(x) = survival for the density e^{-δx - x²/2} on [0, room]."""
    near = slope.clamp(max=FAR_TAIL)
    mass = survival * _upper_tail(near) + (1 - survival) * _upper_tail(near + room)
    normal = -torch.special.ndtri(mass) - near
    # In the far tail e(x) itself is exponential; in the limit of wide laws x is uniform.
    end = (slope + room / 2) * room
    depth = -torch.log(survival + (1 - survival) * torch.exp(-end))
    exponential = 2 * depth / (slope + torch.sqrt(slope * slope + 2 * depth))
    x = torch.where(slope < FAR_TAIL, normal, exponential)
    x = torch.where(end < UNIFORM, (1 - survival) * room, x)
    return torch.minimum(x.clamp(min=0.0), room)


class _Exact(torch.autograd.Function):
    """A value whose derivatives were computed with it. Takes the value, then inputs and derivatives in turn."""

    @staticmethod
    def forward(value: Tensor, *pairs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[2::2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grads: list[Tensor | None] = [None]
        for derivative in ctx.saved_tensors:
            grads += [grad * derivative, None]
        return tuple(grads)


def exact(value: Tensor, *pairs: Tensor) -> Tensor:
    """``value`` as a function of the inputs in ``pairs`` (input, derivative, input, derivative, …), once differentiable.

    Differentiating the quadrature would cost more and cancel; the derivatives are known, so autograd is told them.
    """
    return _Exact.apply(value, *pairs)
