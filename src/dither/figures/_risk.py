"""The risk-coverage curve: the error that is left when the uncertain examples are put aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..metrics import aurc
from ..metrics import risk_coverage as curve
from ._style import label, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOISY = 0.02  # the risk among fewer examples than this share may leave the picture
_STARTS = (99.0, 98.0, 95.0, 90.0, 80.0, 50.0, 0.0)  # where the axis may begin, percent
_LOW = 0.03  # of the highest risk: what is lower needs no room


def risk_coverage(methods: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Error among the answered examples against the share that is answered, the most certain first.

    Low is better. At 100 % stands the plain error. The legend gives the area under the whole curve. Where all curves
    begin with a stretch of almost no error, the axis starts near its end.

    Args:
        methods: by name, (uncertainty, wrong), (N,) each; see `dither.metrics.risk_coverage`.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ValueError: If no method is given, or values are empty, NaN or do not fit each other.

    Example:
        >>> import torch
        >>> wrong = torch.tensor([False, True, True, False])
        >>> figure = risk_coverage({"SBN": (torch.tensor([0.1, 0.9, 0.4, 0.2]), wrong)})
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['SBN: area 20.8 %']
    """
    if not methods:
        raise ValueError("no method is given, expected at least one line to draw: {name: (uncertainty, wrong)}")
    figure, (axes,) = new_figure(4.2)
    top, curves = 0.0, list[tuple[Tensor, Tensor]]()
    for name, (uncertainty, wrong), style in styled(methods):
        coverage, risk = curve(uncertainty, wrong)
        area = 100 * aurc(uncertainty, wrong)
        text = f"{name}: area {area:.3g} %" if name else f"area {area:.3g} %"
        axes.plot((100 * coverage).tolist(), (100 * risk).tolist(), linewidth=2, label=text, **style)
        top = max(top, risk[coverage >= _NOISY].max().item())
        curves.append((100 * coverage, risk))
    start = next(s for s in _STARTS if not any((risk[coverage <= s] > _LOW * top).any() for coverage, risk in curves))
    axes.set_xlim(start, 100 + 0.005 * (100 - start))
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylim(0, 108 * top if top > 0 else 1)
    label(axes, x="answered, the most certain first, %", y="wrong among the answered, %")
    legend(figure, axes)
    return figure
