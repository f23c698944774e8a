"""rescale: the noise of another batch size."""

from __future__ import annotations

import math

from torch import nn

from ._source import find_source
from ._statistics import Statistics


def rescale(net: nn.Module, *, batch_size: float) -> nn.Module:
    r"""Mutates ``net``: from now on the statistics are drawn as for mini-batches of another size.

    .. math:: r^2 = \frac{B_{fit}}{B}, \quad \mathrm{Var}'\,\mu_B = r^2\,\mathrm{Var}\,\mu_B, \quad
              \mathrm{Var}'\log\sigma_B^2 = r^2\,\mathrm{Var}\log\sigma_B^2, \quad
              E'\sigma_B^2 = E\sigma_B^2 + (1 - r^2)\,\mathrm{Var}\,\mu_B

    The last is the law of total variance: a small batch has a smaller variance within itself. What was fitted stays
    stored, so nothing is lost by rescaling again, and rescaling to the size of the fit gives the fitted law, bit for
    bit. Exact for the variance of μ_B of independent examples; for log σ²_B right to first order in 1/B.

    Args:
        net: A fitted network.
        batch_size: B, a positive number; it need not be whole. A huge one means no noise.

    Returns:
        ``net``.

    Raises:
        ValueError: If ``net`` has no converted layer, is not fitted, or the size is not positive and finite.

    Example:
        >>> import torch
        >>> from dither import batchnorm
        >>> net = batchnorm.convert(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)))
        >>> report = batchnorm.fit(net, torch.randn(640, 3).split(32))
        >>> batchnorm.rescale(net, batch_size=128)[1].statistics
        Statistics(num_features=8, num_batches=20, batch_size=128)
    """
    statistics = _all_statistics(net)
    if not math.isfinite(batch_size) or batch_size <= 0:
        raise ValueError(f"batch_size is {batch_size}; expected a positive, finite number of examples")
    for layer in statistics:
        layer.batch_size.fill_(batch_size)
    return net


def sizes(net: nn.Module) -> tuple[float, float]:
    """The batch size of which a fitted network draws the noise now, and the one at which it was fitted."""
    statistics = _all_statistics(net)[0]
    return float(statistics.batch_size), float(statistics.fitted_batch_size)


def _all_statistics(net: nn.Module) -> list[Statistics]:
    """Of every layer.

    Raises:
        ValueError: If a layer is not fitted.
    """
    found: list[Statistics] = []
    for name, layer in find_source(net).layers.items():
        if layer.statistics is None:
            raise ValueError(f"{name!r} is not fitted: call batchnorm.fit(net, loader) first")
        found.append(layer.statistics)
    return found
