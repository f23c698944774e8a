"""What does not depend on the draw, computed once.

The first pass over a batch is recorded operator by operator. In the following passes the same Python code runs, and an
operator that did not depend on the draw is not executed: it returns what it returned before or, if only such operators
read that, memory of the right shape that nobody looks at. Nothing is assumed about the network's code: an operator is
skipped only if it is the next one that was recorded and has the same arguments, and memory that was not computed is
never read. Where that fails, `Diverged` is raised, and the pass has to be run plainly. So the answer is that of the
plain pass, bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ._operators import change, kind, leaves, storage, written

# Tensors made outside of operators (``torch.tensor(2.0)`` in a forward pass) are compared by value up to this size.
_SMALL = 1024


class Diverged(Exception):
    """The pass is not the one that was recorded, or needs what was not kept."""


class Value:
    """A tensor that does not depend on the draw. It is kept if something that does depend on it reads it."""

    __slots__ = ("kept", "like")

    def __init__(self, t: Tensor) -> None:
        self.like = tuple(t.shape), t.stride(), t.dtype, t.device
        self.kept: Tensor | None = None


class _Outside:
    """An argument that no operator of the pass made: a parameter, the input, a constant."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.version = -1 if tensor.is_inference() else tensor._version  # pyright: ignore[reportPrivateUsage]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Outside):
            return False
        a, b = self.tensor, other.tensor
        if a is b:
            return self.version == other.version
        alike = a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and a.device == b.device
        return alike and a.numel() <= _SMALL and torch.equal(a, b)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class Record:
    """One pass: its steps that need no repetition, and what it tells about the network.

    Attributes:
        steps: (operator, arguments, outputs) of all that does not depend on the draw, tensors replaced by `Value`.
        reason: Why the steps cannot be replayed; empty if they can.
        depends: Whether anything depends on the draw.
        random: How many operators drew from a global generator.
        casts: How many operators made a copy of a parameter in another precision.
        largest: Bytes of the largest tensor that was made.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[Any, Any, Any]] = []
        self.reason = ""
        self.depends = False
        self.random = 0
        self.casts = 0
        self.largest = 0


class _Known:
    """Values by the tensors that hold them now. A tensor is known by its id as long as it lives."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[weakref.ref[Tensor], Value]] = {}

    def get(self, t: Tensor) -> Value | None:
        found = self._found.get(id(t))
        return found[1] if found is not None and found[0]() is t else None

    def put(self, t: Tensor, value: Value) -> None:
        self._found[id(t)] = weakref.ref(t), value

    def token(self, t: Tensor) -> Value | _Outside:
        return self.get(t) or _Outside(t)


class _Memory:
    """One storage: whether it depends on the draw, was made in the pass, and was read by what depends on the draw."""

    __slots__ = ("inside", "marked", "read")

    def __init__(self, marked: bool, inside: bool) -> None:
        self.marked, self.inside, self.read = marked, inside, False


class Recording(TorchDispatchMode):
    """Records a pass. What depends on the draw is marked: the draws, random numbers, what is computed from these.

    Args:
        draws: Tensors that differ between samples.
    """

    def __init__(self, draws: Iterable[Tensor]) -> None:
        super().__init__()
        self.record = Record()
        self._known = _Known()
        self._memory = {storage(t): _Memory(True, False) for t in draws}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.record.reason:
            return func(*args, **kwargs)
        known = kind(func)
        random = known.draws(args, kwargs)
        inputs = leaves((args, kwargs), Tensor)
        memories = [self._memory.get(storage(t)) for t in inputs]
        marked = random or known.fresh or any(m is not None and m.marked for m in memories)
        targets = written(known.writes, args, kwargs)
        if marked:
            self._read(inputs)
            self._check_marked(targets)
        else:
            self._check_unmarked(targets)
        key = None if marked else change((args, kwargs), Tensor, self._known.token)
        out = func(*args, **kwargs)
        self._made(leaves(out, Tensor), {storage(t) for t in inputs}, marked)
        self.record.random += random
        self.record.casts += func is torch.ops.aten._to_copy.default and any(t.requires_grad for t in inputs)
        self.record.depends |= marked and not known.fresh
        if not marked:
            self.record.steps.append((func, key, change(out, Tensor, self._value)))
        return out

    def keep(self, out: Any) -> None:
        """The pass is over and this is its result: keep what of it does not depend on the draw."""
        self._read(leaves(out, Tensor))

    def _read(self, inputs: list[Tensor]) -> None:
        for t in inputs:
            value, memory = self._known.get(t), self._memory.get(storage(t))
            if value is not None:
                value.kept = t
            if memory is not None:
                memory.read = True

    def _check_marked(self, targets: list[Tensor]) -> None:
        for t in targets:
            memory = self._memory.setdefault(storage(t), _Memory(True, False))
            if not memory.marked:
                self.record.reason = "an operator that depends on the draw writes into a tensor that does not"

    def _check_unmarked(self, targets: list[Tensor]) -> None:
        for t in targets:
            memory = self._memory.get(storage(t))
            if memory is None or not memory.inside:
                self.record.reason = "an operator writes into a parameter, a buffer or the input"
            elif memory.read:
                self.record.reason = "a tensor changes after an operator that depends on the draw has read it"

    def _made(self, outputs: list[Tensor], known: set[int], marked: bool) -> None:
        for t in outputs:
            self.record.largest = max(self.record.largest, t.numel() * t.element_size())
            if storage(t) not in known:
                self._memory[storage(t)] = _Memory(marked, True)

    def _value(self, t: Tensor) -> Value:
        value = self._known.get(t)  # an operator that works in place returns its argument
        if value is None:
            value = Value(t)
            self._known.put(t, value)
        return value


class Replaying(TorchDispatchMode):
    """Runs a pass again with what its record has kept.

    Raises:
        Diverged: If the pass turns out to be another one.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._steps = iter(record.steps)
        self._step = next(self._steps, None)
        self._known = _Known()
        self._alive: dict[int, weakref.ref[Tensor]] = {}
        values = {id(v): v for step in record.steps for v in leaves(step[2], Value)}
        self._kept = {storage(v.kept) for v in values.values() if v.kept is not None}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        step = self._step
        if step is not None and step[0] is func and step[1] == change((args, kwargs), Tensor, self._known.token):
            self._step = next(self._steps, None)
            return change(step[2], Value, self._restore)
        inputs = leaves((args, kwargs), Tensor)
        self.check(inputs)
        if any(storage(t) in self._kept for t in written(kind(func).writes, args, kwargs)):
            raise Diverged(f"{func} writes into what is kept")
        return func(*args, **kwargs)

    def check(self, tensors: list[Tensor]) -> None:
        """Raise if one of them was not computed.

        Raises:
            Diverged: If so.
        """
        for t in tensors:
            value = self._known.get(t)
            if value is not None and value.kept is None:
                raise Diverged("something reads what was not computed")

    def _restore(self, value: Value) -> Tensor:
        alive = self._alive.get(id(value))
        tensor = alive() if alive is not None else None
        if tensor is None:
            if value.kept is not None:
                tensor = value.kept.detach()  # a new tensor on the same memory: a view may be returned only once
            else:
                size, stride, dtype, device = value.like
                tensor = torch.empty_strided(size, stride, dtype=dtype, device=device)
            self._alive[id(value)] = weakref.ref(tensor)
            self._known.put(tensor, value)
        return tensor
