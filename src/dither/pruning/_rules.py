"""What each operator does to labels. Whatever is not listed pins the labels that it touches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._inputs import map_tensors, tensors
from ._union import compress, core

if TYPE_CHECKING:
    from ._labels import Dead, Run, Tag

Rule = Callable[["Run", Any, tuple[Any, ...], dict[str, Any], Any], None]

SAME = "clone detach alias contiguous _to_copy lift_fresh native_dropout dropout zeros_like ones_like empty_like rand_like randn_like full_like bernoulli fill_ zero_"
MOVE = "permute transpose t expand squeeze unsqueeze stack flip repeat cat"
VIEW = "view _unsafe_view reshape unflatten"
POINTWISE = "_prelu_kernel hardswish hardswish_ rrelu_with_noise log_sigmoid_forward where copy_ masked_fill masked_fill_ lerp clamp relu_ relu6 hardtanh_ dropout_ softplus hardsigmoid elu_ silu_ mish_ gelu_ leaky_relu_ celu_ threshold_ sigmoid_ tanh_"
POOL = "max_pool avg_pool adaptive_max_pool _adaptive_avg_pool adaptive_avg_pool upsample_ reflection_pad replication_pad fractional_max_pool max_unpool"
REDUCE = "mean sum amax amin var std var_mean std_mean prod norm linalg_vector_norm logsumexp any all argmax argmin max min"
ALONG = "_softmax _log_softmax softmax log_softmax cumsum cumprod sort topk"
NORM = "native_layer_norm native_group_norm _fused_rms_norm rms_norm layer_norm group_norm"
BATCHNORM = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm"

# f(0) = 0, so that a channel that noise has made zero stays zero; the first row also scales: f(cx) = c f(x) for c > 0.
SCALES = "relu relu_ leaky_relu leaky_relu_ _prelu_kernel neg abs rrelu_with_noise"
ZERO = "tanh tanh_ gelu gelu_ silu silu_ hardswish hardswish_ elu elu_ mish mish_ hardtanh hardtanh_ sin asinh atan erf sign hardshrink softshrink celu celu_ selu sqrt expm1 log1p relu6 square"


def apply(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Give labels to what ``func(*args, **kwargs)`` returned."""
    name = func.overloadpacket.__name__
    rule = TABLE.get(name)
    if rule is None and any(name.startswith(p) for p in POOL.split()):
        rule = pool
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = pointwise
    (rule or unknown)(run, func, args, kwargs, out)


def unknown(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pin everything that goes in; what comes out belongs to nobody."""
    for tensor in tensors((args, kwargs)):
        tag = run.of(tensor)
        for labels in (tag.labels, *tag.fields):
            run.union.pin(labels, f"{func.overloadpacket.__name__} in {run.module} mixes them")


def dead_of(run: Run, tag: Tag, name: str) -> Dead:
    """The deadness of f(x): kept where f(0) = 0."""
    if name in SCALES.split() or not tag.dead.sites:
        return tag.dead
    if name in ZERO.split():
        return replace(tag.dead, linear=False)
    return alive(f"{name} in {run.module} does not keep zero at zero")


def alive(why: str) -> Dead:
    from ._labels import Dead

    return Dead(why=why)


# --- data movement: executed on the labels ---------------------------------------------------------------------------


def same(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tag = run.of(args[0])
    for tensor in tensors(out):
        if tensor.shape == tag.labels.shape:
            run.tags[tensor] = tag


def move(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tags = [run.of(t) for t in tensors(args)]
    if len(tags) == 1 and tags[0].fields:
        fields = tuple(compress(func(*map_tensors(lambda _, f=f: f, args), **kwargs)) for f in tags[0].fields)
        run.set(out, run.zeros(out), fields)
        return
    many = iter([element_labels(run, tag) for tag in tags])
    run.set(out, func(*map_tensors(lambda _: next(many), args), **kwargs), dead=all_of([t.dead for t in tags]))


def all_of(dead: list[Dead]) -> Dead:
    """Dead where all of these are."""
    for d in dead:
        if not d.sites:
            return d
    return replace(dead[0], sites=frozenset[str]().union(*(d.sites for d in dead)), linear=all(d.linear for d in dead))


def view(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tag = run.of(args[0])

    def reshape(labels: Tensor) -> Tensor:
        new = compress(labels.reshape(out.shape))
        for ins, outs in regroup(labels.shape, out.shape):
            varying = [d for d, v in enumerate(run.union.varies(new)) if v and d in outs]
            if len(varying) < 2:
                continue
            if len([d for d in ins if labels.shape[d] > 1]) > 1:
                run.union.pin(labels, f"a view in {run.module} regroups them")
            for dim in varying[:-1]:  # (B, g·k) -> (B, g, k): the same positions go from every one of the g groups
                run.union.unite(new, new.narrow(dim, 0, 1), f"a view in {run.module} splits them")
        return new

    run.set(out, reshape(tag.labels), tuple(map(reshape, tag.fields)), tag.dead)


def regroup(before: torch.Size, after: torch.Size) -> list[tuple[list[int], list[int]]]:
    """The dimensions of a view, cut into the smallest groups of equal size: [(dims before, dims after), ...]."""
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


def parts(run: Run, tag: Tag, dim: int, sizes: list[int], what: str) -> None:
    """Parts of equal size couple their positions, for Python computes such sizes from the shape; others are pinned."""
    total = tag.labels.shape[dim]
    for labels in (tag.labels, *tag.fields):
        if not run.union.varies(labels)[dim]:
            continue
        if len(set(sizes)) == 1 and total % sizes[0] == 0 and total > sizes[0]:
            rows = labels.movedim(dim, 0).unflatten(0, (-1, sizes[0]))
            run.union.unite(rows, rows[:1], f"{what} in {run.module} splits them")
        elif sizes != [total]:
            run.union.pin(labels, f"{what} in {run.module} takes a fixed part of them")


def split(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    tag = run.of(args[0])
    parts(run, tag, dim, [t.shape[dim] for t in out], "a split")
    pieces = [func(f, *args[1:], **kwargs) for f in (tag.labels, *tag.fields)]
    for tensor, labels, *fields in zip(out, *pieces, strict=True):
        run.set(tensor, labels, tuple(fields), tag.dead)


def take(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """slice, select, unbind, narrow, roll: by position."""
    name, tag = func.overloadpacket.__name__, run.of(args[0])
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    dims = dim if isinstance(dim, (list, tuple)) else [dim]
    if name == "roll":
        dims = args[2] if len(args) > 2 else list(range(tag.labels.ndim))
    for d in dims:
        start = args[2] if name == "slice" and len(args) > 2 and args[2] is not None else 0
        length = out.shape[d] if name in ("slice", "narrow") else 0
        start += tag.labels.shape[d] if start < 0 else 0
        step = args[4] if name == "slice" and len(args) > 4 else 1
        even = length and step == 1 and start % length == 0
        parts(run, tag, d, [length] if even else [0, 1], f"{name} by position")
    pieces = [func(f, *args[1:], **kwargs) for f in (tag.labels, *tag.fields)]
    outs, pieces = (out, pieces) if isinstance(out, (list, tuple)) else ([out], [[p] for p in pieces])
    for tensor, labels, *fields in zip(outs, *pieces, strict=True):
        run.set(tensor, labels, tuple(fields), tag.dead)


def pad(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Zeros beside channels belong to them; zeros between channels are a constant of fixed size."""
    tag = run.of(args[0])
    for back in range(len(args[1]) // 2):
        if (args[1][2 * back] or args[1][2 * back + 1]) and run.union.varies(tag.labels)[-1 - back]:
            return unknown(run, func, args, kwargs, out)
    run.set(out, stretch(tag.labels, out.shape), dead=tag.dead if not any(args[2:]) else alive("padding is not zero"))
    return None


def stretch(labels: Tensor, shape: torch.Size) -> Tensor:
    """``labels`` with every dimension whose size changed cut to one index and expanded to its new size."""
    for dim, size in enumerate(shape):
        if labels.shape[dim] != size:
            labels = labels.narrow(dim, 0, 1)
    return labels.expand(shape)


# --- elementwise: labels that meet are united ------------------------------------------------------------------------


def pointwise(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    found = tensors((args, kwargs))
    target = next((t for t in tensors(out)), None)
    if target is None:
        return
    name = func.overloadpacket.__name__
    tags = [run.of(t) for t in found]
    labels = meet(run, tags, target.shape, f"{name} in {run.module}")
    dead = combine(run, name, [t for t in tags if t.labels.numel() > 1 or t.dead.sites], args)
    for tensor in tensors(out):
        if tensor.shape == target.shape:
            run.set(tensor, labels, dead=dead)


def combine(run: Run, name: str, tags: list[Tag], args: tuple[Any, ...]) -> Dead:
    """The deadness of an elementwise function of several tensors."""
    dead = [t.dead for t in tags]
    touched = [d for d in dead if d.sites]
    if not touched:
        return next((d for d in dead), alive("it is not multiplied by noise"))
    if name in ("mul", "mul_"):
        return touched[0] if len(touched) == 1 else replace(touched[0], linear=False)
    if name in ("div", "div_") and dead[0].sites:
        return dead[0] if len(touched) == 1 else replace(dead[0], linear=False)
    if name in ("add", "add_", "sub", "sub_") and not any(isinstance(a, (int, float)) and a for a in args):
        if len(touched) == len(dead):
            return replace(all_of(dead), linear=all(d.linear for d in dead) and len({d.sites for d in dead}) == 1)
        return alive(f"{name} in {run.module} adds something that noise does not multiply")
    if len(tags) == 1 or name == "_prelu_kernel":
        return dead_of(run, tags[0], name)
    return alive(f"{name} in {run.module} does not keep zero at zero")


def element_labels(run: Run, tag: Tag, where: list[bool] | None = None) -> Tensor:
    """Labels of the elements of (a view of) a parameter: those of the dimension that varies where others do."""
    if not tag.fields:
        return tag.labels
    live = [f for f in tag.fields if any(v and (where is None or where[d]) for d, v in enumerate(run.union.varies(f)))]
    if len(live) > 1:
        for labels in live:
            run.union.pin(labels, f"{run.module} uses a parameter along several dimensions at once")
    return live[0] if len(live) == 1 else tag.labels


def meet(run: Run, tags: list[Tag], shape: torch.Size, what: str) -> Tensor:
    """Unite the labels of tensors that broadcast to ``shape``; the labels of the result."""
    padded = [pad_left(tag, len(shape)) for tag in tags]
    acting = [run.union.varies(tag.labels) for tag in padded]
    where = [any(v[d] for v in acting) for d in range(len(shape))]
    everything = [element_labels(run, tag, where) for tag in padded]
    varying = [run.union.varies(labels) for labels in everything]
    meeting: list[Tensor] = []
    for i, labels in enumerate(everything):
        others = [any(v[d] for k, v in enumerate(varying) if k != i) for d in range(len(shape))]
        if any(o and labels.shape[d] == 1 and shape[d] > 1 for d, o in enumerate(others)):
            run.union.pin(labels, f"{what} broadcasts them over channels")
        elif bool((core(labels) != 0).any()) or any(o and labels.shape[d] > 1 for d, o in enumerate(others)):
            meeting.append(labels)
    for labels in meeting[1:]:
        run.union.unite(*torch.broadcast_tensors(meeting[0], labels), f"{what} meets a constant or a network input")
    written = [labels for labels in meeting if bool((core(labels) != 0).any())]
    return (written or [run.zeros(torch.empty(shape, device="meta"))])[0].expand(shape)


def pad_left(tag: Tag, ndim: int) -> Tag:
    def up(labels: Tensor) -> Tensor:
        return labels[(None,) * (ndim - labels.ndim) + (...,)]

    return replace(tag, labels=up(tag.labels), fields=tuple(map(up, tag.fields)))


# --- contractions: read and write ------------------------------------------------------------------------------------


def weight_labels(run: Run, tag: Tag, dim: int) -> Tensor | None:
    """The labels of a weight along ``dim``, if they vary along it alone; label 0 along a dimension of size 1."""
    dim %= tag.labels.ndim
    if not tag.fields:
        return None
    if tag.labels.shape[dim] == 1:
        return torch.zeros(1, dtype=torch.int64)
    live = [f for f in tag.fields if (v := raw_varies(f))[dim]]
    if len(live) != 1 or sum(raw_varies(live[0])) != 1:
        return None
    return core(live[0]).flatten()


def raw_varies(labels: Tensor) -> list[bool]:
    small = core(labels)
    return [n > 1 and bool((small != small.narrow(d, 0, 1)).any()) for d, n in enumerate(small.shape)]


def contract(run: Run, x: Tag, w: Tag, dim: int, own_in: int, own_out: int, what: str) -> Tensor | None:
    """``x`` is contracted along ``dim`` with dimension ``own_in`` of a weight; the labels that it writes."""
    reads, writes = weight_labels(run, w, own_in), weight_labels(run, w, own_out)
    if reads is None or writes is None:
        for labels in (x.labels, *w.fields):
            run.union.pin(labels, f"{what} in {run.module} contracts them with no plain weight")
        return None
    run.reads(reads, run.union.along(x.labels, dim, f"{run.module} reads them at several positions"), x.dead)
    run.writes(writes)
    return writes


def mm(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """x @ W or W @ x, with or without a bias, in any number of dimensions."""
    name = func.overloadpacket.__name__
    bias, a, b = (args if name in ("addmm", "baddbmm") else (None, *args))[:3]
    ta, tb = run.of(a), run.of(b)
    if tb.fields and not ta.fields:
        writes, shape = contract(run, ta, tb, -1, -2, -1, name), (-1,)
    elif ta.fields and not tb.fields:
        writes, shape = contract(run, tb, ta, -2, -1, -2, name), (-1, 1)
    else:
        return unknown(run, func, (a, b), {}, out)
    if writes is not None:
        run.set(out, writes.view(shape).expand(out.shape))
    return add_bias(run, out, bias)


def add_bias(run: Run, out: Tensor, bias: Tensor | None) -> None:
    if bias is not None:
        run.set(out, meet(run, [run.of(out), run.of(bias)], out.shape, f"the bias of {run.module}"))


def linear(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    writes = contract(run, run.of(args[0]), run.of(args[1]), -1, 1, 0, "linear")
    if writes is not None:
        run.set(out, writes.expand(out.shape))
    add_bias(run, out, args[2] if len(args) > 2 else None)


def convolution(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, w, bias, transposed, groups = run.of(args[0]), run.of(args[1]), args[2], args[6], args[8]
    channels = args[0].shape[1]
    inner, outer = (0, 1) if transposed else (1, 0)
    if groups == 1:
        writes = contract(run, x, w, 1, inner, outer, "convolution")
    elif args[1].shape[1] == 1 and groups == channels and not transposed:
        writes = weight_labels(run, w, 0)  # depthwise: filter i passes channel i on
        if writes is not None:
            passed = run.union.along(x.labels, 1, f"{run.module} reads them at several positions")
            run.union.unite(writes.view(channels, -1), passed[:, None], f"{run.module} filters a network input")
    else:
        return unknown(run, func, args, kwargs, out)
    if writes is None:
        return unknown(run, func, args[:2], {}, out)
    dead = x.dead if groups > 1 and bias is None else alive(f"the bias of {run.module} is added")
    shape = (1, -1) + (1,) * (out.ndim - 2)
    labels = writes.view(shape)
    if bias is not None:
        own = element_labels(run, run.of(bias))
        run.union.unite(labels.flatten(), own, f"{run.module} adds a constant")
    run.set(out, labels.expand(out.shape), dead=dead if groups > 1 else alive("it is not multiplied by noise"))
    return None


def embedding(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    writes = weight_labels(run, run.of(args[0]), 1)
    if writes is None:
        return unknown(run, func, args, kwargs, out)
    run.writes(writes)
    run.set(out, writes.expand(out.shape))
    return None


def batch_norm(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, result = run.of(args[0]), tensors(out)[0]
    labels = run.union.along(x.labels, 1, f"{run.module} normalises several positions as one")
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            run.union.unite(labels, element_labels(run, run.of(tensor)), f"{run.module} normalises a network input")
    shape = (1, -1) + (1,) * (result.ndim - 2)
    run.set(result, labels.view(shape).expand(result.shape), dead=alive(f"BatchNorm {run.module} shifts them"))


# --- reductions ------------------------------------------------------------------------------------------------------


def pool(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Pools, interpolation and padding over the last 1, 2 or 3 dimensions."""
    tag = run.of(args[0])
    name = func.overloadpacket.__name__
    over = next((int(d) for d in "123" if f"{d}d" in name), tag.labels.ndim - 2)
    if any(run.union.varies(tag.labels)[-over:]):
        return unknown(run, func, args[:1], {}, out)
    for tensor in tensors(out):
        run.set(tensor, stretch(tag.labels, tensor.shape), dead=tag.dead)
    return None


def reduce(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """mean, sum, amax ...: labels stay where they are constant along what is reduced."""
    tag, ndim = run.of(args[0]), args[0].ndim
    dims = next((a for a in (*args[1:], kwargs.get("dim")) if isinstance(a, (list, tuple))), None)
    if dims is None:
        dims = [a for a in args[1:2] if type(a) is int] or list(range(ndim))
    over = {d % ndim for d in dims or range(ndim)}
    varying = run.union.varies(tag.labels)
    if any(varying[d] for d in over):
        return unknown(run, func, args[:1], {}, out)
    for tensor in tensors(out):
        labels = tag.labels
        for d in sorted(over, reverse=True):
            labels = labels.select(d, 0) if tensor.ndim < ndim else labels.narrow(d, 0, 1)
        keeps = func.overloadpacket.__name__ in ("mean", "sum", "amax", "amin")
        run.set(tensor, labels, dead=tag.dead if keeps else alive(f"{func} does not keep zero at zero"))
    return None


def along(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """softmax and its like: fine along a dimension where labels are constant."""
    tag = run.of(args[0])
    dim = next((a for a in args[1:] if type(a) is int), -1)
    if not tag.labels.ndim or run.union.varies(tag.labels)[dim]:
        return unknown(run, func, args[:1], {}, out)
    for tensor in tensors(out):
        run.set(tensor, stretch(tag.labels, tensor.shape), dead=alive("softmax does not keep zero at zero"))
    return None


def glu(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tag, dim = run.of(args[0]), args[1] if len(args) > 1 else -1
    parts(run, tag, dim, [out.shape[dim]] * 2, "glu")
    run.set(out, tag.labels.narrow(dim, 0, out.shape[dim]), dead=replace(tag.dead, linear=False))


TABLE: dict[str, Rule] = {
    **dict.fromkeys(SAME.split(), same),
    **dict.fromkeys(MOVE.split(), move),
    **dict.fromkeys(VIEW.split(), view),
    **dict.fromkeys(POINTWISE.split(), pointwise),
    **dict.fromkeys(REDUCE.split(), reduce),
    **dict.fromkeys(ALONG.split(), along),
    **dict.fromkeys(NORM.split(), unknown),
    **dict.fromkeys(BATCHNORM.split(), batch_norm),
    **dict.fromkeys("split split_with_sizes".split(), split),
    **dict.fromkeys("slice select unbind roll narrow".split(), take),
    **dict.fromkeys("mm addmm bmm baddbmm matmul".split(), mm),
    "constant_pad_nd": pad,
    "convolution": convolution,
    "linear": linear,
    "embedding": embedding,
    "glu": glu,
}
