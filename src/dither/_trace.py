"""A network as a program of ``torch.export`` with a free batch size, and names for its inputs and outputs."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ._inputs import Inputs, call, tensors


def trace(net: nn.Module, inputs: Inputs, *, dynamic_batch: bool, flat: bool) -> torch.export.ExportedProgram:
    """The program of ``net``, with a dynamic batch for any number of rows of all tensors with as many as the first.

    Args:
        net: The network, in eval mode.
        inputs: With at least two rows: torch makes a constant of a dimension that is one.
        dynamic_batch: Whether the number of rows is free.
        flat: Return nothing but tensors: what stands beside them (None, numbers) does not fit into an ONNX graph.
            Objects that ``torch.export`` does not know become a tuple of their tensors in any case.
    """
    strange = [leaf for leaf in pytree.tree_leaves(call(net, inputs)) if not isinstance(leaf, Tensor)]
    if not flat:
        strange = [leaf for leaf in strange if not isinstance(leaf, (int, float, str, type(None)))]
    traced = _Flat(net) if strange else net
    kwargs: dict[str, Any] = dict(inputs) if isinstance(inputs, Mapping) else {}
    args: tuple[Any, ...] = () if kwargs else (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    shapes: Any = None
    if dynamic_batch:
        found, batch = torch.export.ShapesCollection(), torch.export.Dim("batch")
        rows = next(t.shape[0] for t in tensors(inputs) if t.ndim)
        for t in tensors(inputs):
            if t.ndim and t.shape[0] == rows:
                found[t] = {0: batch}
        shapes = found.dynamic_shapes(traced, args, kwargs)
    with quiet():
        return torch.export.export(traced, args, kwargs, dynamic_shapes=shapes)


def input_names(net: nn.Module, inputs: Inputs) -> list[str]:
    """A name for every tensor among ``inputs``: that of the argument, with the place in it if there are several."""
    if isinstance(inputs, Mapping):
        return list(_named(dict(inputs)))
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    return list(_named(dict(inspect.signature(net.forward).bind(*args).arguments)))


def named_outputs(out: Any) -> dict[str, Tensor]:
    """What a network returned by name: keys and fields; "output" and a number for what has no name."""
    return _named(out, "output")


def _named(tree: Any, root: str = "") -> dict[str, Tensor]:
    """Every tensor with its path, in the order of `tensors`."""
    found: dict[str, Tensor] = {}
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
        if isinstance(leaf, Tensor):
            nameless = not path or isinstance(path[0], pytree.SequenceKey)
            found["_".join([root, *keys] if nameless and root else keys)] = leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)):
            found.update({"_".join([*keys, name]): t for name, t in _named(dict(vars(leaf))).items()})
    return found


class _Flat(nn.Module):
    """A network that returns its tensors only; ``forward`` has its signature, from which torch.export takes names."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

        @functools.wraps(net.forward)
        def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return tuple(tensors(net(*args, **kwargs)))

        self.forward = forward


@contextmanager
def quiet() -> Generator[None]:
    """Without what torch's exporters print and log: deprecations, that torchvision is not there, whole graphs."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
