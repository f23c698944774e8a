"""Convolutions and matrix products: they read the labels along the contracted dimension and write new ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._inputs import tensors
from ._ledger import Call
from ._meeting import element_labels, meet
from ._shadow import Shadow
from ._tags import Tag
from ._union import CONSTANT, core, owned


def weight_labels(weight: Tag, dim: int) -> Tensor | None:
    """The labels of (a view of) a parameter along ``dim``, where one of its dimensions lies there and only there.

    A dimension of size 1 can lose nothing: it is a constant.
    """
    if not weight.fields or weight.changed:
        return None
    if weight.labels.shape[dim] == 1:
        return torch.tensor([CONSTANT])
    live = [small for f in weight.fields if (small := core(f)).shape[dim] > 1]
    if len(live) != 1 or live[0].numel() != live[0].shape[dim]:
        return None
    return live[0].flatten()


def contract(
    c: Call, x: Tag, weight: Tag, dims: tuple[int, int, int], shadow: Shadow | None = None, border: bool = False
) -> Tensor | None:
    """Contract a dimension of ``x`` with the inner dimension of a weight; the labels of its outer dimension.

    ``shadow`` and ``border`` are what `Ledger.reads` wants to know.
    """
    dim, inner, outer = dims
    reads, writes = weight_labels(weight, inner), weight_labels(weight, outer)
    if reads is None or writes is None:
        for labels in (x.labels, *weight.fields):
            c.run.union.pin(labels, f"{c.what} multiplies them with something that is no plain weight")
        c.run.computed.append(c.run.module)
        return None
    labels = c.run.union.along(x.labels, dim, f"{c.what} reads them at several positions")
    c.run.reads(reads, labels, shadow, border)
    c.run.writes(writes)
    return writes


def finish(c: Call, writes: Tensor, dim: int, bias: Tensor | None) -> None:
    """Label the result: ``writes`` along ``dim``, united with the labels of the bias."""
    shape = [1] * c.out.ndim
    shape[dim] = -1
    labels = writes.view(shape).expand(c.out.shape)
    if bias is not None:
        own = c.run.of(bias)
        if bias.ndim == 1 and dim != -2:  # along the channels; those of a convolution are not the last dimension
            c.run.union.unite(writes, element_labels(c.run, own)[0], f"{c.what} adds a constant")
        else:
            labels = meet(c.run, [Tag(labels), own], c.out.shape, c.what, [None, bias])
    c.run.set(c.out, labels)


def _product(c: Call, value: Tensor, weight: Tag, dims: tuple[int, int, int], at: int, bias: Tensor | None) -> None:
    """Times a weight; dims: that of the value, inner and outer of the weight; the outer one is ``at`` in the result."""
    x = c.run.of(value)
    varies = c.run.union.varies(x.labels)
    if varies[dims[0]] or not any(varies):
        writes = contract(c, x, weight, dims, c.run.shadows.columns(value, dims[0]))
        return None if writes is None else finish(c, writes, at, bias)
    if c.run.union.free(x.labels):  # a layer over tokens: channels pass through it, and it cannot lose tokens
        tags = [Tag(x.labels.narrow(dims[0], 0, 1).expand(c.out.shape))] + (
            [c.run.of(bias)] if bias is not None else []
        )
        return c.run.set(c.out, meet(c.run, tags, c.out.shape, c.what))
    constant = Tag(torch.tensor(CONSTANT).expand(x.labels.shape))
    writes = contract(c, constant, weight, dims)  # the channels stay anyway: its units may go
    return None if writes is None else finish(c, writes, at, bias)


def linear(c: Call) -> None:
    _product(c, c.args[0], c.run.of(c.args[1]), (-1, 1, 0), -1, c.arg(2, "bias", None))


def matmul(c: Call) -> None:
    """X @ W or W @ x, with or without a bias, in any number of dimensions, or the product of two activations."""
    biased = c.name in ("addmm", "baddbmm")
    bias: Tensor | None = c.args[0] if biased else None
    a, b = c.args[1:3] if biased else c.args[:2]
    left, right = c.run.of(a), c.run.of(b)
    if right.fields and not left.fields:
        return _product(c, a, right, (-1, -2, -1), -1, bias)
    if left.fields and not right.fields:
        return _product(c, b, left, (-2, -1, -2), -2, bias)
    if left.fields or a.ndim != b.ndim or a.ndim < 2:
        return c.pin()
    labels = product(c, left.labels, right.labels).expand(c.out.shape)
    tags = [Tag(labels)] + ([c.run.of(bias)] if bias is not None else [])
    return c.run.set(c.out, meet(c.run, tags, c.out.shape, c.what, [None, bias][: len(tags)]))


def product(c: Call, a: Tensor, b: Tensor) -> Tensor:
    """Labels of a product of two activations, (..., n, k) @ (..., k, m): heads in the leading dimensions may go.

    Where only one of them has channels that can go, those along its other dimension pass through.
    """
    union = c.run.union
    a, b = c.together(a, -1), c.together(b, -2)
    if union.free(a) and union.free(b):
        a, b = c.together(a, -2), c.together(b, -1)
    a, b = a[..., :1], b[..., :1, :]
    lead = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    first = union.free(a) or (not union.free(b) and not owned(b))
    mine, other = (a, b[..., :1]) if first else (b, a[..., :1, :])
    if any(union.varies(mine)[:-2]) or any(union.varies(other)[:-2]):
        union.unite(mine, other, f"{c.what} multiplies them with a constant")
    return mine.expand(*lead, a.shape[-2], b.shape[-1])


def attention(c: Call) -> None:
    """softmax(Q Kᵀ) V: whole heads, with grouped queries the queries of a key together."""
    query, key, value = (c.run.of(t) for t in c.args[:3])
    wide = query.labels.shape[-3] if query.labels.ndim > 3 else 1
    k, v = (_heads(tag.labels, wide) for tag in (key, value))
    scores = product(c, query.labels, k.mT)
    result, *others = tensors(c.out)
    c.run.set(result, product(c, scores, v).expand(result.shape))
    mask = c.kwargs.get("attn_mask")
    mask = c.args[3] if mask is None and len(c.args) > 3 and isinstance(c.args[3], Tensor) else mask
    if mask is not None:
        shape = torch.broadcast_shapes(mask.shape, (*query.labels.shape[:-1], key.labels.shape[-2]))
        meet(c.run, [Tag(scores.expand(shape)), c.run.of(mask)], shape, c.what, [None, mask])
    for tensor in others:
        c.run.set(tensor, torch.tensor(CONSTANT).expand(tensor.shape))


def _heads(labels: Tensor, wide: int) -> Tensor:
    """Keys or values of grouped queries, repeated for each query."""
    return (
        labels
        if labels.ndim < 4 or labels.shape[-3] == wide
        else labels.repeat_interleave(wide // labels.shape[-3], -3)
    )


def convolution(c: Call) -> None:
    """Plain, transposed, depthwise and grouped."""
    x, weight = c.x, c.run.of(c.args[1])
    bias, transposed, groups = c.args[2], c.args[6], c.args[8]
    border = transposed or any(c.args[4])
    if groups == 1:
        dims = (1, 0, 1) if transposed else (1, 1, 0)
        writes = contract(c, x, weight, dims, c.run.shadows.columns(c.args[0], 1), border)
        return None if writes is None else finish(c, writes, 1, bias)
    rows, columns = weight_labels(weight, 0), weight_labels(weight, 1)
    if rows is None or columns is None:
        c.run.computed.append(c.run.module)
        return c.pin(*tensors(c.args[:2]))
    passed = c.run.union.along(x.labels, 1, f"{c.what} reads them at several positions").view(groups, -1)
    each = c.out.shape[1] // groups
    if max(passed.shape[1], each) > 1:
        c.run.grouped[c.run.module] = rows
    if passed.shape[1] <= groups and c.run.module not in c.run.by_position:
        out = _whole_groups(c, passed, rows.view(groups, -1), each, transposed)
        return finish(c, out, 1, bias)
    why = f"{c.what} reads the same channels of every group"
    passed = c.run.union.together(passed, [0], why)
    if transposed:
        c.run.union.together(rows.view(groups, -1), [0], why)
        c.run.reads(rows, passed.flatten(), c.run.shadows.columns(c.args[0], 1), border)
        c.run.writes(columns)
        return finish(c, columns.repeat(groups) if each > 1 else columns.expand(groups), 1, bias)
    shadow = c.run.shadows.columns(c.args[0], 1, groups)
    c.run.reads(columns, passed[0] if len(columns) > 1 else columns, shadow, border)
    c.run.union.together(rows.view(groups, -1), [0], why)
    c.run.writes(rows)
    return finish(c, rows, 1, bias)


def _whole_groups(c: Call, passed: Tensor, rows: Tensor, each: int, transposed: bool) -> Tensor:
    """Group i of the filters goes with group i of the channels; a depthwise filter with its channel."""
    first = c.together(passed, 1, does="reads them as groups")[:, :1]
    c.run.union.unite(rows, first, f"{c.what} filters a network input")
    return first.expand(-1, each).flatten() if transposed else rows.flatten()


def embedding(c: Call) -> None:
    writes = weight_labels(c.x, 1)
    if writes is None:
        return c.pin()
    c.run.writes(writes)
    return finish(c, writes, -1, None)
