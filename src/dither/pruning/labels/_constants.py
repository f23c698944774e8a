"""What readers get from channels that hand-placed noise has dropped: nothing, or a constant that must not be lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._ledger import Ledger
from ._tags import Slot, Use

CLOSE = 1e-6  # relative: two calls of one layer read the same constants


@dataclass(frozen=True, eq=False)
class Constant:
    """Dropped channels of one space that a reader gets as constants, not as zeros.

    Attributes:
        slot: The weight that reads, and its input dimension.
        module: The module that was running.
        values: For each index of that dimension what it gets, in float64; 0 where it reads another space.
        border: Whether some outputs get fewer terms than others, as beside the zeros of a padding.
    """

    slot: Slot
    module: str
    values: Tensor
    border: bool


def constants(
    run: Ledger, reads: Mapping[Slot, Sequence[Use]], channel: Tensor
) -> tuple[tuple[Constant, ...], str | None]:
    """The constants of one space behind noise, or why a dropped channel is none.

    Args:
        run: What the label run wrote down.
        reads: Every reader of the space with its calls.
        channel: For each label its channel in the space; -1 for others.

    Returns:
        One entry for each module that reads something else than zeros, and the reason to refuse the space, if any.
    """
    found: dict[tuple[Slot, str], Constant] = {}
    for slot, uses in reads.items():
        values = [_values(use, channel[run.union.find(use.labels)] >= 0) for use in uses]
        for use, got in zip(uses, values, strict=True):
            if got is None:
                why = (use.shadow and use.shadow.why) or "no noise stands before it"
                return (), f'"{use.module}" reads them, but {why}'
        known = [got for got in values if got is not None]
        if not any(bool(got.any()) for got in known):
            continue
        if not all(torch.equal(use.labels, run.slots[slot]) for use in uses):
            return (), f'"{uses[0].module}" reads them as constants with a part of a weight'
        if not all(torch.allclose(got, known[0], rtol=CLOSE, atol=0) for got in known):
            return (), f'"{uses[0].module}" reads them as other constants in each call'
        border = any(use.border for use in uses)
        found |= {(slot, use.module): Constant(slot, use.module, known[0], border) for use in uses}
    return tuple(found.values()), None


def _values(use: Use, own: Tensor) -> Tensor | None:
    """What the columns ``own`` get, 0 for the others; None if one of them changes with the input."""
    if use.shadow is None or use.shadow.value is None or use.shadow.value.shape != own.shape:
        return None
    values = torch.where(own, use.shadow.value, 0)
    return None if bool(values.isnan().any()) else values
