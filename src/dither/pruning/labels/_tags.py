"""What a tensor carries in the label run, what the run remembers, and one operator call of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..._inputs import tensors

if TYPE_CHECKING:
    from ._run import Run

Slot = tuple[str, int]
"""One dimension of one parameter or buffer: (name, dimension)."""


@dataclass(frozen=True)
class Dead:
    """What becomes exactly zero when hand-placed noise drops a channel.

    Attributes:
        sites: The noise modules that must all drop the channel; empty where a dropped channel is not zero.
        linear: Whether the way from the noise scales: f(cx) = c f(x) for c > 0, so that Eθ can move along it.
        why: Where ``sites`` is empty: what ended it, for the error message.
    """

    sites: frozenset[str] = frozenset()
    linear: bool = True
    why: str = "it is not multiplied by noise"


ALIVE = Dead()


@dataclass(frozen=True)
class Tag:
    """What a tensor carries.

    Attributes:
        labels: The label of each element.
        fields: Of (a view of) a parameter: for each dimension of the parameter, the label of the slice that an element
            lies in. Such a tensor has no other labels.
        dead: Whether the elements are zero where noise drops their channel.
    """

    labels: Tensor
    fields: tuple[Tensor, ...] = ()
    dead: Dead = ALIVE


@dataclass(frozen=True)
class Use:
    """One contraction: a weight's output labels (it writes them) or input labels (it reads them).

    Attributes:
        writes: Whether the weight writes these labels; else it reads them.
        labels: The weight's own labels along that dimension.
        dead: Of a read: whether what is read is zero where noise drops a channel.
        flat: Of a read: whether the columns are network inputs or several positions of one channel.
        module: The module that was running.
    """

    writes: bool
    labels: Tensor
    dead: Dead
    flat: bool
    module: str


@dataclass(frozen=True)
class Call:
    """One operator call of the label run: ``out = func(*args, **kwargs)``."""

    run: Run
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
