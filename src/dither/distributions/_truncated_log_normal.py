"""The posterior of multiplicative noise: a log-normal law truncated in log space."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from . import _interval, _moments, _quantile
from ._interval import Derived, Interval, exact


class TruncatedLogNormal(Distribution):
    r"""Law of :math:`\theta = e^z`, z normal(μ, σ²) truncated to :math:`[a, b]`.

    .. math:: p(\theta) = \frac{1}{\theta \sigma Z}\, \varphi\Big(\frac{\log\theta - \mu}{\sigma}\Big), \qquad
        Z = \Phi\Big(\frac{b - \mu}{\sigma}\Big) - \Phi\Big(\frac{a - \mu}{\sigma}\Big), \quad a \le \log\theta \le b

    Evaluated in float64 whatever the dtype of the arguments, because a float32 port is not finite over most of the
    range that training visits; the answer has the caller's dtype. Every statistic and every derivative by ``loc`` and
    ``scale`` is an average with positive weights, which does not cancel: see ``_interval.py``. Derivatives are of
    first order only; a second one raises. On a device without float64 (mps) the work is done on the CPU.

    ``loc`` may lie outside [a, b], and far outside: the law then concentrates at the near bound.

    Source: Neklyudov et al. 2017, section 3. Oracle: ``tests/oracles.py::TruncatedNormal``.

    Args:
        loc: μ, mean of z before truncation. A number or a tensor.
        scale: σ > 0, standard deviation of z before truncation. A number or a tensor.
        log_low: a, the smallest log θ. A number or a tensor without gradient, broadcast with ``loc``.
        log_high: b > a, the largest log θ.
        validate_args: whether to check values (parameters here, arguments of ``log_prob``, ``cdf`` and ``icdf``
            later). None is the default of ``torch.distributions``: yes, unless Python runs with -O. Skipped inside
            ``torch.compile``.

    Raises:
        ValueError: If a parameter is not finite, ``scale <= 0``, ``log_low >= log_high``, or a bound requires grad.

    Example:
        >>> import torch
        >>> from dither.distributions import LogUniform, TruncatedLogNormal
        >>> q = TruncatedLogNormal(torch.tensor([0.0, -3.0]), torch.tensor([0.1, 4.0]))
        >>> q.mean
        tensor([0.9250, 0.1107])
        >>> q.snr  # the first unit is signal, the second noise
        tensor([17.0788,  0.5504])
        >>> torch.distributions.kl_divergence(q, LogUniform())
        tensor([4.5725, 0.5937])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        log_low: Tensor | float = -20.0,
        log_high: Tensor | float = 0.0,
        validate_args: bool | None = None,
    ) -> None:
        loc, scale = broadcast_all(loc, scale)
        dtype = torch.promote_types(loc.dtype, scale.dtype)
        dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
        validate = bool(Distribution._validate_args) if validate_args is None else validate_args
        validate = validate and not torch.compiler.is_compiling()
        self.log_low, self.log_high = as_bounds(log_low, log_high, home(loc.device), validate=validate)
        for bound in (self.log_low, self.log_high):
            if bound.requires_grad:
                raise ValueError(
                    "a bound of TruncatedLogNormal requires grad, but its derivatives are by loc and scale only: "
                    "pass bound.detach()"
                )
        shape = torch.broadcast_shapes(loc.shape, self.log_low.shape, self.log_high.shape)
        self.loc, self.scale = loc.to(dtype).expand(shape), scale.to(dtype).expand(shape)
        if validate:
            check_values("loc", self.loc, torch.isfinite(self.loc), "a finite number")
            check_values("scale", self.scale, (self.scale > 0) & torch.isfinite(self.scale), "positive and finite")
        # The checks above say more than those of the base class, which would repeat them.
        super().__init__(shape, validate_args=False)
        self._validate_args = validate

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedLogNormal:
        """The same law repeated to ``batch_shape``, without a copy."""
        shape = torch.Size(batch_shape)
        new: Any = self._get_checked_instance(TruncatedLogNormal, _instance)
        new.loc, new.scale = self.loc.expand(shape), self.scale.expand(shape)
        new.log_low, new.log_high = self.log_low.expand(shape), self.log_high.expand(shape)
        Distribution.__init__(new, shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[e^a, e^b], rounded as samples are."""
        return constraints.interval(self._answer(self.log_low.exp()), self._answer(self.log_high.exp()))

    @property
    def mean(self) -> Tensor:
        """E θ."""
        return self._answer(self._exact(_moments.log_mean(*self._parameters())).exp())

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio E θ / sd θ, the paper's criterion: a unit stays when it is above 1."""
        return self._answer(self._exact(_moments.log_snr(*self._parameters())).exp())

    @property
    def stddev(self) -> Tensor:
        """Standard deviation of θ. Not the root of ``variance``, which may underflow in float32."""
        return self._answer(self._log_stddev().exp())

    @property
    def variance(self) -> Tensor:
        """Var θ."""
        return self._answer((2 * self._log_stddev()).exp())

    @property
    def mode(self) -> Tensor:
        """Where the density of θ (not of z) is largest: exp(clamp(μ - σ², a, b))."""
        loc, scale = self._inputs()
        return self._answer(torch.minimum(torch.maximum(loc - scale * scale, self.log_low), self.log_high).exp())

    def entropy(self) -> Tensor:
        """Entropy of θ in nats: that of z plus E z."""
        law = self._law()
        parts = zip(_interval.entropy(law), _interval.mean(law), strict=True)
        value, d_loc, d_scale = (first + second for first, second in parts)
        return self._answer(self._exact((value, d_loc, d_scale)))

    def log_entropy(self) -> Tensor:
        """Entropy of z = log θ in nats, in float64: what the divergence from a log-uniform law is made of."""
        return self._exact(_interval.entropy(self._law()))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of θ, (sample_shape, batch_shape), with the derivatives of implicit reparametrization."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=torch.float64, device=home(self.loc.device))
        # torch.rand may give 0, which is the bound itself.
        z, d_loc, d_scale, _ = _quantile.quantile(self._law(), u.clamp_(min=2.0**-54))
        return self._answer(self._exact((z, d_loc, d_scale)).exp())

    def icdf(self, value: Tensor) -> Tensor:
        """The θ below which lies the probability ``value``; NaN outside [0, 1]."""
        u = value.to(home(value.device), torch.float64)
        z, d_loc, d_scale, d_u = _quantile.quantile(self._law(), u.detach().clamp(0.0, 1.0))
        z = torch.where((u >= 0) & (u <= 1), z, torch.nan)
        return self._answer(self._exact((z, d_loc, d_scale), u, d_u).exp(), value)

    def cdf(self, value: Tensor) -> Tensor:
        """P(θ ≤ value); 0 below the support and 1 above it."""
        z, low, high = self._log(value)
        p, d_loc, d_scale, d_z = _quantile.cdf(self._law(), z.detach())
        inside = self._exact((p, d_loc, d_scale), z, d_z)
        return self._answer(torch.where(low, 0.0, torch.where(high, 1.0, inside)), value)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of θ at ``value``; -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        z, low, high = self._log(value)
        density, d_loc, d_scale, d_z = _interval.log_prob(self._law(), z.detach())
        inside = self._exact((density, d_loc, d_scale), z, d_z) - z
        return self._answer(torch.where(low | high, -torch.inf, inside), value)

    def _log(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log of the value, moved into the interval, and whether it was below or above it."""
        # Compared in the dtype of samples, where a draw next to a bound is rounded to the bound.
        support: Any = self.support
        low, high = value < support.lower_bound, value > support.upper_bound
        theta = value.to(home(value.device), torch.float64)
        z = torch.minimum(torch.maximum(theta.log(), self.log_low), self.log_high)
        return z, low.to(z.device), high.to(z.device)

    def _log_stddev(self) -> Tensor:
        parameters = self._parameters()
        pairs = zip(_moments.log_mean(*parameters), _moments.log_snr(*parameters), strict=True)
        value, d_loc, d_scale = (mean - snr for mean, snr in pairs)
        return self._exact((value, d_loc, d_scale))

    def _inputs(self) -> tuple[Tensor, Tensor]:
        device = home(self.loc.device)
        return self.loc.to(device, torch.float64), self.scale.to(device, torch.float64)

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        loc, scale = self._inputs()
        return loc.detach(), scale.detach(), self.log_low, self.log_high

    def _law(self) -> Interval:
        """The law, integrated once for a draw and a divergence, and again when loc or scale changed in place."""
        if torch.compiler.is_compiling() or self.loc.is_inference() or self.scale.is_inference():
            return _interval.interval(*self._parameters())
        versions = (self.loc._version, self.scale._version)
        known = self.__dict__.get("_known")
        if known is None or known[0] != versions:
            known = self.__dict__["_known"] = (versions, _interval.interval(*self._parameters()))
        return known[1]

    def _exact(self, derived: Derived, *more: Tensor) -> Tensor:
        value, d_loc, d_scale = derived
        loc, scale = self._inputs()
        return exact(value, loc, d_loc, scale, d_scale, *more)

    def _answer(self, value: Tensor, argument: Tensor | None = None) -> Tensor:
        """``value`` on the caller's device and in the caller's dtype."""
        dtype = self.loc.dtype if argument is None else torch.promote_types(self.loc.dtype, argument.dtype)
        return value.to(self.loc.device, dtype)


def home(device: torch.device) -> torch.device:
    """Where float64 work for tensors on ``device`` is done."""
    return torch.device("cpu") if device.type == "mps" else device


def as_bounds(
    log_low: Tensor | float, log_high: Tensor | float, device: torch.device, *, validate: bool
) -> tuple[Tensor, Tensor]:
    """Both bounds in float64, in which a number stays what was written."""
    low, high = (
        bound.to(device, torch.float64)
        if isinstance(bound, Tensor)
        else torch.full((), float(bound), dtype=torch.float64, device=device)
        for bound in (log_low, log_high)
    )
    if validate and not bool(torch.all((low < high) & torch.isfinite(low) & torch.isfinite(high))):
        raise ValueError(
            f"expected finite bounds with log_low < log_high, got log_low={log_low} and log_high={log_high}: "
            "they are bounds of log θ, for example log_low=-20.0, log_high=0.0"
        )
    return low, high


def check_values(name: str, values: Tensor, valid: Tensor, expected: str) -> None:
    """Raise with the first offender when not all ``valid``."""
    if bool(valid.all()):
        return
    bad = ~valid
    index = tuple(bad.nonzero()[0].tolist())
    repair = "pass log_scale.exp()" if name == "scale" else "a diverged step? lower the learning rate"
    raise ValueError(
        f"{name} of TruncatedLogNormal must be {expected}, got {values[index].item()} at index {index} "
        f"({int(bad.sum())} of {values.numel()} values are not): {repair}"
    )
