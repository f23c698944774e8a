"""What a label run writes down, and one operator call of it as the rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..._inputs import tensors
from ._dead import ALIVE, Dead
from ._tags import Slot, Tag, Use
from ._union import Labels, compress


class Ledger:
    """What a label run writes down: classes of labels, the tags of tensors, and who writes and reads what."""

    def __init__(self, model: nn.Module) -> None:
        self.union = Labels()
        self.tags = WeakTensorKeyDictionary()
        self.slots: dict[Slot, Tensor] = {}
        self.uses: list[Use] = []
        self.sites: dict[str, Tensor] = {}
        self.positions: dict[str, Tensor] = {}
        self.stack: list[str] = []
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor in self.tags:
                continue
            fields: list[Tensor] = []
            for dim, size in enumerate(tensor.shape):
                labels = self.slots[name, dim] = self.union.new(size)
                fields.append(labels.view([-1 if d == dim else 1 for d in range(tensor.ndim)]).expand(tensor.shape))
            self.tags[tensor] = Tag(self.zeros(tensor), tuple(fields))

    @staticmethod
    def zeros(tensor: Tensor) -> Tensor:
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape)

    @property
    def module(self) -> str:
        """The qualified name of the module that is running."""
        return self.stack[-1] if self.stack else "the network"

    def of(self, tensor: Tensor) -> Tag:
        """The tag of a tensor; what nobody wrote carries label 0."""
        tag = self.tags.get(tensor)
        return Tag(self.zeros(tensor)) if tag is None else tag

    def set(self, tensor: Any, labels: Tensor, fields: tuple[Tensor, ...] = (), dead: Dead = ALIVE) -> None:
        if isinstance(tensor, Tensor):
            self.tags[tensor] = Tag(compress(labels.expand(tensor.shape)), fields, dead)

    def writes(self, own: Tensor) -> None:
        """Remember that a weight writes its output labels ``own``."""
        self.uses.append(Use(True, own, ALIVE, False, self.module))

    def reads(self, own: Tensor, labels: Tensor, dead: Dead) -> None:
        """A weight contracts its input labels ``own`` with ``labels``: column i multiplies what carries label i."""
        roots = self.union.find(labels)
        flat = bool((roots == 0).all()) or len(torch.unique(roots)) < len(roots)
        self.uses.append(Use(False, own, dead, flat, self.module))
        self.union.unite(own, labels, f'"{self.module}" reads a network input or a constant')


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

    def pin(self, *given: Tensor) -> None:
        """Forbid to remove what goes in (or the ``given`` tensors); what comes out then belongs to nobody."""
        for tensor in given or tensors((self.args, self.kwargs)):
            tag = self.run.of(tensor)
            for labels in (tag.labels, *tag.fields):
                self.run.union.pin(labels, f"{self.what} mixes them")
