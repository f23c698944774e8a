"""Steps that take channels apart: halves, groups and heads, all by sizes that the code reads from the tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks._made import Drawn, Made, divisors


def halves(d: Drawn) -> Made | None:
    """The two halves of the channels, in one of many ways."""
    functions: list[tuple[Callable[[Tensor], Tensor], float]] = [
        (lambda x: F.glu(x, 1), 0.5),
        (lambda x: x[:, : x.shape[1] // 2], 0.5),
        (lambda x: x.chunk(2, 1)[1], 0.5),
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 1),
        (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].tanh(), 0.5),
        (lambda x: x.unflatten(1, (2, -1)).sum(1), 0.5),
        (lambda x: x.unflatten(1, (-1, 2)).amax(2), 0.5),
        (lambda x: x.view(len(x), 2, -1, *x.shape[2:])[:, 1], 0.5),
    ]
    run, factor = d.pick(functions)
    return d.one(run, int(d.channels * factor)) if d.channels % 2 == 0 and d.channels >= 4 else None


def shuffle(d: Drawn) -> Made | None:
    groups = divisors(d.channels // 2)
    return d.one(Shuffle(d.pick(groups))) if d.channels % 2 == 0 and groups else None


class Shuffle:
    """Channel shuffle: (g, k) -> (k, g)."""

    def __init__(self, groups: int) -> None:
        self.groups = groups

    def __call__(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).reshape(x.shape)


def twice(d: Drawn) -> Made | None:
    """Every channel two times."""
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.repeat(1, 2, *(1,) * (x.ndim - 2)),
        lambda x: x.repeat_interleave(2, 1),
        lambda x: torch.cat([x, -x], 1).relu(),
    ]
    return d.one(d.pick(functions), 2 * d.channels) if d.channels <= 12 else None


def grouped(d: Drawn) -> Made | None:
    found = [g for g in divisors(d.channels) if g < d.channels]
    if not found:
        return None
    groups = d.pick(found)
    width = groups * d.step.other % 4 + groups
    width -= width % groups
    return d.one(lambda x, f: f(x), width, d.layer("Conv", d.channels, width, 3, padding=1, groups=groups))


def group_norm(d: Drawn) -> Made:
    return d.one(lambda x, f: f(x), None, nn.GroupNorm(d.pick(divisors(d.channels, 1)), d.channels))


def to_pixels(d: Drawn) -> Made | None:
    """Channels to positions and back to the size of the map."""
    fits = d.dims == 2 and d.channels % 4 == 0
    return d.one(lambda x: F.avg_pool2d(F.pixel_shuffle(x, 2), 2), d.channels // 4) if fits else None


def from_pixels(d: Drawn) -> Made | None:
    """Positions to channels, by the operator or by slices."""
    if d.dims != 2 or d.channels > 6:
        return None
    unshuffle = F.pixel_unshuffle if d.variant % 2 else slices
    return d.one(lambda x: F.interpolate(unshuffle(x, 2), scale_factor=2), 4 * d.channels)


def slices(x: Tensor, n: int) -> Tensor:
    return torch.cat([x[..., i::n, j::n] for i in range(n) for j in range(n)], 1)


def attention(d: Drawn) -> Made | None:
    """Self-attention over positions, with heads of a width or a number that the code reads from the tensor."""
    if d.channels % 2:
        return None
    c = d.channels
    run = d.pick([heads, fused, separate_heads])
    parts = (nn.Linear(c, 3 * c),) if run is fused else (nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c))
    return d.one(run, None, *parts, nn.Linear(c, c))


def heads(x: Tensor, *layers: nn.Module) -> Tensor:
    """Two heads, as wide as what is left; written out."""
    *qkv, out = layers
    q, k, v = (f(x.flatten(2).mT).unflatten(-1, (2, -1)).transpose(1, 2) for f in qkv)
    y = (q @ k.mT).softmax(-1) @ v
    return out(y.transpose(1, 2).flatten(2)).mT.reshape(len(x), -1, *x.shape[2:])


def fused(x: Tensor, qkv: nn.Module, out: nn.Module) -> Tensor:
    """One layer for q, k and v, in the order of timm's ViT, and torch's own attention."""
    q, k, v = qkv(x.flatten(2).mT).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v)
    return out(y.transpose(1, 2).flatten(2)).mT.reshape(len(x), -1, *x.shape[2:])


def separate_heads(x: Tensor, *layers: nn.Module) -> Tensor:
    """Heads of two features, as many as are left."""
    *qkv, out = layers
    q, k, v = (f(x.flatten(2).mT).unflatten(-1, (-1, 2)).transpose(1, 2) for f in qkv)
    y = F.scaled_dot_product_attention(q, k, v, scale=0.7)
    return out(y.transpose(1, 2).flatten(2)).mT.reshape(len(x), -1, *x.shape[2:])


STEPS: dict[str, Callable[[Drawn], Made | None]] = {
    "halves": halves,
    "shuffle": shuffle,
    "twice": twice,
    "grouped": grouped,
    "group norm": group_norm,
    "to pixels": to_pixels,
    "from pixels": from_pixels,
    "attention": attention,
}
