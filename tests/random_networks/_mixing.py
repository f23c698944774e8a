"""Steps that are drawn rarely: most of them look at all channels at once, or take some by position, and little would be
left to test; the recurrent ones are slow.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks._made import Drawn, Made


def over_channels(d: Drawn) -> Made:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.softmax(1),
        lambda x: x * x.mean(1, keepdim=True),
        lambda x: x * x.amax(1, keepdim=True).sigmoid(),
        F.normalize,
        lambda x: x.cumsum(1),
        lambda x: x - x.mean(),
        lambda x: ((y := x.flatten(2)) @ y.mT @ y).view(x.shape),
        lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1).sum(-1).view(len(x), 1, *x.shape[2:]) + x,
    ]
    return d.one(d.pick(functions))


def by_position(d: Drawn) -> Made | None:
    functions: list[tuple[Callable[[Tensor], Tensor], int]] = [
        (lambda x: x[:, :3], 3),
        (lambda x: x[:, 1:], d.channels - 1),
        (lambda x: x[:, 2:3], 1),
        (lambda x: x[:, ::2], (d.channels + 1) // 2),
        (lambda x: x.roll(1, 1), d.channels),
        (lambda x: x.flip(1), d.channels),
        (lambda x: torch.cat(x.split([1, x.shape[1] - 1], 1)[::-1], 1), d.channels),
        (lambda x: x[:, torch.arange(x.shape[1]).roll(1)], d.channels),
    ]
    run, channels = d.pick(functions)
    return d.one(run, channels) if d.channels >= 3 else None


def constant(d: Drawn) -> Made:
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x + torch.arange(x.shape[1], dtype=x.dtype).view(-1, *(1,) * (x.ndim - 2)),
        lambda x: x * 0.5 + 1,
        lambda x: x + torch.ones_like(x),
        lambda x: torch.cat([x, torch.zeros_like(x)], 1)[:, : x.shape[1]],
    ]
    return d.one(d.pick(functions))


def padded(d: Drawn) -> Made:
    """Two channels of zeros behind the others."""
    return d.one(lambda x: F.pad(x, (0, 0) * (x.ndim - 2) + (0, 2)), d.channels + 2)


def layer_norm(d: Drawn) -> Made:
    layer = d.pick([nn.LayerNorm, nn.RMSNorm])(d.channels)
    return d.one(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), None, layer)


def embedding(d: Drawn) -> Made:
    layer = nn.Embedding(d.channels, d.width)
    return d.one(lambda x, f: f(x.argmax(1)).movedim(-1, 1), d.width, layer)


def attention(d: Drawn) -> Made | None:
    """torch's own layer: it stores the number of its heads."""
    if d.channels % 2:
        return None
    layer = nn.MultiheadAttention(d.channels, 2, batch_first=True)
    return d.one(attend, None, layer)


def attend(x: Tensor, f: nn.Module) -> Tensor:
    y = x.flatten(2).mT
    return f(y, y, y, need_weights=False)[0].mT.reshape(len(x), -1, *x.shape[2:])


def recurrent(d: Drawn) -> Made:
    """An LSTM, a GRU or a plain recurrent layer along the first axis of positions."""
    cell = d.pick([nn.LSTM, nn.GRU, nn.RNN])
    both = d.variant > 5
    layer = cell(d.channels, d.width, batch_first=True, bidirectional=both)
    return d.one(scan, d.width * (2 if both else 1), layer)


def scan(x: Tensor, f: nn.Module) -> Tensor:
    y = f(x.flatten(3).mean(3).mT if x.ndim > 3 else x.mT)[0].mT
    return y.view(*y.shape, *(1,) * (x.ndim - 3)).expand(-1, -1, *x.shape[2:])


STEPS: dict[str, Callable[[Drawn], Made | None]] = {
    "over channels": over_channels,
    "by position": by_position,
    "constant": constant,
    "padded": padded,
    "layer norm": layer_norm,
    "embedding": embedding,
    "attention layer": attention,
    "recurrent": recurrent,
}
