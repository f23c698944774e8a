"""The reliability diagram: how often an answer of a given confidence is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..metrics import ece, reliability
from ._style import FONT, REFERENCE, TEXT, by_name, label, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Z = 1.96  # 95 % of a normal law
_DODGE = 0.35  # percentage points between the error bars of two methods


def reliability_diagram(probs: Tensor | Mapping[str, Tensor], target: Tensor, *, num_bins: int = 15) -> Figure:
    """Accuracy against confidence, with 95 % intervals, and how many examples there are of each confidence.

    On the dashed diagonal a network is honest; below it, too sure. The bars are Wilson's intervals: of a good network
    most bins hold a handful of examples, and their points mean little. Below: the share of the examples in each bin,
    on a logarithmic axis.

    Args:
        probs: probabilities, (N, K); or several by name of the method.
        target: class numbers, (N,), the same for all.
        num_bins: number of bins of the confidence, of equal widths.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ValueError: If no method is given, or probabilities and labels do not fit, see `dither.metrics.reliability`.

    Example:
        >>> import torch
        >>> figure = reliability_diagram({"one net": torch.tensor([[0.9, 0.1], [0.3, 0.7]])}, torch.tensor([0, 1]))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['accuracy, %', 'share, %']
    """
    methods = by_name(probs)
    figure, (main, below) = new_figure(5.2, rows=2, heights=(3, 1))
    main.plot([0, 100], [0, 100], color=REFERENCE, linestyle=(0, (3, 3)), linewidth=1.2, zorder=1)
    count, lowest, smallest = len(target), 100.0, 10.0
    for i, (name, of_method, style) in enumerate(styled(methods)):
        x, right, share = reliability(of_method, target, num_bins)
        low, high = _wilson(right, share * count)
        error = 100 * ece(of_method, target, num_bins)
        at = (100 * x + _DODGE * (i - (len(methods) - 1) / 2)).tolist()
        main.vlines(at, (100 * low).tolist(), (100 * high).tolist(), color=style["color"], linewidth=1.4, alpha=0.55)
        name = f"{name}: ECE {error:.2g} %" if name else f"ECE {error:.2g} %"
        main.plot(at, (100 * right).tolist(), marker="o", markersize=6, linewidth=1.8, label=name, **style)
        below.plot((100 * x).tolist(), (100 * share).tolist(), marker="o", markersize=4, linewidth=1.6, **style)
        lowest, smallest = min(lowest, 100 * x.min().item()), min(smallest, 100 * share.min().item())
    left = min(5 * (lowest // 5), 90.0)
    main.set_xlim(left, 100 + 0.02 * (100 - left))
    main.set_ylim(0, 102)
    below.set_yscale("log")
    powers = [10.0**k for k in range(math.floor(math.log10(smallest)), 3)]
    below.set_yticks(powers, [f"{value:g}" for value in powers])
    below.minorticks_off()
    below.set_ylim(powers[0] * 0.7, 160)
    for x, y, words in ((0.015, 0.93, "above: not sure enough"), (0.985, 0.06, "below: too sure")):
        side = "left" if x < 0.5 else "right"
        main.text(x, y, words, transform=main.transAxes, ha=side, fontsize=FONT - 1, color=TEXT, style="italic")
    label(main, y="accuracy, %")
    label(below, x="confidence, %", y="share, %")
    legend(figure, main)
    return figure


def _wilson(rate: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a rate that was measured on ``count`` examples: right for few examples and for 100 %."""
    z2 = _Z * _Z / count
    middle = (rate + z2 / 2) / (1 + z2)
    half = _Z * (rate * (1 - rate) / count + z2 / (4 * count)).sqrt() / (1 + z2)
    return middle - half, middle + half
