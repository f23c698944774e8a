r"""The laws of mini-batch statistics: what :math:`(\mu_B, \sigma^2_B)` of all layers is drawn from.

A law is an object. It draws for all layers at once, on their channels side by side (T in all), so a law may couple
channels and layers. Means are Normal and variances LogNormal where the law is not made of stored batches.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
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


class Law(ABC):
    """What mini-batch statistics are drawn from."""

    needs_records: bool = False  # whether it is made of the statistics of single batches
    looks_at_input: bool = False  # whether what a layer normalises with depends on its input

    @abstractmethod
    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        """S samples for all layers, (S, T)."""

    def statistics(self, fitted: Fitted, draws: Draws, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ² for the layer at ``part`` whose input is ``x``."""
        return draws.mean[part], draws.var[part]


class Gaussian(Law):
    """A law that is a function of standard normal numbers: a `bank` can choose them with care."""

    @abstractmethod
    def noise_size(self, fitted: Fitted) -> int:
        """How many standard normal numbers one sample takes."""

    @abstractmethod
    def transform(self, fitted: Fitted, noise: Tensor) -> Draws:
        """Samples from standard normal numbers (S, `noise_size`)."""

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        return self.transform(fitted, normal(fitted, (num_samples, self.noise_size(fitted)), generator))


@dataclass(frozen=True)
class Factorized(Gaussian):
    r"""The law of the paper: every channel of every layer on its own.

    .. math:: \mu \sim \mathcal{N}(m_\mu, s_\mu^2), \qquad \sigma^2 \sim \mathrm{LogNormal}(m_l, s_l^2)

    with the moments of :math:`\mu_B` and :math:`\log \sigma^2_B` over training mini-batches.
    Source: Atanov et al. 2018, section 3.

    Example:
        >>> Factorized()
        Factorized()
    """

    def noise_size(self, fitted: Fitted) -> int:
        return 2 * len(fitted.loc_mean)

    def transform(self, fitted: Fitted, noise: Tensor) -> Draws:
        return _from_standard(fitted, noise)


@dataclass(frozen=True)
class Correlated(Gaussian):
    r"""A Gaussian on (μ, log σ²) that keeps the strongest correlations; the margins are those of `Factorized`.

    With the standardised statistics of K stored batches as the rows of X (K, 2T), the correlation is

    .. math:: R = (1 - \gamma) \, V_r \Lambda_r V_r^\top + D,
              \qquad \tfrac{1}{K-1} X^\top X = V \Lambda V^\top, \qquad \operatorname{diag} R = 1,

    with the r largest eigenvalues. γ shrinks what may be chance among K batches; None estimates it (the value that
    minimises the expected squared error of the correlations). Rank 0 is `Factorized`.
    Source: ours; γ from Schäfer and Strimmer 2005, "A shrinkage approach to large-scale covariance matrix estimation",
    computed from inner products of batches, so that no (2T, 2T) matrix is built.

    Args:
        rank: r, how many directions are kept (for each layer, or for all together).
        across_layers: Whether layers are drawn together. Otherwise each layer has directions of its own.
        shrinkage: γ in [0, 1], or None.

    Raises:
        ValueError: If the rank is negative or γ is not in [0, 1].
    """

    rank: int = 16
    across_layers: bool = True
    shrinkage: float | None = None
    needs_records = True

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"Correlated: rank is {self.rank}, expected a number >= 0")
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ValueError(f"Correlated: shrinkage is {self.shrinkage}, expected a number in [0, 1] or None")

    def noise_size(self, fitted: Fitted) -> int:
        return self._factor(fitted).shape[1] + 2 * len(fitted.loc_mean)

    def transform(self, fitted: Fitted, noise: Tensor) -> Draws:
        factor = self._factor(fitted)
        shared, own = noise.split([factor.shape[1], len(factor)], -1)
        left = (1 - factor.square().sum(1)).clamp_min(0).sqrt()
        return _from_standard(fitted, shared @ factor.T + own * left)

    def _factor(self, fitted: Fitted) -> Tensor:
        """:math:`V_r ((1-γ) Λ_r)^{1/2}`, (2T, r); with ``across_layers=False`` its blocks stand side by side."""
        setting = (self.rank, self.across_layers, self.shrinkage)
        if setting not in fitted.factors:
            fitted.factors[setting] = self._make_factor(fitted)
        return fitted.factors[setting]

    def _make_factor(self, fitted: Fitted) -> Tensor:
        size = len(fitted.loc_mean)
        mean, log_var = (_standardised(t) for t in fitted.records_moved())
        rows = torch.cat([mean, log_var], 1)
        if self.across_layers:
            return _low_rank(rows, self.rank, self.shrinkage).to(fitted.loc_mean.dtype)
        columns = torch.arange(2 * size, device=rows.device).view(2, size)
        parts: list[Tensor] = []
        for block in fitted.blocks:
            where = columns[:, block].flatten()
            inside = _low_rank(rows[:, where], self.rank, self.shrinkage)
            parts.append(rows.new_zeros(2 * size, inside.shape[1]).index_copy(0, where, inside))
        return torch.cat(parts, 1).to(fitted.loc_mean.dtype)


@dataclass(frozen=True)
class Empirical(Law):
    """The statistics of single training batches, as they were.

    Args:
        joint: Whether all layers use the same batch: that is MC BatchNorm (Teye et al. 2018). Otherwise each layer
            draws a batch of its own.

    Example:
        >>> Empirical(joint=False)
        Empirical(joint=False)
    """

    joint: bool = True
    needs_records = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        size, records = fitted.num_records, fitted.records
        if self.joint:
            chosen = _choices(fitted, size, (num_samples,), generator)
            return Draws(records.mean[chosen], records.var[chosen])
        chosen = _choices(fitted, size, (num_samples, len(fitted.blocks)), generator)
        widths = torch.tensor([block.stop - block.start for block in fitted.blocks], device=chosen.device)
        rows = chosen.repeat_interleave(widths, 1)
        return Draws(*(t.gather(0, rows) for t in records))


@dataclass(frozen=True)
class Cached(Law):
    r"""The sums of M - 1 training examples and those of the test example itself.

    .. math:: \mu = \frac{(M-1)\,\mu_k + \mu_x}{M}, \qquad
              \sigma^2 = \frac{(M-1)\,\sigma_k^2 + \sigma_x^2}{M} + \frac{M-1}{M^2} (\mu_x - \mu_k)^2

    for a stored batch k of M - 1 examples (the batch size of `fit`), the same in all layers. What it leaves out of
    `exact_predict`: behind the first layer, the training examples would have been seen beside x too. That influence
    goes with 1/M.
    """

    needs_records = True
    looks_at_input = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        if fitted.ratio != 1:
            raise ValueError("Cached uses stored sums of whole batches and cannot be rescaled: fit at that batch size")
        return Empirical(joint=True).draw(fitted, num_samples, generator)

    def statistics(self, fitted: Fitted, draws: Draws, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        others, mean, var = fitted.batch_size, draws.mean[part], draws.var[part]
        values = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        own_var, own_mean = torch.var_mean(values.to(mean.dtype), 2, correction=0)
        total = others + 1
        combined = (others * var + own_var) / total + others / total**2 * (own_mean - mean).square()
        return (others * mean + own_mean) / total, combined


@dataclass(frozen=True)
class Bank(Law):
    """Stored statistics, one after the other: sample s is always the same. `bank` makes networks with this law."""

    needs_records = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        size = fitted.num_records
        if num_samples > size:
            raise ValueError(f"the bank holds {size} samples, {num_samples} were asked for: make a bank of that many")
        return Draws(*(t[:num_samples] for t in fitted.records))


def normal(fitted: Fitted, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers where the statistics are; a generator of another device draws on its own."""
    like = fitted.loc_mean
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _choices(fitted: Fitted, size: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = fitted.loc_mean.device
    where = device if generator is None else generator.device
    return torch.randint(size, shape, generator=generator, device=where).to(device)


def _from_standard(fitted: Fitted, z: Tensor) -> Draws:
    mean, log_var = z.chunk(2, -1)
    return Draws(
        fitted.loc_mean + fitted.scale_mean * mean, (fitted.loc_log_var + fitted.scale_log_var * log_var).exp()
    )


def _standardised(records: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1, in float64; a column that does not vary is 0."""
    deviation = records.double() - records.double().mean(0)
    scale = deviation.square().sum(0).div(len(records) - 1).sqrt()
    return deviation / scale.where(scale > 0, 1.0)


def _low_rank(rows: Tensor, rank: int, shrinkage: float | None) -> Tensor:
    """Loadings (D, r) of the standardised rows (K, D)."""
    count = len(rows)
    gram = rows @ rows.T
    gamma = _shrinkage(rows, gram) if shrinkage is None else shrinkage
    values, vectors = torch.linalg.eigh(gram / (count - 1))
    rank = min(rank, int((values > values[-1].clamp_min(1e-12) * 1e-9).sum()))
    top, left = values[len(values) - rank :], vectors[:, len(values) - rank :]
    # v = Xᵀu / sqrt((K-1) λ), times sqrt((1-γ) λ): the eigenvalue cancels.
    return rows.T @ left * math.sqrt((1 - gamma) / (count - 1)) if len(top) else rows.new_zeros(rows.shape[1], 0)


def _shrinkage(rows: Tensor, gram: Tensor) -> float:
    """Schäfer and Strimmer's λ*: the summed sampling variance of the correlations over their summed squares."""
    count = len(rows)
    squares = rows.square()
    each = squares.sum(1).square().sum() - gram.square().sum() / count  # all pairs i, j
    each -= (squares.square().sum(0) - squares.sum(0).square() / count).sum()  # without i = j
    variance = each * count / (count - 1) ** 3
    total = gram.square().sum() / (count - 1) ** 2 - (squares.sum(0) / (count - 1)).square().sum()
    return float((variance / total.clamp_min(1e-300)).clamp(0, 1))
