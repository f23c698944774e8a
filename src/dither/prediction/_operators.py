"""What a dispatch mode needs to know of an operator and of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# Memory that is not filled: always made anew, because what fills it may depend on the draw.
_FRESH = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}


class Kind(NamedTuple):
    """What an operator is, by its schema."""

    random: bool  # draws from a global generator
    dropout: int | None  # position of an argument that turns the drawing off if it is zero
    fresh: bool  # makes memory that is not filled
    writes: tuple[tuple[int, str], ...]  # position and name of the arguments that it writes into

    def draws(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call draws: attention is tagged as random even without dropout."""
        if not self.random or self.dropout is None:
            return self.random
        at = self.dropout
        return (args[at] if at < len(args) else kwargs.get("dropout_p", 0.0)) != 0


@cache
def kind(func: Any) -> Kind:
    """What is known of an operator."""
    schema = func._schema
    names = [a.name for a in schema.arguments]
    writes = [(i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    random = torch.Tag.nondeterministic_seeded in func.tags
    dropout = names.index("dropout_p") if "dropout_p" in names else None
    return Kind(random, dropout, schema.name in _FRESH, tuple(writes))


def written(writes: tuple[tuple[int, str], ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes into."""
    return leaves([args[i] if i < len(args) else kwargs.get(name) for i, name in writes], Tensor) if writes else []


def storage(t: Tensor) -> int:
    """The memory of a tensor, as a number that is its own as long as it lives."""
    return t.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def leaves(tree: Any, wanted: type[T]) -> list[T]:
    """Everything of one type in nested tuples, lists and dicts, in order: the containers that operators have."""
    found: list[T] = []
    _collect(tree, wanted, found)
    return found


def _collect(tree: Any, wanted: type[T], found: list[T]) -> None:
    if isinstance(tree, wanted):
        found.append(tree)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            _collect(item, wanted, found)
    elif isinstance(tree, dict):
        for item in tree.values():
            _collect(item, wanted, found)


def change(tree: Any, wanted: type[T], fn: Callable[[T], Any]) -> Any:
    """Nested tuples, lists and dicts with ``fn`` applied to everything of one type."""
    if isinstance(tree, wanted):
        return fn(tree)
    if isinstance(tree, (tuple, list)):
        return type(tree)([change(item, wanted, fn) for item in tree])
    if isinstance(tree, dict):
        return {name: change(item, wanted, fn) for name, item in tree.items()}
    return tree
