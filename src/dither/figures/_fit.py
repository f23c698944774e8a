"""Do the laws describe the statistics? Quantiles of batch statistics against those of a normal law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._style import COLORS, FONT, REFERENCE, TEXT, label, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..batchnorm._report import FitReport, LayerFit

MOST = 3  # layers side by side: more cannot be read at the width of a page
_BAND = 2.576  # standard errors: 99 %
_REACH = 4.5  # standard deviations shown


def statistics_figure(report: FitReport, layers: Sequence[str] | None = None) -> Figure:
    r"""Quantiles of standardised batch statistics against normal quantiles, one line per channel.

    Upper row: μ_B. Lower row: log σ²_B, which is normal where σ²_B is LogNormal. On the diagonal a law is exact; the
    grey band holds each point of an exact law with probability 99 %, :math:`z \pm 2.58 \sqrt{p(1-p)/K} / \varphi(z)`.

    Args:
        report: What `dither.batchnorm.fit` returned. It holds a few channels of each layer and up to 512 batches.
        layers: Names of at most 3 layers. None: the first, the one in the middle and the last.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ValueError: If a layer is unknown, there are none or too many, or all its channels are dead.

    Example:
        >>> from torch import nn
        >>> from dither import batchnorm
        >>> net = batchnorm.convert(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8)))
        >>> figure = statistics_figure(batchnorm.fit(net, torch.randn(6400, 3).split(32)))
        >>> figure.axes[0].get_ylabel()
        'batch mean μ, sd'
    """
    shown = _shown(report, layers)
    figure, axes = new_figure(2.2 + 2.3 * (1 + (len(shown) < MOST) * 0.3), 2, len(shown))
    for i, layer in enumerate(shown):
        _draw(axes[i], layer.mean_sample, COLORS[0], layer.normal_rejected)
        _draw(axes[len(shown) + i], layer.log_var_sample, COLORS[1], layer.log_normal_rejected)
        label(axes[i], title=layer.name)
    label(axes[0], y="batch mean μ, sd")
    label(axes[len(shown)], y="log variance, sd")
    figure.supxlabel("quantile of the normal law, sd", fontsize=FONT, color=TEXT)
    return figure


def _shown(report: FitReport, layers: Sequence[str] | None) -> list[LayerFit]:
    known = {layer.name: layer for layer in report.layers}
    if layers is None:
        names = [name for name, layer in known.items() if layer.log_var_sample.shape[1]] or list(known)
        middle = names[len(names) // 2]
        layers = list(dict.fromkeys((names[0], middle, names[-1])))
    if unknown := [name for name in layers if name not in known]:
        raise ValueError(f"the report has no layer {unknown[0]!r}; it has {', '.join(known)}")
    if not 1 <= len(layers) <= MOST:
        raise ValueError(f"layers names {len(layers)} layers, expected 1 to {MOST}")
    for name in layers:
        if not known[name].log_var_sample.shape[1]:
            raise ValueError(f"all channels of {name!r} that the report holds are dead: there is nothing to show")
    return [known[name] for name in layers]


def _draw(axes: Any, sample: Tensor, color: str, rejected: float) -> None:
    count = len(sample)
    p = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    z = torch.special.ndtri(p)
    density = torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5
    band = _BAND * (p * (1 - p) / count).sqrt() / density
    axes.fill_between(z.tolist(), (z - band).tolist(), (z + band).tolist(), color=REFERENCE, alpha=0.3, linewidth=0)
    for channel in sample.double().sort(0).values.T:
        axes.plot(z.tolist(), channel.tolist(), color=color, linewidth=1, alpha=0.6)
    axes.plot((-_REACH, _REACH), (-_REACH, _REACH), color=TEXT, linewidth=1, linestyle=(0, (4, 3)))
    reach = min(float(z[-1]) + 0.3, _REACH)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-_REACH, _REACH)
    if not math.isnan(rejected):
        words = f"{100 * rejected:.0f} % rejected"
        axes.text(0.04, 0.95, words, transform=axes.transAxes, va="top", fontsize=FONT - 1, color=TEXT)
