"""Elementwise operators: labels that meet are united."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..._inputs import tensors
from ._ledger import Call, Ledger
from ._tags import ALIVE, Dead, Tag
from ._union import core

# f(0) = 0: what noise has made zero stays zero. The first also scale: f(cx) = c f(x) for c > 0.
SCALES = {"relu", "leaky_relu", "_prelu_kernel", "neg", "abs", "rrelu_with_noise"}
KEEPS_ZERO = SCALES | {
    *("tanh", "gelu", "silu", "hardswish", "elu", "mish", "celu", "hardtanh", "relu6", "hardshrink", "softshrink"),
    *("sin", "asinh", "atan", "erf", "sign", "sqrt", "square", "expm1", "log1p"),
}


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


def still_dead(c: Call, tags: list[Tag]) -> Dead:
    """Whether f(x, y, ...) is zero where noise dropped the channel of its arguments."""
    dead = [tag.dead for tag in tags]
    touched = [d for d in dead if d.sites]
    if not touched:
        return next((d for d in dead if d is not ALIVE), ALIVE)
    name = c.name.removesuffix("_")
    if name == "mul" or (name == "div" and dead[0].sites and len(touched) == 1):
        alone = len(touched) == 1 and not any(d.follows for d in dead)
        return touched[0] if alone else replace(touched[0], linear=False)
    if name in ("add", "sub"):
        if len(touched) < len(c.args[:2]):
            return Dead(why=f"{c.what} adds something that the noise does not multiply")
        alike = all(d.linear for d in dead) and dead[0].sites == dead[1].sites
        return Dead(dead[0].sites | dead[1].sites, alike)
    if name == "hardtanh" and not c.arg(1, "min_val", -1.0) <= 0 <= c.arg(2, "max_val", 1.0):
        return Dead(why=f"{c.what} does not keep zero at zero")
    if name in KEEPS_ZERO and dead[0].sites:
        return dead[0] if name in SCALES else replace(dead[0], linear=False)
    return Dead(why=f"{c.what} does not keep zero at zero")
