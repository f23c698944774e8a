"""The shadow of a tensor: what it would hold if all hand-placed noise dropped its channels.

Behind noise a dropped channel is zero. Behind BatchNorm or a bias it is some other number, but still *dead*: it does
not change with the input. So every tensor behind noise gets a shadow of its own shape, zero at first and NaN where the
tensor changes with the input, and every operator that keeps channels apart (`_apart.py`) is executed once more, on the
shadows. Parameters, buffers and constants are their own shadow. What other operators return has none.

This is sound because an operator that keeps channels apart computes an element from elements of its own class of labels
only, and because a class is dropped as a whole. An operand of another class than the result, a gate that was squeezed
to one channel for example, is taken for one that changes with the input.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..._inputs import tensors
from ._apart import BLANK, COMBINING, MOVES, READERS, execute, is_pointwise, keeps_apart, scales, written
from ._union import core

if TYPE_CHECKING:  # a ledger holds shadows
    from ._ledger import Call

ROUNDING = 64  # in units of the last place: what pools and interpolation may add to a constant


@dataclass(frozen=True)
class Shadow:
    """What a tensor would hold if all noise on its way dropped its channels.

    Attributes:
        value: Of the shape of the tensor, NaN where it changes with the input; None where all of it does. A tensor
            that never changes is its own shadow.
        sites: The noise modules on the way of any element.
        common: Those on the way of every element, which a join of unlike parts leaves.
        linear: Whether that way scales: f(cx) = c f(x) for c > 0, so that Eθ can move along it.
        why: What lets it change with the input, for the error message.
    """

    value: Tensor | None
    sites: frozenset[str] = frozenset()
    linear: bool = True
    why: str = ""
    common: frozenset[str] = frozenset()

    def moves(self, noise: Collection[str]) -> bool:
        """Whether Eθ of ``noise`` can move behind it: every element has passed all of it, or there is only one."""
        return self.linear and (self.common.issuperset(noise) or len(noise) == 1)

    def columns(self, dim: int, groups: int = 1) -> Shadow:
        """One number for each index of ``dim``, in float64: what a reader that contracts it gets at every position.

        With ``groups`` one for each position in a group, where all groups get the same.
        """
        if self.value is None or not self.value.numel() or not self.value.is_floating_point():
            return replace(self, value=None)
        rows = self.value.movedim(dim, 0).unflatten(0, (groups, -1)).transpose(0, 1).flatten(1)
        first = rows[:, 0]
        near = ROUNDING * torch.finfo(rows.dtype).eps * first.abs()
        alike = ((rows - first[:, None]).abs() <= near[:, None]).all(1) & first.isfinite()
        uneven = bool((rows.isfinite().all(1) & ~alike).any())
        why = self.why or ("a dropped one is not the same number at every position" if uneven else "")
        return replace(self, value=torch.where(alike, first, torch.nan).double().cpu(), why=why)


class Shadows:
    """The shadow of every tensor of a label run that has one."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def get(self, tensor: Tensor) -> Shadow | None:
        """The shadow of a tensor; None for one that changes with the input and has no noise on its way."""
        return self._known.get(tensor)

    def columns(self, tensor: Tensor, dim: int, groups: int = 1) -> Shadow | None:
        """`Shadow.columns` of a tensor that is read."""
        shadow = self.get(tensor)
        return None if shadow is None else shadow.columns(dim, groups)

    def fix(self, tensor: Tensor) -> None:
        """Remember that a tensor never changes."""
        self._known[tensor] = Shadow(tensor)

    def drop(self, before: Tensor, after: Tensor, site: str) -> None:
        """Remember that the noise ``site`` has multiplied ``before``, which gave ``after``."""
        known = self.get(before)
        known = known if known and known.sites else Shadow(None)
        zeros, sites, common = torch.zeros_like(after), known.sites | {site}, known.common | {site}
        self._known[after] = Shadow(zeros, sites, known.linear, common=common)

    def cast(self, c: Call) -> None:
        """Give the results of an operator call their shadows."""
        given = [self.get(tensor) for tensor in c.tensors]
        touched = [shadow for shadow in given if shadow is not None and shadow.sites]
        random = torch.Tag.nondeterministic_seeded in c.func.tags
        if not random and (c.name in BLANK or (not touched and None not in given)):
            for tensor in tensors(c.out):
                self.fix(tensor)
        elif touched and not random and keeps_apart(c) and (operands := self._operands(c)) is not None:
            linear = scales(c, given)
            for tensor, value in zip(tensors(c.out), execute(c, operands), strict=True):
                self._known[tensor] = _shadow(c, value, touched, linear)
            for tensor in written(c):
                self._share(tensor)
        else:
            for tensor in written(c):
                self._forget(tensor)
            for tensor in tensors(c.out) if touched and c.name not in READERS else ():
                self._known[tensor] = _shadow(c, None, touched, linear=False)

    def _operands(self, c: Call) -> list[Tensor] | None:
        """What stands for each operand: its shadow, NaN where it changes. None where that cannot be said."""
        result, target = c.run.tags.get(tensors(c.out)[0]), written(c)
        found: list[Tensor] = []
        for tensor in c.tensors:
            shadow, own = self.get(tensor), c.run.tags.get(tensor)
            value = tensor if shadow is None or shadow.value is None else shadow.value
            if any(tensor is t for t in target):
                if value is tensor:  # it has no shadow of its own that could be written into
                    return None
            elif shadow is None or shadow.value is None or (shadow.sites and (result is None or own is None)):
                value = _changing(value, torch.tensor(True))
            elif shadow.sites and own is not None and result is not None and _meets(c, own.labels, result.labels):
                classes, theirs = (c.run.union.find(core(tag.labels)) for tag in (own, result))
                value = _changing(value, classes != theirs)
            if value is None:
                return None
            found.append(value)
        return found

    def _forget(self, tensor: Tensor) -> None:
        """Something unknown was written into a tensor, and so into all that share its memory."""
        for other in self._sharing(tensor):
            del self._known[other]

    def _share(self, tensor: Tensor) -> None:
        """What was written into a shadow is in those of its views too, as the views share its memory."""
        new = self._known[tensor]
        for other in self._sharing(tensor):
            old = self._known[other]
            if new.value is None or old.value is None or _place(new.value) != _place(old.value):
                del self._known[other]
            else:
                merged = old.sites | new.sites, old.linear and new.linear, old.why or new.why
                self._known[other] = Shadow(old.value, *merged, common=old.common & new.common)

    def _sharing(self, tensor: Tensor) -> list[Tensor]:
        return [other for other in list(self._known) if _place(other) == _place(tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _meets(c: Call, own: Tensor, result: Tensor) -> bool:
    """Whether the elements of an operand lie beside those of the result."""
    return is_pointwise(c) or (c.name in COMBINING and own.shape == result.shape)


def _changing(value: Tensor, where: Tensor) -> Tensor | None:
    """NaN ``where`` it changes; only floating-point numbers have one."""
    if not bool(where.any()):
        return value
    return value.masked_fill(where.to(value.device), torch.nan) if value.is_floating_point() else None


def _shadow(c: Call, value: Tensor | None, touched: list[Shadow], linear: bool) -> Shadow:
    """A new shadow: behind the noise of all operands, and with the first reason to change."""
    why = next((shadow.why for shadow in touched if shadow.why), "")
    if c.name not in MOVES and (value is None or (value.is_floating_point() and bool(value.isnan().any()))):
        why = why or f"{c.what} lets a dropped one change with the input"
    sites = frozenset[str]().union(*(shadow.sites for shadow in touched))
    joins = c.name in ("cat", "stack") and len(touched) < len(c.tensors)
    common = frozenset[str]() if joins else touched[0].common.intersection(*(shadow.common for shadow in touched))
    return Shadow(value, sites, linear, why, common)
