"""What one more sample brings: NLL against the number of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ._style import REFERENCE, label, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def nll_by_samples(
    methods: Mapping[str, tuple[Tensor, Tensor, Tensor]], *, single: float | None = None, unit: str = "NLL, nats"
) -> Figure:
    """NLL of the mean of S samples against S, with a band of one standard deviation between groups of S samples.

    Args:
        methods: by name, (numbers of samples, mean NLL, its standard deviation), (L,) each, as
            `dither.metrics.nll_by_samples` gives them.
        single: NLL of the network without sampling: a dotted line.
        unit: name and unit of the vertical axis, if it is another metric.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ValueError: If no method is given, or the three tensors of one differ in length.

    Example:
        >>> import torch
        >>> figure = nll_by_samples({"SBN": (torch.tensor([1, 2]), torch.tensor([0.5, 0.4]), torch.zeros(2))})
        >>> figure.axes[0].get_xlabel()
        'samples'
    """
    if not methods:
        raise ValueError("no method is given, expected at least one line to draw: {name: (numbers, nll, spread)}")
    figure, (axes,) = new_figure(4.2)
    ticks: set[int] = set()
    for name, (numbers, value, spread), style in styled(methods):
        if not len(numbers) == len(value) == len(spread):
            lengths = len(numbers), len(value), len(spread)
            raise ValueError(f"{name!r} has {lengths} numbers, values and spreads, expected the same number of each")
        x = numbers.tolist()
        low, high = (value - spread).tolist(), (value + spread).tolist()
        axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        axes.plot(x, value.tolist(), marker="o", markersize=5, linewidth=2, label=name, **style)
        ticks |= {int(n) for n in x}
    if single is not None:
        axes.axhline(single, color=REFERENCE, linestyle=(0, (2, 2)), linewidth=1.6, label="without sampling")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{n}" for n in sorted(ticks)])
    axes.minorticks_off()
    label(axes, x="samples", y=unit)
    legend(figure, axes)
    return figure
