"""What each operator does to labels. Whatever is not listed pins the labels that it touches, never guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..._inputs import tensors
from . import _contracting as contracting
from . import _moving as moving
from . import _reducing as reducing
from . import _selecting as selecting
from ._ledger import Call
from ._meeting import pointwise

Rule = Callable[[Call], None]

RULES: dict[Rule, str] = {
    moving.same: """clone detach alias contiguous _to_copy lift_fresh native_dropout dropout bernoulli fill_ zero_
        zeros_like ones_like empty_like full_like rand_like randn_like""",
    moving.move: "permute transpose t expand squeeze unsqueeze stack flip repeat cat",
    moving.view: "view _unsafe_view reshape unflatten",
    moving.split: "split split_with_sizes",
    moving.narrow: "slice",
    moving.index: "select unbind",
    moving.roll: "roll",
    selecting.select: "index_select",
    moving.pad: "constant_pad_nd",
    pointwise: """_prelu_kernel hardswish hardswish_ rrelu_with_noise log_sigmoid_forward copy_ masked_fill masked_fill_
        mish_ elu_ celu_ gelu_ threshold_""",
    contracting.linear: "linear",
    contracting.matmul: "mm addmm bmm baddbmm matmul",
    contracting.convolution: "convolution",
    contracting.embedding: "embedding",
    contracting.batch_norm: """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        cudnn_batch_norm miopen_batch_norm batch_norm""",
    reducing.reduce: "mean sum amax amin var std var_mean std_mean prod logsumexp any all",
    reducing.along: "_softmax _log_softmax cumsum cumprod sort",
    reducing.glu: "glu",
    reducing.pool: """max_pool avg_pool adaptive_max_pool _adaptive_avg_pool adaptive_avg_pool fractional_max_pool
        upsample_ reflection_pad replication_pad""",
}
BY_NAME = {name: rule for rule, names in RULES.items() if rule is not reducing.pool for name in names.split()}
READERS = (contracting.linear, contracting.matmul, contracting.convolution)  # Eθ moves into their weights
POOLS = tuple(RULES[reducing.pool].split())  # by the beginning of the name: max_pool2d_with_indices, max_pool3d ...


def apply(c: Call) -> None:
    """Give labels to the result of one operator call."""
    rule = BY_NAME.get(c.name)
    if rule is None and c.name.startswith(POOLS):
        rule = reducing.pool
    if rule is None and torch.Tag.pointwise in c.func.tags:
        rule = pointwise
    if rule is None:
        return c.pin()
    rule(c)
    if rule not in READERS or (c.name == "convolution" and c.args[8] > 1):
        _follow(c)
    return None


def _follow(c: Call) -> None:
    """Remember that a result changes with the noise of its arguments, where it is not zero with it."""
    if any((dead := c.run.of(t).dead).sites or dead.follows for t in tensors((c.args, c.kwargs))):
        for tensor in tensors(c.out):
            tag = c.run.of(tensor)
            if not tag.dead.sites:
                c.run.tags[tensor] = replace(tag, dead=replace(tag.dead, follows=True))
