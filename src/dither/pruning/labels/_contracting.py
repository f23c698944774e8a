"""Convolutions and matrix products: they read the labels along the contracted dimension and write new ones."""

from __future__ import annotations

import torch
from torch import Tensor

from ..._inputs import tensors
from ._dead import ALIVE, Dead
from ._ledger import Call
from ._meeting import element_labels, meet
from ._tags import Tag
from ._union import core


def weight_labels(weight: Tag, dim: int) -> Tensor | None:
    """The labels of (a view of) a parameter along ``dim``, where one of its dimensions lies there and only there.

    A dimension of size 1 can lose nothing: label 0.
    """
    if not weight.fields:
        return None
    if weight.labels.shape[dim] == 1:
        return torch.zeros(1, dtype=torch.int64)
    live = [small for f in weight.fields if (small := core(f)).shape[dim] > 1]
    if len(live) != 1 or live[0].numel() != live[0].shape[dim]:
        return None
    return live[0].flatten()


def contract(c: Call, x: Tag, weight: Tag, dim: int, inner: int, outer: int) -> Tensor | None:
    """Contract dimension ``dim`` of ``x`` with ``inner`` of a weight; the labels of the weight's ``outer``."""
    reads, writes = weight_labels(weight, inner), weight_labels(weight, outer)
    if reads is None or writes is None:
        for labels in (x.labels, *weight.fields):
            c.run.union.pin(labels, f"{c.what} multiplies them with something that is no plain weight")
        return None
    c.run.reads(reads, c.run.union.along(x.labels, dim, f"{c.what} reads them at several positions"), x.dead)
    c.run.writes(writes)
    return writes


def finish(c: Call, writes: Tensor, dim: int, bias: Tensor | None, dead: Dead = ALIVE) -> None:
    """Label the result: ``writes`` along ``dim``, united with the labels of the bias."""
    shape = [1] * c.out.ndim
    shape[dim] = -1
    labels = writes.view(shape).expand(c.out.shape)
    if bias is not None:
        own = c.run.of(bias)
        if bias.ndim == 1 and dim != -2:  # along the channels; those of a convolution are not the last dimension
            c.run.union.unite(writes, element_labels(c.run, own), f"{c.what} adds a constant")
        else:
            labels = meet(c.run, [Tag(labels), own], c.out.shape, c.what)
        dead = Dead(why=f"the bias of {c.run.module} is added")
    c.run.set(c.out, labels, dead=dead)


def linear(c: Call) -> None:
    writes = contract(c, c.x, c.run.of(c.args[1]), -1, 1, 0)
    if writes is not None:
        finish(c, writes, -1, c.arg(2, "bias", None))


def matmul(c: Call) -> None:
    """X @ W or W @ x, with or without a bias, in any number of dimensions."""
    biased = c.name in ("addmm", "baddbmm")
    bias: Tensor | None = c.args[0] if biased else None
    a, b = c.args[1:3] if biased else c.args[:2]
    left, right = c.run.of(a), c.run.of(b)
    if right.fields and not left.fields:
        writes, dim = contract(c, left, right, -1, -2, -1), -1
    elif left.fields and not right.fields:
        writes, dim = contract(c, right, left, -2, -1, -2), -2
    else:
        return c.pin()
    return None if writes is None else finish(c, writes, dim, bias)


def convolution(c: Call) -> None:
    """Plain, transposed and depthwise; other groups pin."""
    x, weight = c.x, c.run.of(c.args[1])
    bias, transposed, groups = c.args[2], c.args[6], c.args[8]
    channels = c.args[0].shape[1]
    if groups == 1:
        inner, outer = (0, 1) if transposed else (1, 0)
        writes = contract(c, x, weight, 1, inner, outer)
        return None if writes is None else finish(c, writes, 1, bias)
    writes = weight_labels(weight, 0)
    if writes is None or transposed or groups != channels or c.args[1].shape[1] != 1:
        return c.pin(*tensors(c.args[:2]))
    passed = c.run.union.along(x.labels, 1, f"{c.what} reads them at several positions")
    c.run.union.unite(writes.view(channels, -1), passed[:, None], f"{c.what} filters a network input")
    return finish(c, writes, 1, bias, x.dead)  # filter i passes channel i on


def embedding(c: Call) -> None:
    writes = weight_labels(c.x, 1)
    if writes is None:
        return c.pin()
    c.run.writes(writes)
    return finish(c, writes, -1, None)


def batch_norm(c: Call) -> None:
    """Elementwise, along dimension 1, with weight, bias and both running statistics."""
    result = tensors(c.out)[0]
    labels = c.run.union.along(c.x.labels, 1, f"{c.what} normalises several positions as one")
    for tensor in c.args[1:5]:
        if isinstance(tensor, Tensor):
            c.run.union.unite(labels, element_labels(c.run, c.run.of(tensor)), f"{c.what} normalises a network input")
    shape = (1, -1) + (1,) * (result.ndim - 2)
    dead = Dead(why=f"BatchNorm {c.run.module} shifts them")
    c.run.set(result, labels.view(shape).expand(result.shape), dead=dead)
