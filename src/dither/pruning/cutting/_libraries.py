"""Classes of other libraries that keep the width of their layers as a number, by library and name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from ._fewer_windows import FewerWindows

if TYPE_CHECKING:
    from ._known import Slices


def qualified(module: nn.Module) -> str:
    """The library and the class: ``"timm.RelPosBias"``."""
    return f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"


# --- by what stays of their own tensors ------------------------------------------------------------------------------
def _conv1d(m: Any, s: Slices) -> None:
    m.nx, m.nf = s.shape(m.weight)


def _bias_of_positions(m: Any, s: Slices) -> None:
    m.bias_shape = (*m.bias_shape[:-1], s.shape(m.relative_position_bias_table)[1])


NAMED: dict[str, Callable[[Any, Slices], None]] = {
    "transformers.Conv1D": _conv1d,
    "timm.RelPosBias": _bias_of_positions,
}


# --- modules that count the channels of the layers in them; these have been told by then -----------------------------
def _mixed_conv(m: Any) -> None:
    m.splits = [conv.in_channels for conv in m.children()]


def _cross_stage(m: Any) -> None:
    m.expand_chs = m.conv_exp.conv.out_channels


def _mask_unit_attention(m: Any) -> None:
    m.dim_out = m.heads * m.head_dim


def _windows(m: Any) -> None:
    if m.qkv.out_features != 3 * m.qkv.in_features:
        FewerWindows.become(m)


OUTER: dict[str, Callable[[Any], None]] = {
    "timm.MixedConv2d": _mixed_conv,
    "timm.CrossStage": _cross_stage,
    "timm.MaskUnitAttention": _mask_unit_attention,
    "torchvision.ShiftedWindowAttention": _windows,
    "torchvision.ShiftedWindowAttentionV2": _windows,
}
