"""A plan brought to a budget: the budget decides how many units stay, their signal-to-noise ratio which."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..._cost import compare, cost
from ..._inputs import Inputs, tensors
from ..cutting._cut import twin
from ..cutting._plain import replace_module
from ..measuring._latency import agree
from ..noise._gates import gates, ungate
from ..planning._plan import Choice, Plan
from ..shrinking._shrink import shrink
from ._price import Price

ROUNDS = 3  # of filling and measuring, where the cost cannot be computed
REPEATS = 30  # timed passes of a latency
TOLERANCE = 0.03  # relative difference of a measured cost from the target that is left alone


def within(
    net: nn.Module, example_inputs: Inputs, plan: Plan, price: Price, quantity: str, share: float, threshold: float
) -> Plan:
    """``plan`` with as many units as cost at most ``share`` of the original; see `Target.plan`.

    Raises:
        ValueError: If one unit in every layer costs more than that.
    """
    assert plan.multiple_of != "auto"
    snr = price.units.snr(net).cpu() / threshold
    for choice in plan.spaces:
        if choice.reason is not None and choice.name in price.units.parts:
            snr[price.units.parts[choice.name]] = math.inf  # the code holds on to its size
    keep, offset, found = price.units.kept(plan), 0.0, plan
    before = real = measured(net, plan, example_inputs, quantity)
    for _ in range(1 if price.exact else ROUNDS):
        if not price.exact:
            if abs(real / share - 1) <= TOLERANCE:
                break
            offset = real * price.full - float(price(price.units.kept(found)))
        shifted = dataclasses.replace(price, fixed=price.fixed + offset)
        filled = fill(keep, snr, shifted, share * price.full, plan.multiple_of)
        found = _with(plan, price, filled)
        real = measured(net, found, example_inputs, quantity)
    loud = int(((price.units.kept(found) < keep) & (snr > math.e)).sum())
    if loud:
        warnings.warn(
            f"the budget removes {loud} units that carry signal (SNR above {threshold * math.e:.3g}): without it the "
            f"network would have {before:.3f} of its {quantity}. Train longer with target.control, or ask for less.",
            UserWarning,
            stacklevel=3,
        )
    told = f"Target: at most {share:g} of the {quantity}. By the threshold alone {before:.3f}, this plan {real:.3f}."
    return dataclasses.replace(found, note=f"{plan.note} {told}".strip())


def fill(keep: Tensor, snr: Tensor, price: Price, budget: float, multiple_of: int = 1) -> Tensor:
    """Which units stay, 0 or 1 each, when they may cost ``budget`` together.

    Args:
        keep: Those that should stay, as 1; the others are 0.
        snr: Signal-to-noise ratio of each unit, relative to the threshold.
        price: What they cost; its ``fixed`` part counts.
        budget: In the unit of the price.
        multiple_of: Channels stay and go in groups of so many, the loudest of a space together; a group ranks as its
            loudest does.

    Returns:
        (units,), float64. The best group of every part is there.

    Raises:
        ValueError: If one group in every part costs more than the budget.
    """
    group = price.units.groups(snr, multiple_of)
    count = int(group.max()) + 1
    keep, snr = (
        values.new_full((count,), -math.inf).scatter_reduce(0, group, values, "amax") for values in (keep, snr)
    )
    best = torch.zeros_like(keep)
    for part in price.units.parts.values():
        best[group[part].min()] = 1.0

    def cost(chosen: Tensor) -> float:
        return float(price(chosen[group]))

    least = cost(best)
    if least > budget:
        one = "one unit" if multiple_of == 1 else f"a group of {multiple_of} units"
        raise ValueError(
            f"the target is out of reach: {one} in every layer costs {least / budget:.3g} times as much; ask for a "
            "larger fraction, or put noise on more layers."
        )
    rank = torch.where(best > 0, torch.inf, snr).argsort(descending=True, stable=True)
    wanted = rank[torch.maximum(keep, best)[rank] > 0]
    low, high = int(best.sum()), len(wanted)  # the most of those wanted that fit, in the order of their rank
    while low < high:
        middle = (low + high + 1) // 2
        fits = cost(best.index_fill(0, wanted[:middle], 1.0)) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    filled = best.index_fill(0, wanted[:low], 1.0)
    spent = cost(filled)
    # The last group of a space may be smaller and fit where the one before it did not, which has to come first.
    ends = {int(group[part].max()) for name, part in price.units.parts.items() if not name.endswith("[in]")}
    for item in rank[(filled[rank] == 0) & (snr[rank] > 1 / math.e)].tolist():
        if item in ends and not filled[item - 1]:
            continue
        more = filled.clone()
        more[item] = 1.0
        if spent < (now := cost(more)) <= budget:  # a column of a channel that is gone costs and does nothing
            filled, spent = more, now
    return filled[group]


def measured(net: nn.Module, plan: Plan, example_inputs: Inputs, quantity: str) -> float:
    """What the network shrunk by ``plan`` costs, as a fraction of the original; the same in all processes."""
    original = ungate(twin(net))
    for noise in gates(original).values():
        replace_module(original, noise, nn.Identity())
    small = shrink(net, plan, example_inputs)
    if quantity == "latency":
        rows = next((len(t) for t in tensors(example_inputs) if t.ndim), 1)
        return agree(
            [1 / compare(original, small, example_inputs, batch_sizes=(rows,), repeats=REPEATS).speedup[rows].median]
        )[0]
    costs = [getattr(cost(each, example_inputs, batch_sizes=()), quantity) for each in (small, original)]
    return costs[0] / costs[1]


def _with(plan: Plan, price: Price, keep: Tensor) -> Plan:
    """``plan`` with other units kept."""
    parts = price.units.parts
    masks = {name: keep[part] > 0 for name, part in parts.items()}

    def other(choice: Choice) -> Choice:
        if choice.name not in masks:
            return choice
        return dataclasses.replace(choice, kept=tuple(masks[choice.name].nonzero().flatten().tolist()))

    return dataclasses.replace(
        plan,
        spaces=tuple(map(other, plan.spaces)),
        columns=tuple(map(other, plan.columns)),
        sites=_sites(plan, price, masks),
    )


def _sites(plan: Plan, price: Price, masks: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """What hand-placed noise lets through: of a channel that stays what it did, of one that returned everything."""
    before = {c.name: set(c.kept) for c in plan.spaces}
    sites = {name: set(kept) for name, kept in plan.sites.items()}
    for part, mask in masks.items():
        for name, units in price.units.gates[part].items():
            for feature, unit in enumerate(units.tolist() if name in sites else ()):
                if unit >= 0 and not mask[unit]:
                    sites[name].discard(feature)
                elif unit >= 0 and unit not in before[part]:
                    sites[name].add(feature)
    return {name: tuple(sorted(kept)) for name, kept in sites.items()}
