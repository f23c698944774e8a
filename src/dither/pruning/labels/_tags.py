"""What a tensor carries in the label run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ._shadow import Shadow

Slot = tuple[str, int]
"""One dimension of one parameter or buffer: (name, dimension)."""


@dataclass(frozen=True)
class Tag:
    """What a tensor carries.

    Attributes:
        labels: The label of each element.
        fields: Of (a view of) a parameter: for each dimension of the parameter, the label of the slice that an element
            lies in. Such a tensor has no other labels.
        debts: (labels, dims, why): labels that go together along these dimensions as soon as anyone uses the tensor. So
            a mean over heads that is computed and thrown away costs nothing.
        changed: Of a parameter: that its values are not its own any more, as in softplus(w). No gate can stand on it.
    """

    labels: Tensor
    fields: tuple[Tensor, ...] = ()
    debts: tuple[tuple[Tensor, tuple[int, ...], str], ...] = ()
    changed: bool = False


@dataclass(frozen=True)
class Use:
    """One contraction: a weight's output labels (it writes them) or input labels (it reads them).

    Attributes:
        writes: Whether the weight writes these labels; else it reads them.
        labels: The weight's own labels along that dimension.
        flat: Of a read: whether the columns are network inputs or several positions of one channel.
        module: The module that was running.
        shadow: Of a read: what each column gets where hand-placed noise drops its channel; None without noise.
        border: Of a read: whether some outputs get fewer terms than others, as beside the zeros of a padding.
    """

    writes: bool
    labels: Tensor
    flat: bool
    module: str
    shadow: Shadow | None = None
    border: bool = False
