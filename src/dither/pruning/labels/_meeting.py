"""Elementwise operators: labels that meet are united."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..._inputs import tensors
from ._dead import still_dead
from ._ledger import Call, Ledger
from ._tags import Tag
from ._union import core


def pointwise(c: Call) -> None:
    """Any elementwise function of tensors that broadcast."""
    results = tensors(c.out)
    tags = [c.run.of(tensor) for tensor in tensors((c.args, c.kwargs))]
    if results and tags:
        labels = meet(c.run, tags, results[0].shape, c.what)
        dead = still_dead(c, tags)
        for tensor in results:
            if tensor.shape == labels.shape:
                c.run.set(tensor, labels, dead=dead)


def meet(run: Ledger, tags: list[Tag], shape: torch.Size, what: str) -> Tensor:
    """Unite the labels of tensors that broadcast to ``shape``; the labels of the result.

    A tensor of size 1 along a dimension where the labels of another vary is one channel that is used for all of them:
    it is pinned and takes no part. So is no tensor without labels, unless it has one value for each channel.
    """
    padded = [pad_left(tag, len(shape)) for tag in tags]
    acting = [run.union.varies(tag.labels) for tag in padded]
    where = [any(varies[d] for varies in acting) for d in range(len(shape))]
    everyone = [element_labels(run, tag, where) for tag in padded]
    varying = [run.union.varies(labels) for labels in everyone]
    meeting: list[Tensor] = []
    for i, labels in enumerate(everyone):
        across = [d for d in range(len(shape)) if any(v[d] for k, v in enumerate(varying) if k != i)]
        if any(labels.shape[d] == 1 < shape[d] for d in across):
            run.union.pin(labels, f"{what} broadcasts them over channels")
        elif owned(labels) or any(labels.shape[d] > 1 for d in across):
            meeting.append(labels)
    for labels in meeting[1:]:
        run.union.unite(meeting[0], labels, f"{what} meets a constant or a network input")
    result = next((labels for labels in meeting if owned(labels)), None)
    return torch.zeros((), dtype=torch.int64).expand(shape) if result is None else result.expand(shape)


def owned(labels: Tensor) -> bool:
    """Whether any element was written by the network."""
    return bool((core(labels) != 0).any())


def pad_left(tag: Tag, ndim: int) -> Tag:
    """With dimensions of size 1 in front, as broadcasting adds them."""

    def up(labels: Tensor) -> Tensor:
        return labels[(None,) * (ndim - labels.ndim) + (...,)]

    return replace(tag, labels=up(tag.labels), fields=tuple(map(up, tag.fields)))


def element_labels(run: Ledger, tag: Tag, where: list[bool] | None = None) -> Tensor:
    """One label for each element, for (a view of) a parameter too.

    Its elements take the labels of the dimension that varies ``where`` the labels of others do; a parameter that
    follows channels along two dimensions at once pins both.
    """
    if not tag.fields:
        return tag.labels
    live = [f for f in tag.fields if any(v and (where is None or where[d]) for d, v in enumerate(run.union.varies(f)))]
    for labels in live if len(live) > 1 else ():
        run.union.pin(labels, f"{run.module} uses a parameter along several dimensions of channels at once")
    return live[0] if len(live) == 1 else tag.labels
