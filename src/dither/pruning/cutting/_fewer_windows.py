"""Attention in shifted windows, as in torchvision's Swin Transformers, after it lost heads."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerWindows(nn.Module):
    r"""Shifted-window attention with fewer heads than its input has room for.

    .. math:: \mathrm{out} = \sum_{h \in \text{kept}} \operatorname{softmax}(S_h + B_h + M)\, V_h\, O_h

    over the tokens of each window, with the bias B of their relative positions and the mask M between regions that the
    shift has brought together. S is :math:`QK^\top / \sqrt d` or, where the layer has a ``logit_scale`` (version 2),
    the cosine of Q and K, scaled. torchvision's ``ShiftedWindowAttention`` computes d from the width of its input and
    the number of heads; here it is what the weights say. `become` gives a layer that was cut this class; its
    parameters and their names stay.

    Shapes: (B, H, W, C) in and out. Source: Liu et al. 2021, arXiv:2103.14030, and 2022, arXiv:2111.09883.
    """

    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    relative_position_index: Tensor

    @classmethod
    def become(cls, layer: nn.Module) -> None:
        """Turn ``layer`` into one of this class, in place."""
        layer.__class__ = cls

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns) = self.window_size, x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -columns % width, 0, -rows % height))
        sizes = x.shape[1:3]
        shift = [0 if w >= n else by for w, n, by in zip(self.window_size, sizes, self.shift_size, strict=True)]
        tokens = self._windows(x.roll([-by for by in shift], (1, 2)))
        q, k, v = F.linear(tokens, self.qkv.weight, self._bias()).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        scores = self._scores(q.transpose(1, 2), k.transpose(1, 2)) + self._positions()
        if any(shift):
            scores = (scores.unflatten(0, (x.shape[0], -1)) + self._between(sizes, shift, scores)).flatten(0, 1)
        weights = F.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        y = self.proj((weights @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        y = F.dropout(y, self.dropout, self.training).unflatten(1, (height, width))
        y = y.view(x.shape[0], sizes[0] // height, sizes[1] // width, height, width, -1).transpose(2, 3)
        y = y.reshape(x.shape[0], *sizes, -1).roll(shift, (1, 2))
        return y[:, :rows, :columns].contiguous()

    def _windows(self, x: Tensor) -> Tensor:
        """From (B, H, W, C) to (B · windows, positions in a window, C)."""
        height, width = self.window_size
        parts = x.unflatten(2, (-1, width)).unflatten(1, (-1, height))
        return parts.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def _bias(self) -> Tensor | None:
        bias = self.qkv.bias
        if not hasattr(self, "logit_scale") or bias is None:  # pyright: ignore[reportUnnecessaryComparison]
            return bias
        bias, size = bias.clone(), len(bias) // 3
        bias[size : 2 * size].zero_()  # version 2 has none on the keys
        return bias

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        scale = getattr(self, "logit_scale", None)
        if scale is None:
            return q * q.shape[-1] ** -0.5 @ k.mT
        return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale.clamp(max=math.log(100.0)).exp()

    def _positions(self) -> Tensor:
        """A number for each head, query and key in a window."""
        count = self.window_size[0] * self.window_size[1]
        if hasattr(self, "logit_scale"):
            coordinates = self.get_buffer("relative_coords_table").flatten(0, -2)
            table = 16 * self.get_submodule("cpb_mlp")(coordinates).sigmoid()
        else:
            table = self.get_parameter("relative_position_bias_table")
        return table[self.relative_position_index].view(count, count, -1).permute(2, 0, 1)

    def _between(self, sizes: torch.Size, shift: list[int], like: Tensor) -> Tensor:
        """-100 between tokens of a window that the shift has brought together from different sides of the image."""
        region = [
            (at >= size - window).long() + (at >= size - by).long()
            for size, window, by in zip(sizes, self.window_size, shift, strict=True)
            for at in [torch.arange(size, device=like.device)]
        ]
        own = self._windows((3 * region[0][:, None] + region[1])[None, :, :, None])[..., 0]
        return (own[:, :, None] != own[:, None]).to(like.dtype)[:, None] * -100.0
