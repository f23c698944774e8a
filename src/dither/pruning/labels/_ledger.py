"""What a label run writes down, and one operator call of it as the rules see it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..._inputs import tensors
from ..noise._noise import LogNormalNoise
from ._shadow import Shadow, Shadows
from ._tags import Slot, Tag, Use
from ._union import CONSTANT, NEUTRAL, Labels, compress, core, owned, pure


class Ledger:
    """What a label run writes down: classes of labels, the tags of tensors, and who writes and reads what.

    Args:
        model: The network; every index of every dimension of its parameters and buffers gets a label.
        by_position: Modules whose grouped convolutions lose the same positions of every group, not whole groups.
    """

    def __init__(self, model: nn.Module, by_position: Collection[str] = ()) -> None:
        self.union = Labels()
        self.tags = WeakTensorKeyDictionary()
        self.slots: dict[Slot, Tensor] = {}
        self.uses: list[Use] = []
        self.sites: dict[str, Tensor] = {}
        self.positions: dict[str, Tensor] = {}
        self.stack: list[str] = []
        self.shadows = Shadows()
        self.noisy = any(isinstance(module, LogNormalNoise) for module in model.modules())
        self.splits: list[tuple[Tensor, list[int], str]] = []
        self.grouped: dict[str, Tensor] = {}
        self.by_position = by_position
        self.asked: dict[str, str] = {}
        self.computed: list[str] = []
        self.unused = {id(p): name for name, p in model.named_parameters()}
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        fresh = iter(
            self.union.new(sum(sum(t.shape) for t in named.values())).split(
                [n for t in named.values() for n in t.shape]
            )
        )
        for name, tensor in named.items():
            fields: list[Tensor] = []
            for dim in range(tensor.ndim):
                labels = self.slots[name, dim] = next(fresh)
                fields.append(labels.view([-1 if d == dim else 1 for d in range(tensor.ndim)]).expand(tensor.shape))
            self.tags[tensor] = Tag(alike(tensor, CONSTANT), tuple(fields))
            self.shadows.fix(tensor)

    @property
    def module(self) -> str:
        """The qualified name of the module that is running."""
        return self.stack[-1] if self.stack else "the network"

    def of(self, tensor: Tensor) -> Tag:
        """The tag of a tensor that is used; what nobody wrote is a constant."""
        tag = self.tags.get(tensor)
        if tag is None:
            return Tag(alike(tensor, CONSTANT))
        if tag.debts:
            for labels, dims, why in tag.debts:
                self.union.together(labels, dims, why)
            tag = self.tags[tensor] = replace(tag, debts=())
        return tag

    def set(self, tensor: Any, labels: Tensor, fields: tuple[Tensor, ...] = ()) -> None:
        if isinstance(tensor, Tensor):
            self.tags[tensor] = Tag(compress(labels.expand(tensor.shape)), fields)

    def labels(self, tensor: Tensor) -> Tensor:
        """The labels of a tensor that is only looked at."""
        tag = self.tags.get(tensor)
        return alike(tensor, CONSTANT) if tag is None else tag.labels

    def uses_of(self, tensor: Tensor) -> None:
        """Remember that a parameter has been used."""
        if isinstance(tensor, nn.Parameter):
            self.unused.pop(id(tensor), None)

    def overwritten(self, tensor: Tensor, before: Tensor, what: str) -> None:
        """An operator has written into a tensor: what shares its memory holds something else now.

        A part of a tensor that is filled with channels keeps its size, so these channels stay.
        """
        after = self.labels(tensor)
        same = after.shape == before.shape and bool(
            (self.union.find(core(after)) == self.union.find(core(before))).all()
        )
        if same and not pure(after, NEUTRAL):
            return
        place = tensor.untyped_storage().data_ptr()
        for other, tag in list(self.tags.items()):
            if other is tensor or other.untyped_storage().data_ptr() != place or not place:
                continue
            for labels in (after, tag.labels) if not same else ():
                self.union.pin(labels, f"{what} writes them into a part of another tensor")
            if not owned(tag.labels):
                self.tags[other] = replace(tag, labels=alike(other, CONSTANT))

    def writes(self, own: Tensor) -> None:
        """Remember that a weight writes its output labels ``own``."""
        self.uses.append(Use(True, own, False, self.module))

    def reads(self, own: Tensor, labels: Tensor, shadow: Shadow | None = None, border: bool = False) -> None:
        """A weight contracts its input labels ``own`` with ``labels``: column i multiplies what carries label i.

        ``shadow`` is that of the columns (`Shadow.columns`); ``border``: some outputs get fewer terms than others.
        """
        roots = self.union.find(labels)
        flat = pure(roots, CONSTANT) or len(torch.unique(roots)) < len(roots)
        self.uses.append(Use(False, own, flat, self.module, shadow, border))
        self.union.unite(own, labels, f'"{self.module}" reads a network input or a constant')

    def settle(self) -> None:
        """Decide what views that split channels left open.

        Channels that were split into several dimensions, (B, g·k) -> (B, g, k), can be removed along one of them only.
        If nothing that came later has chosen, the last one is taken: the same positions of every part.
        """
        for labels, dims, why in self.splits:
            varies = self.union.varies(labels)
            self.union.together(labels, [d for d in dims if varies[d]][:-1], why)


def alike(tensor: Tensor, label: int) -> Tensor:
    """One label for all elements of a tensor."""
    return torch.tensor(label).expand(tensor.shape)


@dataclass(frozen=True)
class Call:
    """One operator call of the label run: ``out = func(*args, **kwargs)``."""

    run: Ledger
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def name(self) -> str:
        """The operator without namespace and overload: ``"add"``."""
        return self.func.overloadpacket.__name__

    @property
    def what(self) -> str:
        """For messages: the operator and the module that called it."""
        return f"{self.name} in {self.run.module}"

    @property
    def x(self) -> Tag:
        """The tag of the first argument."""
        return self.run.of(self.args[0])

    @property
    def dim(self) -> int:
        """The second argument or ``dim=``, as a dimension; 0 by default."""
        return self.arg(1, "dim", 0)

    def arg(self, index: int, name: str, default: Any) -> Any:
        """An argument by position or name; None counts as absent."""
        value = self.args[index] if len(self.args) > index else self.kwargs.get(name)
        return default if value is None else value

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return tensors((self.args, self.kwargs))

    def together(self, labels: Tensor, *dims: int, does: str = "mixes them") -> Tensor:
        """``labels`` united along ``dims``, for this operator combines them."""
        return self.run.union.together(labels, dims, f"{self.what} {does}")

    def pin(self, *given: Tensor) -> None:
        """Forbid to remove what goes in (or the ``given`` tensors); what comes out then belongs to nobody."""
        for tensor in given or self.tensors:
            tag = self.run.of(tensor)
            for labels in (tag.labels, *tag.fields):
                self.run.union.pin(labels, f"{self.what} mixes them")
