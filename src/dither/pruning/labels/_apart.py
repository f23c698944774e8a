"""Operators that keep channels apart, and what they make of a number that does not change and of one that does (NaN).

They compute an element from elements of the same class of labels. Of several channels in one class, as in a normalised
group, all are dropped or none. Operators that are not listed here are taken to let everything change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._inputs import map_tensors, tensors
from ._union import core

if TYPE_CHECKING:
    from ._ledger import Call
    from ._shadow import Shadow


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names(
    """alias cat channel_shuffle clone constant_pad_nd contiguous copy_ detach expand flip gather index index_select
    lift_fresh narrow permute pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat
    replication_pad1d replication_pad2d replication_pad3d reshape roll rot90 select slice split split_with_sizes squeeze
    stack t _to_copy transpose unbind unflatten unsafe_split unsqueeze _unsafe_view view"""
)
POINTWISE = _names(  # those that torch does not tag so
    """celu_ elu_ fill_ gelu_ hardswish hardswish_ hardtanh_ log_sigmoid_forward masked_fill masked_fill_ mish_
    _prelu_kernel threshold_ zero_"""
)
COMBINING = _names(  # the positions of a channel, by arithmetic that lets a NaN through
    """amax amin mean sum glu batch_norm native_batch_norm _native_batch_norm_legit
    _native_batch_norm_legit_no_training cudnn_batch_norm miopen_batch_norm native_group_norm native_layer_norm
    _fused_rms_norm rms_norm"""
)
POOLS = (
    "max_pool",
    "avg_pool",
    "adaptive_max_pool",
    "adaptive_avg_pool",
    "_adaptive_avg_pool",
    "upsample_",
    "_upsample_",
)
BLANK = _names("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty")
READERS = _names("linear mm addmm bmm baddbmm matmul convolution embedding")  # their results are channels of their own

# f(cx) = c f(x) for c > 0: a scale can move from their input to their output
SCALES = (MOVES - {"copy_"}) | {"relu", "leaky_relu", "_prelu_kernel", "neg", "abs", "amax", "amin", "mean", "sum"}


def is_pointwise(c: Call) -> bool:
    return (torch.Tag.pointwise in c.func.tags or c.name in POINTWISE) and c.name not in MOVES


def is_grouped(c: Call) -> bool:
    """Whether a convolution passes groups of channels on, each in a class of its own: a depthwise one does."""
    own, result = (c.run.tags.get(tensor) for tensor in (c.args[0], c.out))
    if c.name != "convolution" or c.args[8] == 1 or own is None or result is None:
        return False
    passed, filters = (
        c.run.union.find(core(tag.labels.movedim(1, 0)).flatten(1)[:, 0]).expand(tensor.shape[1]).view(c.args[8], -1)
        for tag, tensor in ((own, c.args[0]), (result, c.out))
    )
    return bool((passed == passed[:, :1]).all()) and bool((filters == passed[:, :1]).all())


def keeps_apart(c: Call) -> bool:
    """Whether an operator is one of these."""
    known = c.name in MOVES or c.name in COMBINING or c.name.startswith(POOLS)
    return known or is_pointwise(c) or is_grouped(c)


def written(c: Call) -> list[Tensor]:
    """The operands that an operator writes into."""
    schema = c.func._schema.arguments
    given = [*zip(schema, c.args, strict=False), *((a, c.kwargs[a.name]) for a in schema if a.name in c.kwargs)]
    return [t for a, value in given if a.alias_info is not None and a.alias_info.is_write for t in tensors(value)]


def scales(c: Call, given: list[Shadow | None]) -> bool:
    """Whether the result is c f(x) where everything that the noise multiplies is c x, c > 0."""
    touched = [shadow for shadow in given if shadow is not None and shadow.sites]
    name = c.name if c.name in SCALES else c.name.removesuffix("_")
    if not all(shadow.linear for shadow in touched):
        return False
    if name == "mul":
        return len(touched) == 1
    if name == "div":
        return len(touched) == 1 and given[0] is touched[0]
    if name in ("add", "sub"):
        return len(touched) == len(c.args[:2]) and touched[0].sites == touched[1].sites
    if c.name == "convolution":
        return c.args[2] is None
    return name in SCALES or c.name.startswith(POOLS)


def execute(c: Call, operands: list[Tensor]) -> list[Tensor | None]:
    """The results of an operator on ``operands`` in the order of its tensors; None for one that changes everywhere."""
    given = iter(operands)
    args, kwargs = map_tensors(lambda _: next(given), (c.args, c.kwargs))
    if c.name in ("view", "_unsafe_view"):
        return [args[0].reshape(c.out.shape)]  # the strides of a shadow may be others
    if c.name in MOVES:
        return list(tensors(c.func(*args, **kwargs)))
    shape = tensors(c.out)[0].shape
    changes, zero = _edges(c, operands[0], shape), _zero(c.name, args, operands[0].device)
    for operand in operands if is_pointwise(c) else ():  # relu(NaN) is NaN, but NaN > 0 is False: say it for all
        changes = changes | operand.isnan()
    results: list[Tensor | None] = []
    for result in tensors(c.func(*args, **kwargs)):
        if c.name == "sum":
            changes = result != 0  # it grows with the number of positions
        if result.shape == shape and bool(changes.any()) and result.is_floating_point():
            result.masked_fill_(changes, torch.nan).masked_fill_(zero, 0)
        known = result.shape == shape and (result.is_floating_point() or not bool(changes.any()))
        results.append(result if known else None)
    return results


def _zero(name: str, args: Any, device: torch.device) -> Tensor:
    """Where a product is zero whatever its other factor is."""
    if name.removesuffix("_") not in ("mul", "div"):
        return torch.tensor(False, device=device)
    a, b = (torch.as_tensor(factor, device=device) for factor in args[:2])
    return (a == 0) & (b != 0) if name.startswith("div") else (a == 0) | (b == 0)


def _edges(c: Call, value: Tensor, shape: torch.Size) -> Tensor:
    """Where a number other than zero meets the zeros that a convolution or an average puts around its input."""
    if c.name == "convolution":
        positions, groups, padding = value.ndim - 2, c.args[8], [1] if c.args[6] else c.args[4]
    elif c.name.startswith("avg_pool") and c.arg(5, "count_include_pad", True):
        positions, padding = int(c.name[len("avg_pool")]), c.arg(3, "padding", 0)
        groups, padding = value.shape[-positions - 1], [padding] if isinstance(padding, int) else padding
    else:
        return torch.tensor(False, device=value.device)
    channel = (value != 0).flatten(-positions).any(-1).unflatten(-1, (groups, -1)).any(-1) & any(padding)
    channel = channel.repeat_interleave(shape[-positions - 1] // groups, -1)
    return channel[(..., *[None] * positions)].expand(shape)
