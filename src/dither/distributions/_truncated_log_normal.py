"""The posterior of multiplicative noise: a log-normal law truncated in log space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from dither.distributions import _moments
from dither.distributions._interval import Interval, entropy, exact, interval, quantile


class TruncatedLogNormal(Distribution):
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True

    def __init__(self, loc, scale, log_low=-20.0, log_high=0.0, validate_args=None):
        self.loc, self.scale = torch.distributions.utils.broadcast_all(loc, scale)
        self.log_low = torch.as_tensor(log_low, dtype=torch.float64)
        self.log_high = torch.as_tensor(log_high, dtype=torch.float64)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def _inputs(self):
        return self.loc.double(), self.scale.double()

    def _law(self) -> Interval:
        with torch.no_grad():
            return interval(self.loc.detach().double(), self.scale.detach().double(), self.log_low, self.log_high)

    def _finish(self, derived) -> Tensor:
        value, d_loc, d_scale = derived
        loc, scale = self._inputs
        return exact(value, loc, d_loc, scale, d_scale)

    @property
    def mean(self) -> Tensor:
        args = self.loc.detach().double(), self.log_low, self.log_high
        return self._finish(_moments.log_mean(self._law(), *args)).exp().to(self.loc.dtype)

    @property
    def snr(self) -> Tensor:
        args = self.loc.detach().double(), self.log_low, self.log_high
        return self._finish(_moments.log_snr(self._law(), *args)).exp().to(self.loc.dtype)

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=torch.float64, device=self.loc.device).clamp_(min=2**-54)
        with torch.no_grad():
            z, d_loc, d_scale, _ = quantile(self._law(), u)
        return self._finish((z, d_loc, d_scale)).exp().to(self.loc.dtype)

    def _entropy_z(self):
        return self._finish(entropy(self._law()))
