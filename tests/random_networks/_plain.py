"""Steps whose channels stay apart: layers of every kind, elementwise functions, sums and concats."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.random_networks._made import Drawn, Made, Weight


def conv(d: Drawn) -> Made:
    k = d.pick([1, 3])
    layer = d.layer("Conv", d.channels, d.width, k, padding=k // 2, bias=d.variant < 4)
    return d.one(lambda x, f: f(x), d.width, layer)


def transposed(d: Drawn) -> Made:
    return d.one(lambda x, f: f(x), d.width, d.layer("ConvTranspose", d.channels, d.width, 3, padding=1))


def depthwise(d: Drawn) -> Made:
    filters = d.channels * d.pick([1, 1, 2])
    layer = d.layer("Conv", d.channels, filters, 3, padding=1, groups=d.channels, bias=d.variant < 4)
    return d.one(lambda x, f: f(x), filters, layer)


def norm(d: Drawn) -> Made:
    return d.one(lambda x, f: f(x), None, d.layer("BatchNorm", d.channels, affine=d.variant < 6))


def instance_norm(d: Drawn) -> Made:
    options = d.pick([{"affine": True}, {}, {"affine": True, "track_running_stats": True}])
    return d.one(lambda x, f: f(x), None, d.layer("InstanceNorm", d.channels, **options))


def prelu(d: Drawn) -> Made:
    return d.one(lambda x, f: f(x), None, nn.PReLU(d.pick([1, d.channels])))


def activation(d: Drawn) -> Made:
    functions = [F.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.leaky_relu, F.softplus, F.hardswish]
    return d.one(d.pick(functions))


def scale(d: Drawn) -> Made:
    """A factor or a shift for each channel, stored as (C, 1, 1) or as (C,)."""
    flat = Weight(torch.randn(d.channels))
    deep = Weight(torch.randn(d.channels, *(1,) * d.dims))
    variants: list[tuple[Callable[..., Tensor], Weight]] = [
        (lambda x, s: x * s.value, deep),
        (lambda x, s: x + s.value, deep),
        (lambda x, s: (x.movedim(1, -1) * s.value).movedim(-1, 1), flat),
        (lambda x, s: x * s.value.view(-1, *(1,) * (x.ndim - 2)), flat),
    ]
    run, weight = d.pick(variants)
    return d.one(run, None, weight)


def pixelwise(d: Drawn) -> Made:
    """A linear layer over the channels of each position."""
    linear = nn.Linear(d.channels, d.width)
    return d.one(lambda x, f: f(x.movedim(1, -1)).movedim(-1, 1), d.width, linear)


def product(d: Drawn) -> Made:
    """A matrix product with a bare parameter, stored either way round."""
    if d.variant % 2:
        return d.one(lambda x, w: (w.value @ x.flatten(2)).view(len(x), -1, *x.shape[2:]), d.width, matrix(d, False))
    return d.one(lambda x, w: torch.einsum("bc...,cd->bd...", x, w.value), d.width, matrix(d, True))


def matrix(d: Drawn, inputs_first: bool) -> Weight:
    return Weight(torch.randn(d.channels, d.width) if inputs_first else torch.randn(d.width, d.channels))


def flatten(d: Drawn) -> Made:
    """A linear layer over all positions of all channels, its result at every position (not alike: norms would blow up
    the rounding errors of a constant map).
    """
    size = {1: 4, 2: 16, 3: 8}[d.dims]
    return d.one(spread, d.width, nn.Linear(d.channels * size, d.width))


def spread(x: Tensor, f: nn.Module) -> Tensor:
    fade = torch.linspace(1, 2, x[0, 0].numel(), dtype=x.dtype).view(x.shape[2:])
    return f(x.flatten(1)).view(len(x), -1, *(1,) * (x.ndim - 2)) * fade


def pool(d: Drawn) -> Made:
    return d.one(lambda x: F.interpolate(d_pool(x), size=x.shape[2:]))


def d_pool(x: Tensor) -> Tensor:
    return (F.max_pool1d, F.max_pool2d, F.avg_pool3d)[x.ndim - 3](x, 2)


def again(d: Drawn) -> Made | None:
    """A convolution that is there already, or a new one that shares its weight."""
    convs = [m for m in d.program.layers if isinstance(m, nn.modules.conv._ConvNd) and not m.transposed]
    fitting = [m for m in convs if m.groups == 1 and m.in_channels == d.channels]
    if not fitting:
        return None
    layer = d.pick(fitting)
    if d.step.other % 2:
        tied = d.layer("Conv", d.channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
        tied.weight = layer.weight
        layer = tied
    return d.one(lambda x, f: f(x), layer.out_channels, layer)


def add(d: Drawn) -> Made | None:
    other = d.other(lambda c: c == d.channels)
    functions: list[Callable[[Tensor, Tensor], Tensor]] = [
        *(torch.add, torch.add, torch.add, torch.sub, torch.maximum),
        lambda x, y: x * y.sigmoid(),
        lambda x, y: torch.stack([x, y]).sum(0),
        lambda x, y: torch.where(x > y, x, y * 0.5),
    ]
    return None if other is None else Made(d.channels, (d.at, other), d.pick(functions))


def residual(d: Drawn) -> Made:
    """X + b(relu(a(x)))."""
    a, b = d.layer("Conv", d.channels, d.width, 1), d.layer("Conv", d.width, d.channels, 3, padding=1)
    return d.one(lambda x, a, b: x + b(F.relu(a(x))), None, a, b)


def concat(d: Drawn) -> Made | None:
    other = d.other()
    if other is None or d.channels + d.program.channels[other] > 24:
        return None
    return Made(d.channels + d.program.channels[other], (d.at, other), lambda x, y: torch.cat([x, y], 1))


def excitation(d: Drawn) -> Made:
    """Squeeze and excitation, with a hidden layer or without any."""
    down, up = nn.Linear(d.channels, d.width), nn.Linear(d.width, d.channels)
    if d.variant % 4 == 0:
        return d.one(lambda x: x * x.mean(list(range(2, x.ndim)), keepdim=True).tanh())
    return d.one(excite, None, down, up)


def excite(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    gate = up(F.relu(down(x.flatten(2).mean(2)))).sigmoid()
    return x * gate.view(len(x), -1, *(1,) * (x.ndim - 2))


STEPS: dict[str, Callable[[Drawn], Made | None]] = {
    "conv": conv,
    "conv to another width": conv,
    "transposed": transposed,
    "depthwise": depthwise,
    "norm": norm,
    "instance norm": instance_norm,
    "prelu": prelu,
    "activation": activation,
    "scale": scale,
    "pixelwise": pixelwise,
    "product": product,
    "flatten": flatten,
    "pool": pool,
    "again": again,
    "add": add,
    "residual": residual,
    "concat": concat,
    "excitation": excitation,
}
