"""Example inputs, and how a network is run on them.

Inputs are one tensor, a tuple of positional arguments or a dict of keyword arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


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
        with torch.no_grad():
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
