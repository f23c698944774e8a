"""masked and shrink: carry a plan out, at full size with zeros, or physically."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import Inputs, tensors, varied, with_batch
from ._apply import apply_shrunk
from ._cut import ShrinkError, difference, keep_slots
from ._decision import check, choose, select, to_json
from ._gates import find_bank, gates, ungate
from ._plain import FixedScale, replace_module
from ._plan import Plan
from .labels import Space, analyse


def masked(net: nn.Module, plan: Plan) -> nn.Module:
    """The network that ``plan`` means, at full size: Eθ where it keeps, zeros where it drops.

    What `shrink` must equal. Plain layers: the means are multiplied into the weights that read the channels.

    Args:
        net: The network that the plan was made for.
        plan: What `plan` returned.

    Returns:
        A new module without noise.

    Raises:
        ValueError: If the plan was made for another network.
    """
    check(net, plan)
    plain = copy.deepcopy(net)
    bank = find_bank(plain)
    if bank is not None:
        kept = {c.name: c.kept for c in (*plan.spaces, *plan.columns)}
        theta = [mean_theta(layer, kept[name]) for name, layer in bank.layers.items()]
        ungate(plain, torch.cat([*theta, theta[0].new_ones(1)]))
    for name, layer in gates(plain).items():
        replace_module(plain, layer, FixedScale(mean_theta(layer, plan.sites[name]), layer.dim))
    return plain


@torch.no_grad()
def mean_theta(layer: Any, kept: tuple[int, ...]) -> Tensor:
    """Eθ at the indices ``kept`` and 0 elsewhere."""
    mean = layer.distribution.mean
    index = torch.tensor(kept, dtype=torch.int64, device=mean.device)
    return torch.zeros_like(mean).index_copy_(0, index, mean[index])


def shrink(net: nn.Module, plan: Plan, example_inputs: Inputs) -> nn.Module:
    """A physically smaller network of plain layers that computes what `masked` computes.

    Eθ is folded into the weights; dropped channels, and every slice of every tensor that goes with them, are cut out.
    The result is compared with the masked network on the example inputs and on another batch size before it is
    returned; a network that differs never leaves this function. Dtype, device, mode, ``requires_grad`` and memory
    format are kept.

    Args:
        net: What `attach` returned, trained, or a network with hand-placed noise. It is not changed.
        plan: What to keep.
        example_inputs: As for `attach`.

    Returns:
        A new module of the same class. Its attribute ``dither_shrunk`` tells `dither.save` what was cut.

    Raises:
        ValueError: If the plan was made for another network.
        ShrinkError: If the smaller network is not the same function.

    Example:
        >>> from dither.pruning import attach, plan
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> with torch.no_grad():
        ...     _ = gates(net)["0"].log_scale[:12].fill_(3.0)
        >>> shrink(net, plan(net, torch.zeros(1, 8)), torch.zeros(1, 8))
        Sequential(
          (0): Linear(in_features=8, out_features=4, bias=True)
          (1): ReLU()
          (2): Linear(in_features=4, out_features=4, bias=True)
        )
    """
    whole = masked(net, plan)
    small = copy.deepcopy(whole)
    analysis = analyse(ungate(copy.deepcopy(net)), example_inputs)
    chosen = choose(plan, analysis)
    sites = {name: m for name, m in small.named_modules() if isinstance(m, FixedScale) and name in plan.sites}
    folded = fold(small, analysis.spaces, sites)
    kept = keep_slots(chosen)
    for name in (n for n, gone in folded.items() if not gone):
        kept[f"{name}.scale"] = {0: _features_left(name, chosen, len(sites[name].scale))}
    selects = select(kept, {c.name.removesuffix("[in]"): c.kept for c in plan.columns}, small)
    record = {"kept": to_json(kept), "selects": selects, "scales": folded}
    apply_shrunk(small, record)
    rows = next((len(t) for t in tensors(example_inputs) if t.ndim), 0)
    worst = difference(whole, small, [example_inputs, with_batch(varied(example_inputs), rows + 1)])
    if not worst <= 1:
        raise ShrinkError(
            f"the shrunk network differs from the masked one by {worst:.3g} times the tolerance; nothing was returned. "
            "Leave the layers of the plan out one by one with attach(skip=[...]) to find the one to blame."
        )
    before = getattr(net, "dither_shrunk", None)  # shrunk once already: both steps rebuild it from the original
    small.dither_shrunk = {**record, "plan": plan.to_dict(), "before": before}  # pyright: ignore[reportArgumentType]
    return small


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


def _features_left(name: str, chosen: list[tuple[Space, Tensor]], size: int) -> Tensor:
    """The features of a noise layer whose channels stay."""
    stays = torch.ones(size, dtype=torch.bool)
    for space, keep in chosen:
        if name in space.noise:
            at = space.noise[name]
            stays &= (at < 0) | keep[at.clamp(min=0)]
    return stays.nonzero().flatten()
