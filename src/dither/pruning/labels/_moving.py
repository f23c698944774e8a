"""Operators that only move data: executed on the labels themselves."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..._inputs import map_tensors, tensors
from ._ledger import Call, alike
from ._meeting import element_labels
from ._tags import Tag
from ._union import CONSTANT, NEUTRAL, compress, core, pure


def same(c: Call) -> None:
    """clone, detach, zeros_like ...: as the first argument."""
    x = c.x
    for tensor in tensors(c.out):
        if tensor.shape == x.labels.shape:
            c.run.tags[tensor] = x


def restride(c: Call) -> None:
    """as_strided: where only the stride of dimensions of size 1 is new, as channels-last pooling does it.

    In place, the strides from before are gone: only what is pooled to one pixel is taken for that.
    """
    given, in_place = c.args[0], c.args[0] is c.out
    x = c.run.tags.get(given)
    long = [d for d, size in enumerate(c.out.shape) if size > 1]
    dense = torch.empty(c.out.shape, device="meta").stride()
    if x is None or x.labels.shape != c.out.shape or c.out.storage_offset() or (in_place and len(long) > 2):
        return c.pin()
    if any(not given.stride(d) == c.out.stride(d) == dense[d] for d in long):
        return c.pin()
    c.run.tags[c.out] = x
    return None


def uniform(c: Call) -> None:
    """zeros, ones, full, empty ...: numbers that are all alike, so there may be fewer of them."""
    for tensor in tensors(c.out):
        c.run.set(tensor, alike(tensor, NEUTRAL))


def move(c: Call) -> None:
    """permute, expand, cat ...: any number of tensors in, one out."""
    given = [tensor for tensor in tensors(c.args) if c.name != "cat" or tensor.numel()]  # an empty cache joins nothing
    tags = [c.run.of(tensor) for tensor in given]
    if not tags:
        return None
    count = len(tags[0].fields)
    if count and all(len(tag.fields) == count for tag in tags):
        fields = [_execute(c, [tag.fields[i] for tag in tags]) for i in range(count)]
        for field in fields if len(tags) > 1 else ():  # a cat of weights: their other dimensions go together
            _one_for_all(c, field)
        return c.run.set(c.out, alike(c.out, CONSTANT), tuple(map(compress, fields)))
    if c.name in ("cat", "stack"):
        return _join(c, tags)
    return c.run.set(c.out, _execute(c, [tags[0].labels]))


def _join(c: Call, tags: list[Tag]) -> None:
    """cat, stack: of channels, or of positions, whose channels then are the same."""
    where = [any(v) for v in zip(*(c.run.union.varies(tag.labels) for tag in tags), strict=True)]
    told = [element_labels(c.run, tag, where if any(where) else None) for tag in tags]
    for labels, silent in told:
        for other, _ in told if silent else ():
            if other is not labels:
                c.together(other, *silent)
    dim = c.dim % c.out.ndim
    parts = [labels for labels, _ in told]
    if c.name == "cat" and any(where) and not where[dim]:
        first, *rest = [labels.narrow(dim, 0, 1) for labels in parts if not pure(labels, CONSTANT)]
        for labels in rest:
            c.run.union.unite(first, labels, f"{c.what} joins them")
        parts = [labels if pure(labels, CONSTANT) else first.expand(labels.shape) for labels in parts]
    labels = _execute(c, parts)
    if not pure(labels, NEUTRAL):
        labels = torch.where(labels == NEUTRAL, CONSTANT, labels)  # zeros beside channels: how many, the code says
    c.run.set(c.out, labels)


def _execute(c: Call, labels: list[Tensor]) -> Tensor:
    """The operator on labels instead of tensors; not in place."""
    given = iter(labels)
    func = getattr(Tensor, c.name[:-1]) if c.name.endswith("_") else c.func
    if c.name == "cat":
        return func(labels, c.dim)
    return func(*map_tensors(lambda _: next(given), c.args), **c.kwargs)


def _one_for_all(c: Call, field: Tensor) -> None:
    """Labels of a dimension beside the one along which tensors are joined are those of all pieces."""
    dim = c.dim % c.out.ndim
    others = [d for d, v in enumerate(c.run.union.varies(field)) if v and d != dim]
    if others:
        c.run.union.unite(field, field.narrow(dim, 0, 1), f"{c.what} joins them")


def view(c: Call) -> None:
    """A reshape: executed on the labels. Along which of several dimensions split channels go is decided later."""
    factors = refine(c.args[0].shape, c.out.shape)

    def reshape(labels: Tensor) -> Tensor:
        if factors is not None:
            return _regroup(c, labels, factors)
        if any(c.run.union.varies(labels)):
            c.run.union.pin(labels, f"{c.what} regroups them")
        return compress(labels.reshape(c.out.shape))

    c.run.set(c.out, reshape(c.x.labels), tuple(map(reshape, c.x.fields)))


class Factor(NamedTuple):
    """A piece of a reshape: its size, and the dimensions before and after that it is a factor of."""

    size: int
    before: int
    after: int


def refine(before: torch.Size, after: torch.Size) -> list[Factor] | None:
    """The common refinement of two shapes of one tensor; None where the sizes do not divide each other.

    Example:
        >>> [tuple(f) for f in refine(torch.Size([2, 12]), torch.Size([6, 4]))]
        [(2, 0, 0), (3, 1, 0), (4, 1, 1)]
    """
    if 0 in before:
        return None
    ends = [torch.tensor(shape).cumprod(0).tolist() if shape else [1] for shape in (before, after)]
    factors: list[Factor] = []
    done = 1
    for end in sorted({*ends[0], *ends[1]} - {1}):
        if end % done:
            return None
        factors.append(Factor(end // done, *(bisect_left(e, end) for e in ends)))
        done = end
    return factors


def _regroup(c: Call, labels: Tensor, factors: list[Factor]) -> Tensor:
    """Reshape labels through the refinement, with size 1 wherever they are constant."""
    small, shape = core(labels), c.out.shape
    fine = small.reshape([f.size if small.shape[f.before] > 1 else 1 for f in factors])
    varying = [i for i, v in enumerate(c.run.union.varies(fine)) if v]
    for d in {factors[i].before for i in varying}:
        dims = [i for i in varying if factors[i].before == d]
        if len(dims) > 1:
            c.run.splits.append((fine, dims, f"{c.what} splits them"))
    wide = {f.after for f, size in zip(factors, fine.shape, strict=True) if size > 1}
    fine = fine.expand([f.size if f.after in wide else 1 for f in factors])
    return fine.reshape([n if d in wide else 1 for d, n in enumerate(shape)]).expand(shape)


def couple(c: Call, dim: int, sizes: list[int]) -> None:
    """Cut ``dim`` into parts of these sizes.

    Equal parts couple their positions, for Python computes such sizes from the shape (chunk, x[:, : x.shape[1] // 2]),
    and so do whole multiples of the smallest part; any other cut is by positions that would shift.
    """
    part = min(sizes)
    for labels in (c.x.labels, *c.x.fields):
        total = labels.shape[dim]
        if not c.run.union.varies(labels)[dim] or sizes == [total]:
            continue
        if part > 1 and total % part == 0 and all(size % part == 0 for size in sizes):
            parts = labels.movedim(dim, 0).unflatten(0, (-1, part))
            c.run.union.unite(parts, parts[:1], f"{c.what} splits them")
        else:
            c.together(labels, dim, does="takes a fixed part of them")


def pieces(c: Call) -> None:
    """Run the operator on the labels and give each result its piece."""
    cut = [c.func(labels, *c.args[1:], **c.kwargs) for labels in (c.x.labels, *c.x.fields)]
    if isinstance(c.out, Tensor):
        return c.run.set(c.out, cut[0], tuple(cut[1:]))
    for tensor, labels, *fields in zip(c.out, *cut, strict=True):
        c.run.set(tensor, labels, tuple(fields))
    return None


def split(c: Call) -> None:
    """split, split_with_sizes; chunk ends here."""
    dim = c.arg(2, "dim", 0)
    couple(c, dim, [part.shape[dim] for part in c.out])
    pieces(c)


def narrow(c: Call) -> None:
    """slice: one of several equal parts, or a fixed part."""
    start, length, step = c.arg(2, "start", 0), c.out.shape[c.dim], c.arg(4, "step", 1)
    start += c.args[0].shape[c.dim] if start < 0 else 0
    even = length and step == 1 and start % length == 0
    couple(c, c.dim, [length] if even else [0])
    pieces(c)


def index(c: Call) -> None:
    """select, unbind: single channels by position; they stay once somebody uses them, for more than their shape."""
    x = c.x
    for field in x.fields:
        c.together(field, c.dim, does="takes a fixed part of them")
    pieces(c)
    debts = ((x.labels, (c.dim,), f"{c.what} takes a fixed part of them"),)
    for tensor in tensors(c.out) if c.run.union.varies(x.labels)[c.dim] else ():
        c.run.tags[tensor] = replace(c.run.tags[tensor], debts=debts)


def gather(c: Call) -> None:
    """index, index_select, gather: entries by position, fixed in the code or computed."""
    indexed = enumerate(c.args[1]) if c.name == "index" else [(c.dim, True)]
    dims = [d for d, entry in indexed if entry is not None]
    if c.x.fields:
        return pieces(c)
    labels = c.together(c.x.labels, *dims, does="picks them by position")
    return c.run.set(c.out, compress(c.func(labels, *c.args[1:], **c.kwargs)))


def roll(c: Call) -> None:
    """roll: channels change places by a fixed distance."""
    for dim in c.arg(2, "dims", range(c.args[0].ndim)):
        couple(c, dim, [0])
    pieces(c)


def pad(c: Call) -> None:
    """Zeros beside the pixels of a channel belong to it; zeros between channels are a constant of fixed size."""
    labels, between = c.x.labels, list(c.args[1])
    for back in range(len(between) // 2):
        labels = c.together(labels, -1 - back) if any(between[2 * back : 2 * back + 2]) else labels
        if not c.run.union.varies(labels)[-1 - back]:
            between[2 * back : 2 * back + 2] = [0, 0]
    labels = torch.constant_pad_nd(labels, between, CONSTANT)
    return c.run.set(c.out, stretch(labels, c.out.shape))


def shuffle(c: Call) -> None:
    """pixel_shuffle, pixel_unshuffle, channel_shuffle: views and transpositions in one operator."""
    channels = c.run.union.along(c.x.labels, -3, f"{c.what} moves them between pixels")
    factor = c.args[1]
    if c.name == "pixel_shuffle":  # (c, r·r) -> c
        grid = c.together(channels.view(-1, factor**2), 1)
        out = grid[:, 0]
    elif c.name == "pixel_unshuffle":
        out = channels.repeat_interleave(factor**2)
    else:
        out = c.together(channels.view(factor, -1), 0).mT.flatten()
    c.run.set(c.out, out[:, None, None].expand(c.out.shape))


def stretch(labels: Tensor, shape: torch.Size) -> Tensor:
    """``labels`` with every dimension whose size changed cut to one index and expanded to its new size."""
    for dim, size in enumerate(shape):
        if labels.shape[dim] != size:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)
