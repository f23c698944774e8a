"""Operations as torch counts them, and those of attention that is fused on a CPU, which it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry


def attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Twice the multiply-accumulates of softmax(Q Kᵀ) V, where Q is (B, H, L, E), K (B, G, S, E), V (B, G, S, V).

    Example:
        >>> attention((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 3))   # 2 * 4 * 5 * 7 * (8 + 3) multiply-accumulates
        6160
    """
    *heads, queries, width = query
    positions, out = value[-2:]
    count = queries * positions * (width + out)
    for size in heads:
        count *= size
    return 2 * count


ON_CPU: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
MISSING: dict[Any, Any] = {} if ON_CPU in flop_registry else {ON_CPU: attention}


def counter() -> FlopCounterMode:
    """A `FlopCounterMode` that counts all of them; it prints nothing."""
    return FlopCounterMode(display=False, custom_mapping=MISSING)


def flops(operator: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> int | None:
    """Operations of one call, or None if it is none that multiplies matrices."""
    if operator in flop_registry:
        return flop_registry[operator](*args, **kwargs, out_val=out)
    if operator in MISSING:
        return attention(*(tensor.shape for tensor in args[:3]))
    return None
