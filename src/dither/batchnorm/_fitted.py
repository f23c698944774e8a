"""The statistics of all layers of a network side by side: what a law draws from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ._statistics import Statistics


class Draws(NamedTuple):
    """Batch means and biased batch variances, (S, T), or (T,) for one sample."""

    mean: Tensor
    var: Tensor


class Fitted:
    r"""The statistics of all layers side by side, at the batch size that was asked for.

    With :math:`r^2 = B_{fit} / B`, the variances of :math:`\mu_B` and :math:`\log \sigma^2_B` are those of the fit
    times :math:`r^2`. A smaller batch also has a smaller biased variance: :math:`E\sigma^2_B + \mathrm{Var}\,\mu_B` is
    the variance of the data, so :math:`E'\sigma^2_B = E\sigma^2_B + (1 - r^2)\,\mathrm{Var}\,\mu_B`.
    """

    def __init__(self, layers: Sequence[Statistics]) -> None:
        self._layers = layers
        ends = [0]
        self._parts: list[list[slice]] = []
        for layer in layers:
            sites, width = layer.loc_mean.shape
            self._parts.append([slice(ends[-1] + i * width, ends[-1] + (i + 1) * width) for i in range(sites)])
            ends.append(ends[-1] + sites * width)
        self.blocks = [slice(a, b) for a, b in pairwise(ends)]  # one for each layer
        self.batch_size = float(layers[0].batch_size)
        self.ratio = float(layers[0].fitted_batch_size) / self.batch_size  # r²
        self.loc_mean, fit_scale = self._flat("loc_mean"), self._flat("scale_mean")
        self.scale_mean = fit_scale * math.sqrt(self.ratio)
        loc, scale = self._flat("loc_log_var"), self._flat("scale_log_var")
        self.scale_log_var = scale * math.sqrt(self.ratio)
        self.loc_log_var = loc if self.ratio == 1 else self._moved(loc, scale, fit_scale)
        self._fitted_loc = loc

    def part(self, layer: int, site: int) -> slice:
        """Where the channels of one call of a layer stand."""
        return self._parts[layer][site]

    def sites(self, layer: int) -> int:
        """How often a layer is called in a pass of its network."""
        return len(self._parts[layer])

    @property
    def moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and standard deviation of μ_B and of log σ²_B, each (T,), at the batch size that was asked for."""
        return self.loc_mean, self.scale_mean, self.loc_log_var, self.scale_log_var

    @property
    def num_records(self) -> int:
        """K, the number of batches whose own statistics are kept."""
        return min(layer.num_records for layer in self._layers)

    @cached_property
    def records(self) -> Draws:
        """The statistics of single batches, (K, T), moved to the batch size that was asked for."""
        mean, log_var = self.records_moved()
        return Draws(mean, log_var.exp())

    def records_moved(self) -> tuple[Tensor, Tensor]:
        """μ_B and log σ²_B of single batches, (K, T): deviations from their mean scaled by r."""
        mean, log_var = self._flat("records_mean"), self._flat("records_log_var")
        if self.ratio == 1:
            return mean, log_var
        r = math.sqrt(self.ratio)
        return self.loc_mean + r * (mean - self.loc_mean), self.loc_log_var + r * (log_var - self._fitted_loc)

    @cached_property
    def factors(self) -> dict[tuple[int, bool, float | None], Tensor]:
        """What `Correlated` found for a setting; kept as long as the statistics stay."""
        return {}

    def _moved(self, loc: Tensor, scale: Tensor, scale_mean: Tensor) -> Tensor:
        expected = (loc + scale.square() / 2).exp()
        moved = expected + (1 - self.ratio) * scale_mean.square()
        # Down to batches of one, nothing of the variance may be left; a millionth keeps the logarithm finite.
        return moved.clamp_min(expected * 1e-6).log() - self.ratio * scale.square() / 2

    def _flat(self, name: str) -> Tensor:
        return torch.cat([getattr(layer, name).flatten(-2) for layer in self._layers], -1)
