"""Operators that only move data: executed on the labels themselves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..._inputs import map_tensors, tensors
from ._dead import Dead, all_dead
from ._ledger import Call
from ._meeting import element_labels
from ._union import compress


def same(c: Call) -> None:
    """clone, detach, zeros_like ...: as the first argument."""
    x = c.x
    if c.name in ("fill_", "ones_like", "full_like", "rand_like", "randn_like"):
        x = replace(x, dead=Dead(why=f"{c.what} is not zero"))
    for tensor in tensors(c.out):
        if tensor.shape == x.labels.shape:
            c.run.tags[tensor] = x


def move(c: Call) -> None:
    """permute, expand, cat ...: any number of tensors in, one out."""
    tags = [c.run.of(tensor) for tensor in tensors(c.args)]
    if len(tags) == 1 and tags[0].fields:
        fields = [c.func(*map_tensors(lambda _, f=f: f, c.args), **c.kwargs) for f in tags[0].fields]
        return c.run.set(c.out, c.run.zeros(c.out), tuple(map(compress, fields)))
    every = iter([element_labels(c.run, tag) for tag in tags])
    labels = c.func(*map_tensors(lambda _: next(every), c.args), **c.kwargs)
    return c.run.set(c.out, labels, dead=all_dead([tag.dead for tag in tags]))


def view(c: Call) -> None:
    """A reshape; one that splits channels takes the same positions from every part, one that regroups them pins."""
    run, x = c.run, c.x

    def reshape(labels: Tensor) -> Tensor:
        new = compress(labels.reshape(c.out.shape))
        varies = run.union.varies(new)
        for before, after in regroup(labels.shape, new.shape):
            varying = [d for d in after if varies[d]]
            if len(varying) < 2:
                continue
            if sum(labels.shape[d] > 1 for d in before) > 1:
                run.union.pin(labels, f"{c.what} regroups them")
            for dim in varying[:-1]:  # (B, g·k) -> (B, g, k): channel j of every one of the g parts
                run.union.unite(new, new.narrow(dim, 0, 1), f"{c.what} splits them")
        return new

    run.set(c.out, reshape(x.labels), tuple(map(reshape, x.fields)), x.dead)


def regroup(before: torch.Size, after: torch.Size) -> list[tuple[list[int], list[int]]]:
    """The dimensions of a view, cut into the smallest groups of equal size: [(dims before, dims after), ...].

    Example:
        >>> regroup(torch.Size([2, 6, 4]), torch.Size([2, 3, 8]))
        [([0], [0]), ([1, 2], [1, 2])]
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        ins, outs, m, n = [i], [j], before[i], after[j]
        while m != n:
            if m < n:
                i += 1
                ins.append(i)
                m *= before[i]
            else:
                j += 1
                outs.append(j)
                n *= after[j]
        groups.append((ins, outs))
        i, j = i + 1, j + 1
    return groups


def couple(c: Call, dim: int, sizes: list[int]) -> None:
    """Cut ``dim`` into parts of these sizes.

    Equal parts couple their positions, for Python computes such sizes from the shape (chunk, x[:, : x.shape[1] // 2]);
    any other cut is by positions that would shift, and pins.
    """
    for labels in (c.x.labels, *c.x.fields):
        total = labels.shape[dim]
        if not c.run.union.varies(labels)[dim] or sizes == [total]:
            continue
        if len(set(sizes)) == 1 and sizes[0] and total % sizes[0] == 0:
            parts = labels.movedim(dim, 0).unflatten(0, (-1, sizes[0]))
            c.run.union.unite(parts, parts[:1], f"{c.what} splits them")
        else:
            c.run.union.pin(labels, f"{c.what} takes a fixed part of them")


def pieces(c: Call) -> None:
    """Run the operator on the labels and give each result its piece."""
    cut = [c.func(labels, *c.args[1:], **c.kwargs) for labels in (c.x.labels, *c.x.fields)]
    if isinstance(c.out, Tensor):
        return c.run.set(c.out, cut[0], tuple(cut[1:]), c.x.dead)
    for tensor, labels, *fields in zip(c.out, *cut, strict=True):
        c.run.set(tensor, labels, tuple(fields), c.x.dead)
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
    """select, unbind: single channels by position."""
    couple(c, c.dim, [0])
    pieces(c)


def roll(c: Call) -> None:
    """roll: channels change places by a fixed distance."""
    for dim in c.arg(2, "dims", range(c.args[0].ndim)):
        couple(c, dim, [0])
    pieces(c)


def pad(c: Call) -> None:
    """Zeros beside the pixels of a channel belong to it; zeros between channels are a constant of fixed size."""
    for back in range(len(c.args[1]) // 2):
        if any(c.args[1][2 * back : 2 * back + 2]) and c.run.union.varies(c.x.labels)[-1 - back]:
            return c.pin()
    dead = c.x.dead if not c.arg(2, "value", 0) else Dead(why=f"{c.what} fills with a value that is not zero")
    return c.run.set(c.out, stretch(c.x.labels, c.out.shape), dead=dead)


def stretch(labels: Tensor, shape: torch.Size) -> Tensor:
    """``labels`` with every dimension whose size changed cut to one index and expanded to its new size."""
    for dim, size in enumerate(shape):
        if labels.shape[dim] != size:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)
