"""A network as a program of ``torch.export`` with a free batch size, and names for its inputs and outputs."""

from __future__ import annotations

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
    kwargs: dict[str, Any] = dict(inputs) if isinstance(inputs, Mapping) else {}
    args: tuple[Any, ...] = () if kwargs else (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    traced = _readable(net, call(net, inputs), kwargs, flat=flat)
    shapes: Any = None
    if dynamic_batch:
        found, batch = torch.export.ShapesCollection(), torch.export.Dim("batch")
        rows = next(t.shape[0] for t in tensors(inputs) if t.ndim)
        for t in tensors(inputs):
            if t.ndim and t.shape[0] == rows:
                found[t] = {0: batch}
        shapes = found.dynamic_shapes(traced, args, kwargs)
    with quiet():
        try:
            return torch.export.export(traced, args, kwargs, dynamic_shapes=shapes)
        except Exception as error:  # exporters have many; the strict way reads Python, and so follows len(x)
            try:
                return torch.export.export(traced, args, kwargs, dynamic_shapes=shapes, strict=True)
            except Exception:
                raise error from error.__cause__


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


def _readable(net: nn.Module, out: Any, kwargs: Mapping[str, Any], *, flat: bool) -> nn.Module:
    """``net``, or what ``torch.export`` can read and a file can hold in its place."""
    flat = not _fits(out, (Tensor,) if flat else (Tensor, int, float, str, type(None)))
    signature = inspect.signature(net.forward)
    unnamed = bool(kwargs.keys() - signature.parameters.keys())  # they arrive in **kwargs, where names are lost
    if unnamed:
        signature = inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in kwargs])
    return _Wrapped(net, signature, flat=flat) if flat or unnamed else net


def _fits(out: Any, kinds: tuple[type, ...]) -> bool:
    """Whether outputs are of these kinds, in containers that torch can write into a file."""
    leaves, structure = pytree.tree_flatten(out)
    try:
        pytree.treespec_dumps(structure)
    except NotImplementedError:  # a named tuple
        return False
    return all(isinstance(leaf, kinds) for leaf in leaves)


class _Wrapped(nn.Module):
    """A network with a signature, which returns its tensors only if ``flat``."""

    def __init__(self, net: nn.Module, signature: inspect.Signature, *, flat: bool) -> None:
        super().__init__()
        self.net = net
        numbers = (int, float, torch.SymInt, torch.SymFloat)

        def forward(*args: Any, **kwargs: Any) -> Any:
            out = net(*args, **kwargs)
            if not flat:
                return out
            # no numbers for `tensors`: the strict way cannot look into those that depend on the batch
            return tuple(tensors([leaf for leaf in pytree.tree_leaves(out) if not isinstance(leaf, numbers)]))

        forward.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
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
