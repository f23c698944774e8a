"""A plan against the network: does it fit, which channels stay, and which columns of which layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..._processes import check_whole
from ..cutting._cut import Kept
from ..cutting._plain import SelectedLinear
from ..labels import Analysis, Space
from ..noise._check import check_gates
from ..noise._gates import gates
from ._edited import check_indices, check_spaces
from ._plan import Plan, fingerprint


def check(net: nn.Module, plan: Plan) -> None:
    """Is the plan for this network, and one that it can follow?

    Raises:
        ValueError: If it is for another one, or was edited to keep what is not there, or a gate has exploded, or the
            network is sharded.
    """
    check_whole(net)
    known = {c.name for c in (*plan.spaces, *plan.columns)} | plan.sites.keys()
    needed = plan.sites.keys() or {c.name for c in (*plan.spaces, *plan.columns) if c.snr is not None}
    layers = gates(net)
    if fingerprint(net) != plan.network or not needed <= layers.keys() <= known:
        raise ValueError(
            "this plan was made for another network (names or shapes of its tensors, or its noise, differ); "
            "call pruning.plan(net, example_inputs) on the network that you want to shrink."
        )
    check_indices(plan, layers)
    check_gates(layers)


def choose(plan: Plan, analysis: Analysis) -> list[tuple[Space, Tensor]]:
    """The spaces that lose channels, and which of their channels stay, as a mask.

    Raises:
        ValueError: If the plan names a space that the network does not have, or removes what cannot be removed.
    """
    spaces = {space.name: space for space in analysis.spaces}
    chosen: list[tuple[Space, Tensor]] = []
    for choice in plan.spaces:
        if len(choice.kept) == choice.total:
            continue
        space = spaces.get(choice.name)
        if space is None or space.size != choice.total:
            raise ValueError(
                f'the plan names {choice.total} channels of "{choice.name}", which this network does not have.'
            )
        keep = torch.zeros(space.size, dtype=torch.bool)
        keep[list(choice.kept)] = True
        chosen.append((space, keep))
    check_spaces(chosen, plan.sites)
    return chosen


def select(kept: Kept, columns: Mapping[str, tuple[int, ...]], net: nn.Module) -> dict[str, list[int]]:
    """Narrow ``kept`` to the columns that stay; what each layer selects from the input that is left.

    A layer that selects already is not in the answer: its positions are a tensor, which ``kept`` cuts.
    """
    selects: dict[str, list[int]] = {}
    for name, wanted in columns.items():
        layer = net.get_submodule(name)
        dims = kept.setdefault(f"{name}.weight", {})
        width = layer.in_features  # pyright: ignore[reportAttributeAccessIssue]
        left = dims.get(1, torch.arange(int(width)))  # pyright: ignore[reportArgumentType]
        stays = torch.isin(left, torch.tensor(wanted))
        if not bool(stays.any()):
            stays[0] = True  # never empty; the column is zero in the masked network too
        if not bool(stays.all()):
            dims[1] = left[stays]
            if isinstance(layer, SelectedLinear):
                kept.setdefault(f"{name}.index", {})[0] = left[stays]
            else:
                selects[name] = stays.nonzero().flatten().tolist()
    return selects


def features_left(name: str, chosen: list[tuple[Space, Tensor]], size: int) -> Tensor:
    """The features of a layer of hand-placed noise whose channels stay."""
    stays = torch.ones(size, dtype=torch.bool)
    for space, keep in chosen:
        if name in space.noise:
            at = space.noise[name]
            stays &= (at < 0) | keep[at.clamp(min=0)]
    return stays.nonzero().flatten()


def to_json(kept: Kept) -> dict[str, dict[str, list[int]]]:
    """``kept`` as a file holds it."""
    return {name: {str(dim): index.tolist() for dim, index in dims.items()} for name, dims in kept.items()}


def from_json(kept: Mapping[str, Mapping[str, list[int]]]) -> Kept:
    """What `to_json` was given."""
    return {
        name: {int(dim): torch.tensor(index, dtype=torch.int64) for dim, index in dims.items()}
        for name, dims in kept.items()
    }
