"""Passes of one network with different draws, in which what does not depend on the draw is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._inputs import tensors


class Once(TorchFunctionMode):
    """A call of a torch function with the very same arguments as in the first pass gives the result of then.

    The same means the same objects, tensors unchanged in between. So all that is computed from the input and the
    parameters alone is taken over, and whatever a draw has touched is computed: its tensors are new in each pass. A
    result that was written into afterwards is not taken over. While a graph is traced this shares its nodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pass = 0
        self._known: dict[Any, tuple[Any, Any, list[int]]] = {}  # arguments (their ids stay theirs), result, versions
        self._used: set[Any] = set()
        self._counts: dict[Any, int] = {}  # of equal calls in this pass: each has a result of its own

    def begin(self) -> None:
        """The next pass begins."""
        self._pass += 1
        self._counts.clear()
        if self._pass == 3:  # what the second pass did not need depends on the draw
            self._known = {key: self._known[key] for key in self._used}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            call = (func, _identity((args, kwargs)))
            count = self._counts[call] = self._counts.get(call, 0) + 1
        except TypeError:  # an argument that has no hash
            return func(*args, **kwargs)
        key = (call, count)
        if self._pass > 1 and key in self._known:
            _, result, versions = self._known[key]
            if _versions(result) == versions:
                self._used.add(key)
                return result
        before = _versions((args, kwargs))
        result = func(*args, **kwargs)
        found = tensors(result)
        if self._pass == 1 and found and not any(t.is_inference() for t in found):
            if before == _versions((args, kwargs)):  # it wrote into none of them
                self._known[key] = (args, kwargs), result, _versions(result)
        return result


def _versions(tree: Any) -> list[int]:
    return [-1 if t.is_inference() else t._version for t in tensors(tree)]  # pyright: ignore[reportPrivateUsage]


def _identity(value: Any) -> Any:
    """What makes two arguments the same: tensors by object and version, everything else by type and value."""
    if isinstance(value, Tensor):
        return id(value), *_versions(value)
    if isinstance(value, (tuple, list)):
        return type(value), *map(_identity, value)
    if isinstance(value, dict):
        return tuple((name, _identity(entry)) for name, entry in value.items())
    if isinstance(value, slice):
        return slice, _identity((value.start, value.stop, value.step))
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return type(value), str(value)  # the expression in the sizes of the inputs
    return type(value), value
