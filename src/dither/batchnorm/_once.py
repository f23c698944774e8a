"""Passes of one network with different draws, in which what does not depend on the draw is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._inputs import tensors


def in_turn(run: Callable[[dict[str, Tensor]], Tensor], draws: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """``run(draw)`` for one draw after the other; what does not depend on the draw is computed once."""
    if not torch.compiler.is_dynamo_compiling():  # it cannot trace `Once`, and shares equal nodes by itself
        once, out = Once(list(draws[0].values())), list[Tensor]()
        try:
            for draw in draws:
                with once.next_pass():
                    out.append(run(draw))
            return out
        except StaleError:
            pass
    return [run(draw) for draw in draws]


class StaleError(Exception):
    """A pass needs values that an earlier one has overwritten: it is another pass than the first one was."""


class _Done(NamedTuple):
    args: Any  # kept so that their ids stay theirs
    result: Any
    versions: dict[int, int]  # of the tensors that were made or written into, right after the call


class Once(TorchFunctionMode):
    """A call of a torch function with the very same arguments as in the first pass gives the result of then.

    The same means the same objects, and tensors with the same number of writes behind them. So all that is computed
    from the input and the parameters alone is taken over, writes (``relu_``) included, and whatever a draw has touched
    is computed: its tensors are new in each pass. While a graph is traced this shares its nodes.

    A tensor that is taken over has its last values. If in the first pass a call that depends on the draw reads earlier
    ones, or writes, nothing is taken over. If such a call turns up in a later pass only, the network branches on
    values: that raises `StaleError`.

    Args:
        drawn: The tensors of the first pass that are drawn.
    """

    def __init__(self, drawn: Sequence[Tensor]) -> None:
        super().__init__()
        self._pass = 0
        self._drawn = {id(t): t for t in drawn}  # and, in the first pass, all that depends on them
        self._read: list[tuple[Tensor, int]] = []  # what does not, where it meets what does, and its version then
        self._done: dict[Any, _Done] = {}
        self._counts: dict[Any, int] = {}  # of equal calls in this pass: each has a result of its own
        self._versions: dict[int, int] = {}  # what the tensors that were taken over would have in this pass

    def next_pass(self) -> Once:
        """The next pass begins; ``with once.next_pass(): ...``."""
        self._pass += 1
        self._counts.clear()
        self._versions.clear()
        if self._pass == 2:
            if any(_version(t) != version for t, version in self._read):
                self._done.clear()
            self._drawn.clear()
            self._read.clear()
        return self

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        key = self._key(func, args, kwargs)
        if self._pass > 1 and key in self._done:
            done = self._done[key]
            self._versions.update(done.versions)
            return done.result
        given = tensors((args, kwargs))
        if any(self._version(t) != _version(t) for t in given):
            raise StaleError
        before = [(t, _version(t)) for t in given]
        result = func(*args, **kwargs)
        if self._pass == 1:
            self._note(key, args, kwargs, result, before)
        return result

    def _note(self, key: Any, args: Any, kwargs: Any, result: Any, before: list[tuple[Tensor, int]]) -> None:
        """A call of the first pass."""
        made = [*tensors(result), *(t for t, version in before if _version(t) != version)]
        if any(id(t) in self._drawn for t, _ in before):
            self._read += [(t, version) for t, version in before if id(t) not in self._drawn]
            self._drawn.update((id(t), t) for t in made)
        elif key is not None and made and not any(t.is_inference() for t in made):
            self._done[key] = _Done((args, kwargs), result, {id(_base(t)): _version(t) for t in made})

    def _key(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The call and how many like it there were; None where an argument has no hash."""
        try:
            call = func, self._identity((args, kwargs))
            self._counts[call] = self._counts.get(call, 0) + 1
        except TypeError:
            return None
        return call, self._counts[call]

    def _identity(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return id(value), self._version(value)
        if isinstance(value, (tuple, list)):
            return type(value), *map(self._identity, value)
        if isinstance(value, dict):
            return tuple((name, self._identity(entry)) for name, entry in value.items())
        if isinstance(value, slice):
            return slice, self._identity((value.start, value.stop, value.step))
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return type(value), str(value)  # the expression in the sizes of the inputs
        return type(value), value

    def _version(self, tensor: Tensor) -> int:
        return self._versions.get(id(_base(tensor)), _version(tensor))


def _base(tensor: Tensor) -> Tensor:
    """Views count writes together with what they are views of."""
    base = tensor._base  # pyright: ignore[reportPrivateUsage]
    return tensor if base is None else base


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]
