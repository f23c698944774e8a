"""nn.MultiheadAttention after it lost heads, which torch's own forward pass cannot express."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerHeads(nn.MultiheadAttention):
    r"""Multi-head attention with fewer heads than ``embed_dim`` has room for.

    .. math:: \mathrm{out} = \sum_{h \in \text{kept}} \operatorname{softmax}(s\, Q_h K_h^\top + M)\, V_h\, O_h

    with the scale s of the original. `nn.MultiheadAttention` insists on heads × channels = ``embed_dim``, in its own
    forward pass and in the fused kernels of `nn.TransformerEncoderLayer`. So `become` gives a layer that was cut this
    class; its parameters, their names and the call are those of the original. Averaged attention weights are the
    average over the heads that are left.

    Shapes, masks and arguments: `torch.nn.MultiheadAttention`. A mask for each head, (N · heads, L, S), is given with
    all heads of the original.

    Example:
        >>> attention = nn.MultiheadAttention(8, 4)
        >>> FewerHeads.become(attention, [0, 3], rows=(4, 4, 4))
        >>> type(attention).__name__, attention.num_heads
        ('FewerHeads', 2)
    """

    heads: tuple[int, ...]
    heads_before: int
    rows: tuple[int, int, int]
    scale: float

    @classmethod
    def become(cls, layer: nn.MultiheadAttention, heads: Sequence[int], rows: tuple[int, int, int]) -> None:
        """Turn ``layer`` into one with only these heads, in place; its tensors are cut elsewhere.

        Args:
            layer: The layer, not cut before or a `FewerHeads`.
            heads: Positions of the heads that stay, ascending.
            rows: How many rows the projections of queries, keys and values have then, all heads together.
        """
        if not isinstance(layer, FewerHeads):
            layer._qkv_same_embed_dim = False  # what nn.TransformerEncoderLayer asks before it calls its fused kernel
            layer.__class__ = cls
            own = cast("FewerHeads", layer)
            own.heads, own.heads_before = tuple(range(layer.num_heads)), layer.num_heads
            own.scale = 1 / math.sqrt(layer.head_dim)
        own = cast("FewerHeads", layer)
        own.heads = tuple(own.heads[h] for h in heads)
        own.num_heads, own.rows = len(heads), rows

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")

        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in self._projected(query, key, value))
        causal = is_causal and key_padding_mask is None and not need_weights and not self.add_zero_attn
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q)
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
            mask = None if mask is None else F.pad(mask, (0, 1))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            logits = self.scale * q @ k.mT
            weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), dropout)
            out = weights @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale=self.scale)
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)

        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values: (N, L, rows) each."""
        if getattr(self, "in_proj_weight", None) is not None:
            weights = self.in_proj_weight.split(self.rows)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        packed = getattr(self, "in_proj_bias", None)
        biases = (None, None, None) if packed is None else packed.split(self.rows)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one to add to the logits, with a dimension for batch, heads, queries and keys."""

        def added(given: Tensor) -> Tensor:
            if given.is_floating_point():
                return given
            return torch.zeros_like(given, dtype=q.dtype).masked_fill_(given, -math.inf)

        found: list[Tensor] = []
        if mask is not None:
            of_heads = mask.dim() == 3
            every = (
                mask.unflatten(0, (len(q), self.heads_before))[:, list(self.heads)] if of_heads else mask[None, None]
            )
            found.append(added(every))
        if padding is not None:
            found.append(added(padding)[:, None, None])
        return sum(found[1:], found[0]) if found else None
