"""What each operator does to labels. Whatever is not listed pins the labels that it touches, never guesses."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ..._inputs import tensors
from . import _contracting as contracting
from . import _moving as moving
from . import _reducing as reducing
from . import _selecting as selecting
from ._ledger import Call, alike
from ._meeting import pointwise
from ._union import CONSTANT, NEUTRAL, pure

Rule = Callable[[Call], None]

RULES: dict[Rule, str] = {
    moving.same: """clone detach alias contiguous _to_copy lift_fresh lift_fresh_copy native_dropout dropout bernoulli
        fill_ zero_ zeros_like ones_like empty_like full_like rand_like randn_like""",
    moving.restride: "as_strided as_strided_",
    moving.uniform: "zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor",
    moving.move: "permute transpose transpose_ t t_ expand squeeze squeeze_ unsqueeze unsqueeze_ stack flip repeat cat",
    moving.view: "view _unsafe_view reshape unflatten _reshape_alias",
    moving.split: "split split_with_sizes unsafe_split unsafe_split_with_sizes chunk unsafe_chunk",
    moving.narrow: "slice",
    moving.index: "select unbind",
    moving.gather: "index gather",
    moving.roll: "roll",
    selecting.select: "index_select",
    moving.pad: "constant_pad_nd",
    moving.shuffle: "pixel_shuffle pixel_unshuffle channel_shuffle",
    pointwise: """_prelu_kernel hardswish hardswish_ rrelu_with_noise log_sigmoid_forward copy_ masked_fill masked_fill_
        mish_ elu_ celu_ gelu_ threshold_""",
    contracting.linear: "linear",
    contracting.matmul: "mm addmm bmm baddbmm matmul _grouped_mm",
    contracting.attention: """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math
        _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable""",
    contracting.convolution: "convolution",
    contracting.embedding: "embedding",
    reducing.batch_norm: """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm miopen_batch_norm batch_norm""",
    reducing.layer_norm: "native_layer_norm _fused_rms_norm rms_norm",
    reducing.group_norm: "native_group_norm",
    reducing.reduce: """mean sum amax amin var std var_mean std_mean prod logsumexp any all max min argmax argmin median
        linalg_vector_norm norm""",
    reducing.along: "_softmax _safe_softmax _log_softmax cumsum cumprod sort topk kthvalue",
    reducing.glu: "glu",
    reducing.pool: """max_pool avg_pool adaptive_max_pool _adaptive_avg_pool adaptive_avg_pool fractional_max_pool
        upsample_ _upsample_ reflection_pad replication_pad""",
}
BY_NAME = {name: rule for rule, names in RULES.items() if rule is not reducing.pool for name in names.split()}
POOLS = tuple(RULES[reducing.pool].split())  # by the beginning of the name: max_pool2d_with_indices, max_pool3d ...
ALIKE = (pointwise, *(rule for rule in RULES if rule.__module__ == moving.__name__))  # numbers that are alike stay so
VIEWS = (moving.same, moving.view, moving.move)
# What hands numbers to the code: it may decide by them.
VALUES = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2"}


def apply(c: Call) -> None:
    """Give labels to the result of one operator call."""
    rule = BY_NAME.get(c.name)
    if rule is None and c.name.startswith(POOLS):
        rule = reducing.pool
    if rule is None and torch.Tag.pointwise in c.func.tags:
        rule = pointwise
    for tensor in c.tensors:
        c.run.uses_of(tensor)
        if rule not in VIEWS:
            c.run.of(tensor)  # settles its debts: an index of an embedding is used, too
    written = [(t, c.run.of(t).labels) for t in (tensors(c.args[:1]) if c.func._schema.is_mutable else ())]
    if rule is None:
        if c.name in VALUES and any(not pure(c.run.of(t).labels, NEUTRAL) for t in c.tensors):
            c.run.asked.setdefault(c.run.module, c.name)
        c.pin()
    else:
        with _debts_kept(c, rule):
            _try(rule, c)
    for tensor in tensors(c.out) if rule not in ALIKE else ():  # after an unknown operator in place, too
        if pure(c.run.labels(tensor), NEUTRAL):
            c.run.set(tensor, alike(tensor, CONSTANT))
    for tensor, before in written if rule is not moving.move else ():
        c.run.overwritten(tensor, before, c.what)


@contextmanager
def _debts_kept(c: Call, rule: Rule) -> Generator[None]:
    """To look at a tensor in another shape is not to use it: its debts go over to what comes out."""
    given = c.tensors[0] if c.tensors else None
    tag = c.run.tags.get(given) if given is not None and rule in VIEWS else None
    if given is None or tag is None or not tag.debts:
        yield
        return
    c.run.tags[given] = replace(tag, debts=())
    yield
    c.run.tags[given] = tag
    for tensor in tensors(c.out):
        c.run.tags[tensor] = replace(c.run.of(tensor), debts=tag.debts)


def _try(rule: Rule, c: Call) -> None:
    """A call that a rule does not know how to take pins what it touches: never a crash, never a guess."""
    try:
        rule(c)
    except Exception as error:
        for tensor in c.tensors:
            for labels in (tag := c.run.of(tensor)).labels, *tag.fields:
                c.run.union.pin(labels, f"{c.what} is not understood ({error})")
        for tensor in tensors(c.out):
            c.run.set(tensor, alike(tensor, CONSTANT))
