"""A law that keeps the strongest correlations between channels: low-rank, with shrinkage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._fitted import Draws, Fitted
from ._laws import Gaussian, from_standard


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
        return from_standard(fitted, shared @ factor.T + own * left)

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
