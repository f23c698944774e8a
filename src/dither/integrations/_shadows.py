"""Methods of one object that are shadowed for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


class Shadows:
    """Methods replaced on single objects, as Lightning does for compiled modules, until `lift`.

    Example:
        >>> class Loop:
        ...     def step(self):
        ...         return 1
        >>> loop, shadows = Loop(), Shadows()
        >>> shadows.cast(loop, "step", lambda step: lambda: step() + 1)
        >>> loop.step()
        2
        >>> shadows.lift()
        >>> loop.step()
        1
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def cast(self, owner: object, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put ``make(method)`` in the place of a method; who inspects its signature sees the method's."""
        own = vars(owner)
        before, method = own.get(name), getattr(owner, name)
        own[name] = functools.wraps(method)(make(method))
        self._undo.append(lambda: own.pop(name, None) if before is None else own.__setitem__(name, before))

    def lift(self) -> None:
        """Everything as it was."""
        while self._undo:
            self._undo.pop()()
