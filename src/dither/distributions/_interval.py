r"""The normal law on an interval, exact from a point mass to a uniform law and in both tails.

A variable :math:`z` is normal(μ, σ²) truncated to :math:`[a, b]`. The textbook formulas divide differences of
:math:`\Phi`; they lose every digit when the interval lies in a tail, when σ is small and when σ is large.
Here no two numbers are subtracted that are nearly equal. Three steps:

1. **Stand on the mode.** :math:`m = \mathrm{clamp}(\mu, a, b)`, and :math:`x = (z - m) / \sigma`. The density is
   :math:`e^{-e(x)}` with the *energy* :math:`e(x) = \delta |x| + x^2/2 \ge 0`, :math:`\delta = |m - \mu| / \sigma`.
   (If :math:`\delta > 0` the mode is a bound, and only one side of it exists.)
2. **Keep what carries mass.** Beyond :math:`e = 36` there is less than 1e-15 of it. On each side of the mode the
   interval is cut there, so that a half-panel is :math:`x = r\xi`, :math:`\xi \in [0, 1]`, with energy
   :math:`A\xi + B\xi^2` and :math:`A, B \ge 0`, :math:`A + B \le 36`. That covers all regimes with one formula.
3. **Integrate.** 20 Gauss-Legendre nodes give :math:`I_k = \int_0^1 \xi^k e^{-A\xi - B\xi^2} d\xi`, k = 0 … 4,
   to 2e-11 (the cut included). Every statistic is an average with these positive weights.

The derivatives are averages too. For any function f of z,

.. math::
    \frac{\partial}{\partial\mu} E f = \frac{\mathrm{Cov}(f, x)}{\sigma}, \qquad
    \frac{\partial}{\partial\log\sigma} E f = 2\,\mathrm{Cov}(f, e),

because the score of the law is :math:`(x - E x) / \sigma` by μ and :math:`2 (e - E e)` by log σ.

All tensors are float64 and carry no gradient; a result is (value, ∂/∂μ, ∂/∂σ), and ``exact`` hands it to autograd.
Source: derived here. Oracle: ``tests/oracles.py::TruncatedNormal``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

MAX_ENERGY = 36.0
NUM_NODES = 20
NUM_MOMENTS = 5
# Half-panels per pass: 20 nodes of 2048 doubles stay in the second-level cache.
PANELS = 2048

# A quantity and its derivatives by μ and by σ.
Derived = tuple[Tensor, Tensor, Tensor]


class Rule(NamedTuple):
    """Gauss-Legendre quadrature on [0, 1]."""

    nodes: Tensor  # ξ, (nodes,)
    energy: Tensor  # -log2(e) (ξ, ξ²), (nodes, 2)
    moments: Tensor  # w ξ^k, (moments, nodes)


def _gauss_legendre() -> Rule:
    # Golub and Welsch 1969: nodes are the eigenvalues of the Jacobi matrix, weights come from its eigenvectors.
    k = torch.arange(1, NUM_NODES, dtype=torch.float64, device="cpu")
    off_diagonal = k / torch.sqrt(4 * k * k - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    nodes, weights = (values + 1) / 2, vectors[0] ** 2
    # exp2 is twice as fast as exp, so the change of base is folded into the polynomials.
    energy = -math.log2(math.e) * torch.stack([nodes, nodes**2], dim=1)
    return Rule(nodes, energy, torch.stack([weights * nodes**k for k in range(NUM_MOMENTS)]))


# A dictionary and not functools.cache, which torch.compile does not follow.
_RULES = {torch.device("cpu"): _gauss_legendre()}


def rule(device: torch.device) -> Rule:
    """The one quadrature rule of this package, on ``device``."""
    if device not in _RULES:
        _RULES[device] = Rule(*(tensor.to(device) for tensor in _RULES[torch.device("cpu")]))
    return _RULES[device]


def in_chunks(function: Callable[..., tuple[Tensor, ...]], size: int, *arguments: Tensor) -> tuple[Tensor, ...]:
    """``function`` of 1-d tensors, on pieces that stay in the cache; results are joined along the last axis."""
    if arguments[0].shape[0] <= size or arguments[0].device.type != "cpu":
        return function(*arguments)
    pieces = zip(*(argument.split(size) for argument in arguments), strict=True)
    results = zip(*(function(*piece) for piece in pieces), strict=True)
    return tuple(torch.cat(parts, dim=-1) for parts in results)


def panel(linear: Tensor, quadratic: Tensor) -> Tensor:
    """The density e^{-Aξ - Bξ²} at the nodes, (nodes, …) for A, B of shape (…): A, B ≥ 0 and A + B ≤ MAX_ENERGY."""
    coefficients = torch.stack([linear.reshape(-1), quadratic.reshape(-1)])
    return (rule(linear.device).energy @ coefficients).exp2_().reshape(NUM_NODES, *linear.shape)


def panel_moments(linear: Tensor, quadratic: Tensor, order: int) -> Tensor:
    r"""Integrals :math:`I_k = \int_0^1 \xi^k e^{-A\xi - B\xi^2} d\xi` for k = 0 … order, (order + 1, …)."""
    weights = rule(linear.device).moments[: order + 1]
    flat = in_chunks(lambda a, b: (weights @ panel(a, b),), PANELS, linear.reshape(-1), quadratic.reshape(-1))[0]
    return flat.reshape(order + 1, *linear.shape)


def reach(slope: Tensor, room: Tensor) -> Tensor:
    """How far the mass goes: the smaller of ``room`` and the x at which δx + x²/2 = MAX_ENERGY."""
    root = torch.sqrt(slope * slope + 2 * MAX_ENERGY)
    return torch.minimum(room, 2 * MAX_ENERGY / (slope + root))


class Interval(NamedTuple):
    """A normal law on an interval, seen from its mode. In tensors with two rows: the side below it, the side above."""

    scale: Tensor  # σ, (…)
    mode: Tensor  # m, (…)
    pull: Tensor  # (m - μ) / σ, (…); δ is its absolute value
    room: Tensor  # distance from the mode to the two bounds, in σ, (2, …)
    mass: Tensor  # ∫ e^{-e(x)} dx per side, (2, …)
    total: Tensor  # T, their sum, (…)
    mean_x: Tensor  # E x
    mean_square: Tensor  # E x²
    mean_energy: Tensor  # E e
    variance_energy: Tensor  # Var e
    covariance: Tensor  # Cov(x, e)


def interval(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Interval:
    """The law of normal(loc, scale²) on [low, high]; float64 arguments that broadcast."""
    loc, scale, low, high = torch.broadcast_tensors(loc, scale, low, high)
    mode = torch.minimum(torch.maximum(loc, low), high)
    pull = (mode - loc) / scale
    slope = pull.abs()
    room = torch.stack([mode - low, high - mode]) / scale
    length = reach(slope, room)
    i0, i1, i2, i3, i4 = panel_moments(slope * length, length * length / 2, NUM_MOMENTS - 1)
    mass = length * i0
    total = mass[0] + mass[1]
    # E x^k for k = 1 … 4; x is negative below the mode.
    weight = length * length / total
    first, weight = weight * i1, weight * length
    second, weight = weight * i2, weight * length
    third, fourth = weight * i3, weight * length * i4
    mean_x, mean_square = first[1] - first[0], second[0] + second[1]
    mean_cube, mean_fourth = third[1] - third[0], fourth[0] + fourth[1]
    # e = pull x + x²/2, and pull has the sign of x where it is not zero.
    mean_energy = pull * mean_x + mean_square / 2
    variance_energy = pull * (pull * mean_square + mean_cube) + mean_fourth / 4 - mean_energy * mean_energy
    covariance = pull * mean_square + mean_cube / 2 - mean_x * mean_energy
    covariance = torch.where(room.amin(0) > 3, _covariance_inside(room, total), covariance)
    return Interval(scale, mode, pull, room, mass, total, mean_x, mean_square, mean_energy, variance_energy, covariance)


def _covariance_inside(room: Tensor, total: Tensor) -> Tensor:
    """Cov(x, e) where both bounds are far from the mode.

    There the two sides balance, and what is left of them is rounding, which 1/σ would magnify. Integration by parts
    leaves the densities at the two bounds only.
    """
    # Beyond 37 these densities underflow, which costs exp a hundred times the time.
    low, high = room = room.clamp(max=37.0)
    at_low, at_high = torch.exp(-room * room / 2) / total
    bounds = (1 + low * low) * at_low - (1 + high * high) * at_high
    return (bounds + (at_low - at_high) * (low * at_low + high * at_high)) / 2


def log_prob(law: Interval, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-density of z on the interval, -e - log(σT), and its derivatives by μ, by σ (the score) and by z."""
    x = (z - law.mode) / law.scale
    energy = (law.pull + x / 2) * x
    value = -energy - torch.log(law.scale) - torch.log(law.total)
    d_loc, d_scale = x - law.mean_x, 2 * (energy - law.mean_energy)
    return value, d_loc / law.scale, d_scale / law.scale, -(law.pull + x) / law.scale


def mean(law: Interval) -> Derived:
    """E z."""
    variance = law.mean_square - law.mean_x**2
    return law.mode + law.scale * law.mean_x, variance, 2 * law.covariance


def entropy(law: Interval) -> Derived:
    """Entropy of z in nats: log(σT) + E e."""
    value = torch.log(law.scale) + torch.log(law.total) + law.mean_energy
    return value, law.covariance / law.scale, 2 * law.variance_energy / law.scale


class _Exact(torch.autograd.Function):
    """A value, and the derivatives that were computed with it. Arguments: value, input, derivative, input, …."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *pairs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, derivatives = ctx.saved_tensors[0::2], ctx.saved_tensors[1::2]
        if torch.is_grad_enabled():
            derivatives = [_Constant.apply(derivative, *inputs) for derivative in derivatives]
        pairs = ((grad_outputs[0] * derivative, None) for derivative in derivatives)
        return None, *itertools.chain.from_iterable(pairs)


class _Constant(torch.autograd.Function):
    """A derivative in a graph of derivatives. To differentiate it again is an error, not a silent zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: Tensor, *inputs: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "dither.distributions has first derivatives only, and a second one was asked for: "
            "detach the gradient, or take the statistic out of the loss that is differentiated twice"
        )


def exact(value: Tensor, *pairs: Tensor) -> Tensor:
    """``value`` as a function of the inputs in ``pairs`` = input, ∂value/∂input, …; differentiable once.

    Differentiating the quadrature would cost more and cancel; the derivatives are known, so autograd is told them.
    """
    return cast(Tensor, _Exact.apply(value, *pairs))
