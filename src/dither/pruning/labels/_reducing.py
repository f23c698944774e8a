"""Reductions, pools, norms and softmax: what is combined along a dimension can only go as a whole."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..._inputs import tensors
from ._ledger import Call, alike
from ._meeting import element_labels, pointwise
from ._moving import couple, stretch
from ._union import CONSTANT


def pool(c: Call) -> None:
    """Pools, interpolation and padding over the last 1, 2 or 3 dimensions."""
    over = next((n for n in (1, 2, 3) if f"{n}d" in c.name), c.args[0].ndim - 2)
    labels = c.together(c.x.labels, *range(-over, 0))
    for tensor in tensors(c.out):
        c.run.set(tensor, stretch(labels, tensor.shape))


def reduce(c: Call) -> None:
    """mean, sum, amax ... over some dimensions, kept or not. What it mixes goes together once the result is used."""
    if len(c.tensors) > 1:
        return pointwise(c)  # max(x, y)
    ndim, position = c.args[0].ndim, 2 if c.name in ("linalg_vector_norm", "norm") else 1
    given = c.arg(position, "dim", ())
    given = () if isinstance(given, bool) else (given,) if isinstance(given, int) else given  # var(x, unbiased)
    over = sorted({d % ndim for d in given or range(ndim)}, reverse=True)
    debts = ((c.x.labels, tuple(over), f"{c.what} mixes them"),) if over else ()
    for tensor in tensors(c.out):
        labels = c.x.labels
        for d in over:
            labels = labels.select(d, 0) if tensor.ndim < ndim else labels.narrow(d, 0, 1)
        c.run.set(tensor, labels)
        c.run.tags[tensor] = replace(c.run.tags[tensor], debts=debts)
    return None


def along(c: Call) -> None:
    """softmax, cumsum, sort ... along one dimension."""
    dim = c.arg(2 if c.name in ("topk", "kthvalue") else 1, "dim", -1)
    if type(dim) is not int or not c.args[0].ndim:
        return c.pin(c.args[0])
    labels = c.together(c.x.labels, dim)
    for tensor in tensors(c.out):
        c.run.set(tensor, stretch(labels, tensor.shape))
    return None


def glu(c: Call) -> None:
    """A · sigmoid(b) of the two halves."""
    dim = c.arg(1, "dim", -1)
    size = c.out.shape[dim]
    couple(c, dim, [size, size])
    c.run.set(c.out, c.x.labels.narrow(dim, 0, size))


def batch_norm(c: Call) -> None:
    """Elementwise, along dimension 1, with weight, bias and both running statistics."""
    result = tensors(c.out)[0]
    labels = c.run.union.along(c.x.labels, 1, f"{c.what} normalises several positions as one")
    for tensor in c.args[1:5]:
        if isinstance(tensor, Tensor):
            _unite_with(c, labels, tensor)
    shape = (1, -1) + (1,) * (result.ndim - 2)
    c.run.set(result, labels.view(shape).expand(result.shape))


def layer_norm(c: Call) -> None:
    """LayerNorm, RMSNorm: what is normalised together stays together, and so do its weight and bias."""
    over = range(-len(c.args[1]), 0)
    labels = c.together(c.x.labels, *over, does="normalises over them")
    _normalised(c, labels, "LayerNorm")


def group_norm(c: Call) -> None:
    """GroupNorm: whole groups stay together."""
    groups = c.args[6]
    channels = c.run.union.along(c.x.labels, 1, f"{c.what} normalises over several positions")
    labels = c.together(channels.view(groups, -1), 1, does="normalises over the channels of a group").flatten()
    for tensor in c.args[1:3]:
        if isinstance(tensor, Tensor):
            _unite_with(c, labels, tensor)
    shape = (1, -1) + (1,) * (c.args[0].ndim - 2)
    _normalised(c, labels.view(shape).expand(c.args[0].shape), "GroupNorm")


def _unite_with(c: Call, labels: Tensor, parameter: Tensor) -> None:
    own, _ = element_labels(c.run, c.run.of(parameter))
    c.run.union.unite(labels, own, f"{c.what} normalises a network input")


def _normalised(c: Call, labels: Tensor, name: str) -> None:
    """Label the result; mean and scale, which come with it, are one for each channel or for all."""
    result, *statistics = tensors(c.out)
    c.run.set(result, labels)
    for tensor in statistics:  # used by nobody but the backward pass; who does use them gets all channels pinned
        c.run.set(tensor, alike(tensor, CONSTANT))
        debts = ((c.x.labels, tuple(range(c.x.labels.ndim)), f"{c.what} mixes them"),)
        c.run.tags[tensor] = replace(c.run.tags[tensor], debts=debts)
