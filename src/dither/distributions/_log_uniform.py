"""The prior of multiplicative noise: every order of magnitude is equally likely."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from ._truncated_log_normal import TruncatedLogNormal, as_bounds, home


class LogUniform(Distribution):
    r"""Law of :math:`\theta = e^z`, z uniform on :math:`[a, b]`: :math:`p(\theta) = 1 / (\theta (b - a))`.

    It is the limit of ``TruncatedLogNormal`` for wide noise. Evaluated in float64, in closed form.
    Source: Neklyudov et al. 2017, section 3. Oracle: ``tests/oracles.py::log_uniform_moments``.

    Args:
        log_low: a, the smallest log θ. A number or a tensor; differentiable.
        log_high: b > a, the largest log θ.
        validate_args: as in ``TruncatedLogNormal``.

    Raises:
        ValueError: If ``log_low >= log_high`` or a bound is not finite.

    Example:
        >>> import torch
        >>> from dither.distributions import LogUniform
        >>> p = LogUniform(log_low=-20.0, log_high=0.0)
        >>> p.mean, p.cdf(torch.tensor(0.5))
        (tensor(0.0500), tensor(0.9653))
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "log_low": constraints.real,
        "log_high": constraints.real,
    }
    has_rsample = True

    def __init__(
        self, log_low: Tensor | float = -20.0, log_high: Tensor | float = 0.0, validate_args: bool | None = None
    ) -> None:
        tensors = [bound for bound in (log_low, log_high) if isinstance(bound, Tensor)]
        dtypes = [tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point]
        self.dtype = torch.promote_types(dtypes[0], dtypes[-1]) if dtypes else torch.get_default_dtype()
        self.device = tensors[0].device if tensors else torch.empty(0).device
        validate = bool(Distribution._validate_args) if validate_args is None else validate_args
        validate = validate and not torch.compiler.is_compiling()
        low, high = as_bounds(log_low, log_high, home(self.device), validate=validate)
        # A distribution has one batch shape; the bounds stay float64, in which a number is what was written.
        self.log_low, self.log_high = torch.broadcast_tensors(low, high)
        super().__init__(self.log_low.shape, validate_args=False)
        self._validate_args = validate

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogUniform:
        """The same law repeated to ``batch_shape``, without a copy."""
        shape = torch.Size(batch_shape)
        new: Any = self._get_checked_instance(LogUniform, _instance)
        new.log_low, new.log_high = self.log_low.expand(shape), self.log_high.expand(shape)
        new.dtype, new.device = self.dtype, self.device
        Distribution.__init__(new, shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[e^a, e^b], rounded as samples are."""
        return constraints.interval(self._answer(self.log_low.exp()), self._answer(self.log_high.exp()))

    @property
    def mean(self) -> Tensor:
        """E θ = (e^b - e^a) / (b - a)."""
        return self._answer(self._mean())

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio E θ / sd θ."""
        return self._answer(self._relative_variance().rsqrt())

    @property
    def variance(self) -> Tensor:
        """Var θ."""
        return self._answer(self._mean() ** 2 * self._relative_variance())

    @property
    def stddev(self) -> Tensor:
        """Standard deviation of θ. Not the root of ``variance``, which may underflow in float32."""
        return self._answer(self._mean() * self._relative_variance().sqrt())

    @property
    def mode(self) -> Tensor:
        """Where the density of θ is largest: e^a."""
        return self._answer(self.log_low.exp())

    def entropy(self) -> Tensor:
        """Entropy of θ in nats: log(b - a) + (a + b) / 2."""
        return self._answer(self._width().log() + (self.log_low + self.log_high) / 2)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of θ, (sample_shape, batch_shape)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self._answer(self._at(torch.rand(shape, dtype=torch.float64, device=home(self.device))))

    def icdf(self, value: Tensor) -> Tensor:
        """The θ below which lies the probability ``value``; NaN outside [0, 1]."""
        u = value.to(home(value.device), torch.float64)
        return self._answer(torch.where((u >= 0) & (u <= 1), self._at(u), torch.nan), value)

    def cdf(self, value: Tensor) -> Tensor:
        """P(θ ≤ value); 0 below the support and 1 above it."""
        z = value.to(home(value.device), torch.float64).clamp(min=0.0).log()
        return self._answer(((z - self.log_low) / self._width()).clamp(0.0, 1.0), value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of θ at ``value``; -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        theta = value.to(home(value.device), torch.float64)
        inside = self.support.check(value).to(theta.device)
        return self._answer(torch.where(inside, -theta.log() - self._width().log(), -torch.inf), value)

    def _width(self) -> Tensor:
        return self.log_high - self.log_low

    def _at(self, u: Tensor) -> Tensor:
        return torch.exp(self.log_low + u * self._width())

    def _mean(self) -> Tensor:
        return self.log_high.exp() * -torch.expm1(-self._width()) / self._width()

    def _relative_variance(self) -> Tensor:
        """Var θ / (E θ)² = h coth h - 1 with h = (b - a) / 2; the series of the cotangent where that cancels."""
        h = self._width() / 2
        small = h.clamp(max=0.5) ** 2
        series = small * (
            1 / 3 - small * (1 / 45 - small * (2 / 945 - small * (1 / 4725 - small * (2 / 93555 - small * 2.1644e-6))))
        )
        return torch.where(h < 0.5, series, h / torch.tanh(h.clamp(min=0.5)) - 1)

    def _answer(self, value: Tensor, argument: Tensor | None = None) -> Tensor:
        dtype = self.dtype if argument is None else torch.promote_types(self.dtype, argument.dtype)
        return value.to(self.device if argument is None else argument.device, dtype)


@register_kl(TruncatedLogNormal, LogUniform)
def _kl_truncated_log_normal_log_uniform(q: TruncatedLogNormal, p: LogUniform) -> Tensor:
    """log(b - a) of p, minus the entropy of log θ under q; infinite where q reaches beyond p."""
    device, dtype = q.log_low.device, q.loc.dtype
    low, high = p.log_low.to(device), p.log_high.to(device)
    divergence = torch.log(high - low) - q.log_entropy()
    # In the caller's dtype, so that -6.9 as a float32 tensor is the same bound as the number -6.9.
    beyond = (q.log_low.to(dtype) < low.to(dtype)) | (q.log_high.to(dtype) > high.to(dtype))
    return torch.where(beyond, torch.inf, divergence).to(q.loc.device, dtype)


@register_kl(LogUniform, LogUniform)
def _kl_log_uniform_log_uniform(q: LogUniform, p: LogUniform) -> Tensor:
    """The log-ratio of the two widths; infinite where q reaches beyond p."""
    low, high = p.log_low.to(q.log_low.device), p.log_high.to(q.log_low.device)
    divergence = torch.log(high - low) - torch.log(q.log_high - q.log_low)
    beyond = (q.log_low.to(q.dtype) < low.to(q.dtype)) | (q.log_high.to(q.dtype) > high.to(q.dtype))
    return torch.where(beyond, torch.inf, divergence).to(q.device, q.dtype)
