"""The figure of the paper: distribution functions of the entropy inside and outside the training distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..metrics import ecdf
from ._style import by_name, label, legend, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def entropy_ecdf(
    inside: Tensor | Mapping[str, Tensor],
    outside: Tensor | Mapping[str, Tensor],
    *,
    names: tuple[str, str] = ("known kind", "other kind"),
    score: str = "entropy, nats",
) -> Figure:
    """Share of the examples up to each entropy; on the left data as in training, on the right data of another kind.

    A network that knows what it does not know is certain on the left (its line rises at once) and uncertain on the
    right (its line stays low). Source: Atanov et al. 2018, figures 2 and 3, after Lakshminarayanan et al. 2017.

    Args:
        inside: entropies of data in distribution, (N,), in nats; or several by name of the method.
        outside: entropies of data out of distribution, (M,); the same methods.
        names: what to call the two kinds of data, for example ``("MNIST", "notMNIST")``.
        score: name and unit of the uncertainty, if it is not the entropy.

    Returns:
        A matplotlib figure; `save` writes it.

    Raises:
        ValueError: If the methods inside and outside differ, none is given, or values are empty or NaN.

    Example:
        >>> import torch
        >>> figure = entropy_ecdf({"SBN": torch.tensor([0.0, 0.1])}, {"SBN": torch.tensor([0.9, 1.2])})
        >>> [axes.get_title("left") for axes in figure.axes]
        ['known kind: left is better', 'other kind: right is better']
    """
    methods, others = by_name(inside), by_name(outside)
    if list(methods) != list(others):
        raise ValueError(f"inside has the methods {list(methods)} and outside {list(others)}, expected the same")
    figure, (left, right) = new_figure(3.9, columns=2)
    end = 0.0
    for axes, values in ((left, methods), (right, others)):
        for name, of_method, style in styled(values):
            x, share = ecdf(of_method)
            axes.step(
                [0.0, *x.tolist()], [0.0, *(100 * share).tolist()], where="post", linewidth=2, label=name, **style
            )
            end = max(end, x[-1].item())
    for axes in (left, right):
        axes.set_xlim(0, end if end > 0 else 1)
        axes.set_ylim(0, 102)
        label(axes, x=score)
    label(left, y="examples at or below, %", title=f"{names[0]}: left is better")
    label(right, title=f"{names[1]}: right is better")
    legend(figure, left)
    return figure
