"""From what a network returns to one tensor with the batch first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Link: TypeAlias = Callable[[Any], Tensor]


def softmax(out: Any) -> Tensor:
    """The default link: softmax over dimension 1 of the logits, at least in float32.

    Logits are the output itself, its attribute ``logits``, or its entry "logits" or "out".

    Raises:
        ValueError: If there are no logits, or they have no class dimension.
    """
    found: Any = out
    if isinstance(out, Mapping):
        found = next((out[name] for name in ("logits", "out") if name in out), None)
    elif not isinstance(out, Tensor):
        found = getattr(out, "logits", None)
    if not isinstance(found, Tensor):
        got = f"a {type(out).__name__}" + (f" with {', '.join(map(repr, out))}" if isinstance(out, Mapping) else "")
        raise ValueError(
            f"the network returns {got}; the softmax needs a tensor of logits, .logits, or an entry 'logits' or 'out'. "
            "Pass link=, a function from what the network returns to a tensor."
        )
    if found.ndim < 2:
        raise ValueError(
            f"the network returns shape {tuple(found.shape)}, the softmax needs (B, K) or (B, K, ...). "
            "For regression pass link=torch.nn.Identity()."
        )
    wide = torch.promote_types(found.dtype, torch.float32)
    return found.softmax(1, dtype=wide)


def apply(link: Link, out: Any, rows: int) -> Tensor:
    """``link(out)``, checked: a finite tensor whose first dimension is the batch.

    Raises:
        ValueError: If it is no tensor, has another number of rows, or is not finite.
    """
    linked = link(out)
    if not isinstance(linked, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"link returned a {type(linked).__name__}, expected a tensor with the batch first")
    if not linked.ndim or linked.shape[0] != rows:
        raise ValueError(
            f"the output for {rows} rows has shape {tuple(linked.shape)}, expected the batch first. Pass link=, a "
            "function from what the network returns to such a tensor."
        )
    return linked


def check_finite(samples: Tensor) -> None:
    """Raise if outputs (S, B, ...) hold NaN or infinity.

    Raises:
        ValueError: If so.
    """
    if bool(torch.isfinite(samples).all()):
        return
    bad = ~torch.isfinite(samples.flatten(2) if samples.ndim > 2 else samples.unsqueeze(2)).all(2)
    raise ValueError(
        f"the network gives outputs that are NaN or infinite in {int(bad.any(1).sum())} of {len(bad)} samples, for "
        f"{int(bad.any(0).sum())} of {bad.shape[1]} rows, though all inputs are finite: it diverged in training, or "
        "its dtype overflows."
    )
