"""Example inputs, and how a network is run on them.

Inputs are one tensor, a tuple of positional arguments or a dict of keyword arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]

# What data sets call the one input and the target of a classifier, most usual first.
_INPUT_NAMES = ("image", "images", "img", "pixel_values", "x", "input", "inputs", "data")
_TARGET_NAMES = ("label", "labels", "target", "targets", "y")


def call(net: nn.Module, inputs: Inputs) -> Any:
    """``net(x)``, ``net(*inputs)`` or ``net(**inputs)``, by the type of ``inputs``."""
    if isinstance(inputs, Tensor):
        return net(inputs)
    if isinstance(inputs, Mapping):
        return net(**inputs)
    return net(*inputs)


@contextmanager
def evaluating(*nets: nn.Module) -> Generator[None]:
    """Eval mode, no gradients, attention as its operators instead of one fused kernel; everything comes back after."""
    modes = {module: module.training for net in nets for module in net.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for net in nets:
            net.eval()
        # Not in inference mode, if the caller is: operators would reach dispatch modes whole (composite ones).
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode


def map_tensors(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """``tree`` with ``fn`` applied to every tensor in it; containers and everything else stay."""
    return pytree.tree_map(lambda leaf: fn(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor in nested containers, in order; dataclasses and objects with a ``__dict__`` of tensors count too."""
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)):
            found += tensors(dict(vars(leaf)))
    return found


def outputs(tree: Any) -> list[Tensor]:
    """Every tensor that a network returns as an answer; the cache of a decoder is its memory, not an answer."""

    def remembers(leaf: Any) -> bool:
        return any(base.__name__.endswith("Cache") for base in type(leaf).__mro__)

    leaves = pytree.tree_leaves(tree, is_leaf=remembers)
    return tensors([leaf for leaf in leaves if not remembers(leaf)])


def varied(inputs: Inputs) -> Any:
    """``inputs`` with noise in place of constant float tensors; the global generator is not touched.

    Two networks that are compared on ``torch.zeros(1, 8)`` would be told apart by their biases only.
    """
    generator = torch.Generator().manual_seed(0)

    def fill(t: Tensor) -> Tensor:
        if not t.is_floating_point() or t.numel() < 2 or not bool((t == t.flatten()[0]).all()):
            return t
        return torch.randn(t.shape, generator=generator).to(t)

    return map_tensors(fill, inputs)


def with_batch(inputs: Inputs, size: int) -> Any:
    """``inputs`` with every tensor repeated (or cut) along dimension 0 to ``size`` rows.

    Scalars and tensors whose first dimension is not that of the first tensor are left alone.
    """
    found = [t for t in tensors(inputs) if t.ndim]
    rows = found[0].shape[0] if found else 0

    def resize(t: Tensor) -> Tensor:
        if not t.ndim or t.shape[0] != rows or not rows:
            return t
        return t[torch.arange(size, device=t.device) % rows]

    return map_tensors(resize, inputs)


def split_batch(net: nn.Module, batch: Any) -> tuple[Inputs, Tensor | None]:
    """What a loader yields, as the inputs of ``net`` and the target, if there is one.

    A tensor is the input. Of a tuple or list, the first element is the input and the second the target. Of a mapping,
    the entries that are named like parameters of ``net.forward`` are keyword arguments, or, if there is none, one entry
    with a usual name ("image", "x", ...) is the input; the target is called "label", "target" or "y".

    Raises:
        ValueError: If no input can be told from the batch.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        return _split_mapping(net, batch)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        target = batch[1] if len(batch) > 1 and isinstance(batch[1], Tensor) else None
        if isinstance(batch[0], (Tensor, Mapping)):
            return batch[0], target
        if isinstance(batch[0], Sequence) and tensors(batch[0]):
            return batch[0], target
    raise ValueError(
        f"the loader yields {_described(batch)}; expected a tensor, a tuple whose first element is the input, "
        "or a dict with the inputs by name"
    )


def _split_mapping(net: nn.Module, batch: Mapping[str, Any]) -> tuple[Inputs, Tensor | None]:
    found = next((batch[name] for name in _TARGET_NAMES if name in batch), None)
    target = found if isinstance(found, Tensor) else None
    parameters = inspect.signature(net.forward).parameters
    named = {k: v for k, v in batch.items() if k in parameters and k not in _TARGET_NAMES}
    if named:
        return named, target
    for name in _INPUT_NAMES:
        if name in batch and isinstance(batch[name], Tensor):
            return batch[name], target
    raise ValueError(
        f"the loader yields a dict with {', '.join(map(repr, batch))}; expected names of parameters of "
        f"{type(net).__name__}.forward ({', '.join(parameters)}) or one of {', '.join(_INPUT_NAMES)}"
    )


def _described(batch: Any) -> str:
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {', '.join(type(item).__name__ for item in batch) or 'nothing'}"
    return f"a {type(batch).__name__}"
