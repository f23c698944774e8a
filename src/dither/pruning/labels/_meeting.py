"""Elementwise operators: labels that meet are united."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..._inputs import tensors
from ._ledger import Call, Ledger
from ._tags import Tag
from ._union import CONSTANT, NEUTRAL, compress, core, pure


def pointwise(c: Call) -> None:
    """Any elementwise function of tensors that broadcast."""
    results = tensors(c.out)
    tags = [c.run.of(tensor) for tensor in c.tensors]
    known = [tag for tag in tags if tag.fields]
    if len(known) == 1 and results and all(pure(t.labels, CONSTANT) or pure(t.labels, NEUTRAL) for t in tags):
        _of_a_parameter(c, known[0], [tag for tag in tags if not tag.fields], results)
        return
    if results and tags:
        labels = meet(c.run, tags, results[0].shape, c.what, c.tensors)
        for tensor in results:
            if tensor.shape == labels.shape:
                c.run.set(tensor, labels)


def _of_a_parameter(c: Call, parameter: Tag, constants: list[Tag], results: list[Tensor]) -> None:
    """A function of a parameter and constants keeps the parameter's slices, but not its values: no gate on it."""
    shape = results[0].shape
    fields = tuple(compress(field.expand(shape)) for field in pad_left(parameter, len(shape)).fields)
    for constant in (pad_left(tag, len(shape)).labels for tag in constants):
        sized = [d for d, size in enumerate(constant.shape) if size > 1 and pure(constant, CONSTANT)]
        for field in fields:
            c.together(field, *sized, does="meets a constant")
    scaled = not constants and c.name in ("mul", "div", "neg")
    for tensor in results:
        labels = torch.tensor(CONSTANT).expand(shape)
        c.run.tags[tensor] = Tag(labels, fields, changed=parameter.changed or not scaled)


def meet(
    run: Ledger, tags: list[Tag], shape: torch.Size, what: str, values: Sequence[Tensor | None] | None = None
) -> Tensor:
    """Unite the labels of tensors that broadcast to ``shape``; the labels of the result.

    - A constant has a value for each of its positions: what it meets cannot be removed along these dimensions, unless
      ``values`` show that it is the same for all channels, as a mask is for all heads.
    - A tensor of size 1 along a dimension where another varies is used for all of its channels. Those of the other can
      then be removed along one dimension only, and the earlier one is chosen: heads before the positions in a head.
    - All others are united, element by element.
    """
    acting = [pad_left(tag, len(shape)) for tag in tags]
    where = [any(v) for v in zip(*(run.union.varies(tag.labels) for tag in acting), strict=True)]
    told = [element_labels(run, tag, where) for tag in acting]
    everyone = [labels for labels, _ in told]
    for labels, silent in told:  # a parameter along several dimensions at once: one of them is that of the channels
        for other in everyone if silent else ():
            if other is not labels:
                run.union.together(other, silent, f"{what} meets a parameter along several dimensions at once")
    writers = [labels for labels in everyone if not pure(labels, NEUTRAL) and not pure(labels, CONSTANT)]
    for constant, value in zip(everyone, values or [None] * len(everyone), strict=True):
        if pure(constant, CONSTANT):
            sized = [d for d, size in enumerate(constant.shape) if size > 1]
            for i, labels in enumerate(writers):
                fixed = [d for d in sized if value is None or not _same_for_all(run, value, labels, d)]
                writers[i] = run.union.together(labels, fixed, f"{what} meets a constant or a network input")
    meeting = [labels for labels in writers if not _broadcasts(run, labels, writers, shape, what)]
    for labels in meeting[1:]:
        run.union.unite(meeting[0], labels, f"{what} meets a constant or a network input")
    if not meeting:
        constant = next((labels for labels in everyone if not pure(labels, NEUTRAL)), None)
        return torch.tensor(NEUTRAL if constant is None else CONSTANT).expand(shape)
    result = meeting[0]
    for labels in meeting[1:]:
        result = torch.maximum(result, labels)  # of one class; where one is neutral, the other one's
    return result.expand(shape)


def _same_for_all(run: Ledger, value: Tensor, labels: Tensor, dim: int) -> bool:
    """Whether a constant has the same values along ``dim`` for every channel of ``labels``."""
    if not run.union.varies(labels)[dim]:
        return True
    rows = run.union.find(core(labels)).movedim(dim, 0).flatten(1)
    channel = torch.unique(rows, dim=0, return_inverse=True)[1].to(value.device)
    order = channel.argsort(stable=True)
    count = torch.bincount(channel)
    if bool((count != count[0]).any()):
        return False
    each = value.movedim(dim - labels.ndim, 0)[order].unflatten(0, (len(count), -1))
    return torch.equal(each, each[:1].expand_as(each))


def _broadcasts(run: Ledger, labels: Tensor, others: list[Tensor], shape: torch.Size, what: str) -> bool:
    """Whether a tensor is used for several channels of others, and is pinned for it."""
    across = [any(v) for v in zip(*(run.union.varies(o) for o in others if o is not labels), strict=True)]
    wide = [d for d, v in enumerate(across) if v and labels.shape[d] == 1 < shape[d]]
    if not wide:
        return False
    own = [d for d, v in enumerate(run.union.varies(labels)) if v]
    if own and min(own) < min(wide):
        return False  # it varies along an earlier dimension: uniting makes the others constant along the later ones
    for other in others if own else ():
        if other is not labels:
            run.union.together(other, own, f"{what} broadcasts over them")
    run.union.pin(labels, f"{what} broadcasts them over channels")
    return True


def pad_left(tag: Tag, ndim: int) -> Tag:
    """With dimensions of size 1 in front, as broadcasting adds them."""

    def up(labels: Tensor) -> Tensor:
        return labels[(None,) * (ndim - labels.ndim) + (...,)]

    return replace(tag, labels=up(tag.labels), fields=tuple(map(up, tag.fields)))


def element_labels(run: Ledger, tag: Tag, where: list[bool] | None = None) -> tuple[Tensor, list[int]]:
    """One label for each element, for (a view of) a parameter too, and the dimensions that they do not tell.

    The elements of a parameter take the labels of the dimension that varies ``where`` the labels of others do; of
    several, those of the first.
    """
    if not tag.fields:
        return tag.labels, []
    along = [
        next((d for d, v in enumerate(run.union.varies(f)) if v and (where is None or where[d])), -1)
        for f in tag.fields
    ]
    live = sorted((d, i) for i, d in enumerate(along) if d >= 0)
    if not live:
        return tag.labels, []
    return tag.fields[live[0][1]], [d for d, _ in live[1:]]
