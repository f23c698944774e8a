"""Is a plan possible? One that `plan` made is; one that was edited by hand may ask for what no network can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from ..labels import Space
from ..noise._noise import LogNormalNoise
from ._plan import Plan


def check_indices(plan: Plan, layers: Mapping[str, LogNormalNoise]) -> None:
    """Every choice keeps something, of what is there, once and in order.

    Args:
        plan: The plan, whose names are those of the network.
        layers: The noise of the network.

    Raises:
        ValueError: If not, with the name of the layer and what to write instead.
    """
    seen: set[str] = set()
    for choice in (*plan.spaces, *plan.columns):
        if choice.name in seen:
            raise ValueError(f'the plan decides on "{choice.name}" twice; leave one of the two.')
        seen.add(choice.name)
        if choice.name in layers and choice.total != layers[choice.name].num_features:
            raise ValueError(
                f'the plan says that "{choice.name}" has {choice.total} channels, but it has '
                f"{layers[choice.name].num_features}; total is how many there are before anything is removed."
            )
        if not choice.kept:
            raise ValueError(f'the plan keeps nothing of "{choice.name}"; a layer needs at least one channel.')
        _check_ascending(choice.name, choice.kept, choice.total)
        if len(choice.kept) < choice.total and not plan.sites and choice.name not in layers:
            raise ValueError(
                f'the plan removes channels of "{choice.name}", which carries no noise'
                f"{f' ({choice.reason})' if choice.reason else ''}; keep all {choice.total}."
            )
    for name, kept in plan.sites.items():
        _check_ascending(name, kept, layers[name].num_features)


def check_spaces(chosen: Iterable[tuple[Space, Tensor]], sites: Mapping[str, Sequence[int]]) -> None:
    """Nothing is removed that cannot be, and noise placed by hand is zero on all that is removed.

    Args:
        chosen: The spaces that lose channels, and which of their channels stay.
        sites: What noise placed by hand lets through.

    Raises:
        ValueError: If not, with the name of the layer.
    """
    for space, keep in chosen:
        if space.reason is not None:
            raise ValueError(f'the plan removes channels of "{space.name}", which is not possible: {space.reason}.')
        if sites and not space.noise:
            raise ValueError(f'the plan removes channels of "{space.name}", which carries no noise; keep all of them.')
        for name, at in space.noise.items():
            let = [i for i in sites.get(name, ()) if at[i] >= 0 and not keep[at[i]]]
            if let:
                raise ValueError(
                    f'the plan removes channel {int(at[let[0]])} of "{space.name}", but lets feature {let[0]} of the '
                    f'noise "{name}" pass, which is that channel; take {let} out of sites["{name}"] too.'
                )


def _check_ascending(name: str, kept: Sequence[int], total: int) -> None:
    for index in kept:
        if type(index) is not int or not 0 <= index < total:
            raise ValueError(f'the plan keeps channel {index!r} of "{name}", which has channels 0 to {total - 1}.')
    for before, after in pairwise(kept):
        if after <= before:
            raise ValueError(
                f'the plan keeps channel {after} of "{name}" after {before}; write each channel once, ascending.'
            )
