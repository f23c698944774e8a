"""masked and shrink: carry a plan out, at full size with zeros, or physically."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import Inputs, tensors, varied, with_batch
from ._cut import Kept, ShrinkError, cut, difference, keep_slots
from ._gates import find_bank, gates, ungate
from ._plain import FixedScale, replace_module, select_columns
from ._plan import Plan, fingerprint
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
    _check(net, plan)
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
    spaces = {space.name: space for space in analysis.spaces}
    chosen: list[tuple[Space, Tensor]] = []
    for choice in plan.spaces:
        space = spaces.get(choice.name)
        if space is None or space.size != choice.total:
            raise ValueError(
                f'the plan names {choice.total} channels of "{choice.name}", which this network does not have.'
            )
        if len(choice.kept) < choice.total:
            keep = torch.zeros(space.size, dtype=torch.bool)
            keep[list(choice.kept)] = True
            chosen.append((space, keep))
    sites = {name: m for name, m in small.named_modules() if isinstance(m, FixedScale) and name in plan.sites}
    folded = fold(small, analysis.spaces, sites)
    kept = keep_slots(chosen)
    for name in (n for n, gone in folded.items() if not gone):
        kept[f"{name}.scale"] = {0: _features_left(name, chosen, len(sites[name].scale))}
    selects = _select(kept, {c.name.removesuffix("[in]"): c.kept for c in plan.columns}, small)
    record = {"kept": _json(kept), "selects": selects, "scales": folded}
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


def apply_shrunk(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Give a fresh original model the structure of a shrunk one, in place; the values are not touched.

    Args:
        model: A fresh instance of the class that was shrunk.
        record: ``small.dither_shrunk``: kept indices per tensor and dimension, columns per layer, noise layers.

    Returns:
        ``model``.

    Raises:
        ValueError: If the record names a tensor, a layer or an index that the model does not have.
    """
    if record.get("before"):
        apply_shrunk(model, record["before"])
    for name, folded in record["scales"].items():
        layer = _submodule(model, name)
        if not isinstance(layer, (FixedScale, nn.Identity)):
            size, dim = getattr(layer, "num_features", None), getattr(layer, "dim", None)
            if size is None or dim is None:
                raise ValueError(f'the record has noise at "{name}", where the model has a {type(layer).__name__}.')
            layer_scale = FixedScale(torch.ones(size), dim)
            replace_module(model, layer, nn.Identity() if folded else layer_scale)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, dims in record["kept"].items():
        for dim, index in dims.items():
            if (
                name not in named
                or int(dim) >= named[name].ndim
                or not 0 <= min(index, default=0) <= max(index, default=0) < named[name].shape[int(dim)]
            ):
                raise ValueError(
                    f'the record keeps indices of "{name}", dimension {dim}, that the model does not have.'
                )
    kept: Kept = {
        name: {int(dim): torch.tensor(index, dtype=torch.int64) for dim, index in dims.items()}
        for name, dims in record["kept"].items()
    }
    cut(model, kept)
    for name, index in record["selects"].items():
        _submodule(model, name)
        select_columns(model, name, torch.tensor(index, dtype=torch.int64))
    return model


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


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f'the record names a layer "{name}" that the model does not have.') from error


def _json(kept: Kept) -> dict[str, dict[str, list[int]]]:
    return {name: {str(dim): index.tolist() for dim, index in dims.items()} for name, dims in kept.items()}


def _select(kept: Kept, columns: dict[str, tuple[int, ...]], net: nn.Module) -> dict[str, list[int]]:
    """Narrow ``kept`` to the columns that stay; what each layer selects from the input that is left."""
    selects: dict[str, list[int]] = {}
    for name, wanted in columns.items():
        dims = kept.setdefault(f"{name}.weight", {})
        width = net.get_submodule(name).in_features  # pyright: ignore[reportAttributeAccessIssue]
        left = dims.get(1, torch.arange(int(width)))  # pyright: ignore[reportArgumentType]
        stays = torch.isin(left, torch.tensor(wanted))
        if not bool(stays.any()):
            stays[0] = True  # never empty; the column is zero in the masked network too
        if not bool(stays.all()):
            dims[1] = left[stays]
            selects[name] = stays.nonzero().flatten().tolist()
    return selects


def _check(net: nn.Module, plan: Plan) -> None:
    known = {c.name for c in (*plan.spaces, *plan.columns)} | plan.sites.keys()
    needed = plan.sites.keys() or {c.name for c in (*plan.spaces, *plan.columns) if c.snr is not None}
    if fingerprint(net) != plan.network or not needed <= gates(net).keys() <= known:
        raise ValueError(
            "this plan was made for another network (names or shapes of its tensors, or its noise, differ); "
            "call pruning.plan(net, example_inputs) on the network that you want to shrink."
        )
