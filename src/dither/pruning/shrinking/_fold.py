"""What hand-placed noise leaves behind moves into the weights: Eθ of what stays, the constants of what is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cutting._cut import holders
from ..cutting._plain import FixedScale, SelectedLinear, replace_module
from ..labels import Constant, Space

STRONG = 0.1  # of a reader's largest constant: enough to carry all others without losing digits
WITH_BIAS = {layer.forward for layer in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, SelectedLinear)}


def fold(net: nn.Module, spaces: tuple[Space, ...], sites: Mapping[str, FixedScale]) -> dict[str, bool]:
    """Move the scales of hand-placed noise into the weights that read the channels, in place, where that is exact.

    It is where everything between the noise and every reader scales: f(cx) = c f(x) for c > 0.

    Returns:
        For each noise layer, whether it is gone.
    """
    folded = {name: _foldable(name, len(scale.scale), spaces) for name, scale in sites.items()}
    weights = dict(net.named_parameters())
    for space in spaces:
        for name in [n for n in space.noise if folded.get(n)]:
            at, scale = space.noise[name].to(sites[name].scale.device), sites[name].scale
            factor = scale.new_ones(space.size).index_copy_(0, at[at >= 0], scale[at >= 0])
            for tensor, dim in space.readers:
                weight, channel = weights[tensor], space.slots[tensor, dim].to(scale.device)
                column = torch.where(channel >= 0, factor[channel.clamp(min=0)], 1.0)
                with torch.no_grad():
                    weight.mul_(column.view([-1 if d == dim else 1 for d in range(weight.ndim)]).to(weight.dtype))
    for name in [n for n, gone in folded.items() if gone]:
        replace_module(net, sites[name], nn.Identity())
    return folded


def _foldable(name: str, size: int, spaces: tuple[Space, ...]) -> bool:
    """Whether every feature of a noise layer is one channel of a space whose readers can take the scale."""
    times = torch.zeros(size, dtype=torch.int64)
    for space in spaces:
        if name in space.noise and space.reason is None and space.linear:
            at = space.noise[name]
            once = torch.bincount(at[at >= 0], minlength=space.size) == 1
            times += (at >= 0) & once[at.clamp(min=0)]
    return bool((times == 1).all())


@torch.no_grad()
def absorb(net: nn.Module, chosen: Sequence[tuple[Space, Tensor]]) -> tuple[list[tuple[Space, Tensor]], dict[str, str]]:
    r"""Let the readers do without dropped channels that are constants c and not zeros, in place.

    A reader that sees every column at every position takes them into its bias, which it gets if it has none:

    .. math:: W x + b = \sum_{i \text{ stays}} W_i x_i + \Big(b + \sum_{i \text{ dropped}} W_i c_i\Big)

    One that pads with zeros does not see c at the border, so no bias can stand for it. There one dropped channel j
    stays, constant as it is, and carries all others: W_j becomes Σ W_i c_i / c_j, for every reader of the space.

    Args:
        net: The network at full size, with the scales of dropped channels at zero.
        chosen: Spaces that lose channels, with a mask of what stays.

    Returns:
        ``chosen`` with the carriers among what stays, and the weight of every layer that got a bias, by layer.
    """
    named, held = dict(net.named_parameters()), holders(net)
    result: list[tuple[Space, Tensor]] = []
    born: dict[str, str] = {}
    for space, keep in chosen:
        lost = {c: values for c in space.constants if bool((values := _lost(c, space, keep)).any())}
        owners = {c: owner for c in lost if (owner := _owner(net, c, named, held)) is not None}
        carriers = _carriers(space, lost) if len(owners) < len(lost) else []
        for c, values in lost.items() if not carriers else ():
            born |= {c.module: c.slot[0]} if owners[c].bias is None else {}
            give_bias(owners[c])
            _into_bias(owners[c], values)
        for slot, values in {c.slot: values for c, values in lost.items()}.items() if carriers else ():
            _into_carrier(named[slot[0]], slot[1], values, torch.isin(space.slots[slot], torch.tensor(carriers)))
        stays = keep.clone()
        stays[carriers] = True
        result.append((space, stays))
    return result, born


def _lost(c: Constant, space: Space, keep: Tensor) -> Tensor:
    """What the columns of dropped channels get; 0 for all others."""
    channel = space.slots[c.slot]
    return torch.where((channel >= 0) & ~keep[channel.clamp(min=0)], c.values, 0)


def _owner(
    net: nn.Module, c: Constant, named: Mapping[str, Tensor], held: Mapping[int, list[tuple[nn.Module, str]]]
) -> Any:
    """The layer whose bias is added wherever the weight reads, and nowhere else."""
    layer: Any = dict(net.named_modules()).get(c.module)
    if c.border or getattr(type(layer), "forward", None) not in WITH_BIAS or layer.weight is not named[c.slot[0]]:
        return None
    return layer if layer.bias is None or len(held.get(id(layer.bias), ())) < 2 else None


def give_bias(layer: Any) -> None:
    """A bias of zeros for a layer that has none, in place."""
    if layer.bias is None:
        zeros = layer.weight.detach().new_zeros(len(layer.weight))
        layer.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)


def _into_bias(layer: Any, values: Tensor) -> None:
    """B + Σ W_i c_i, with the sum of a kernel over its positions for W_i."""
    weight = layer.weight.double()
    total = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    layer.bias.add_((total @ values.to(total.device)).to(layer.bias.dtype))


def _carriers(space: Space, lost: Mapping[Constant, Tensor]) -> list[int]:
    """Dropped channels that carry the constants of all: one if it can be, none that is small beside what it carries."""
    strength: list[Tensor] = []
    for c, values in lost.items():
        at = space.slots[c.slot].clamp(min=0)
        strength.append(
            torch.zeros(space.size).double().scatter_reduce_(0, at, values.abs() / values.abs().max(), "amax")
        )
    carriers = [int(torch.stack(strength).amin(0).argmax())]
    for each in strength:
        if not bool((each[carriers] >= STRONG).any()):
            carriers.append(int(each.argmax()))
    return carriers


def _into_carrier(weight: Tensor, dim: int, values: Tensor, carries: Tensor) -> None:
    """W_j = Σ W_i c_i / c_j for the strongest column that carries; the other columns then read nothing."""
    columns, values = weight.movedim(dim, -1), values.to(weight.device)
    j = int(torch.where(carries.to(values.device), values.abs(), -1).argmax())
    merged = (columns.double() @ values) / values[j]
    columns[..., values != 0] = 0
    columns[..., j] = merged.to(weight.dtype)
