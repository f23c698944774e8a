"""shrink while training: a smaller network that keeps its noise, and the optimizer cut along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..._inputs import Inputs
from ..cutting._cut import Kept, keep_slots, own, twin
from ..cutting._known import Numbers, numbers, tell
from ..labels import Analysis, Space, analyse
from ..noise._gates import find_bank, gated_weights, gates, ungate
from ..planning._decision import check, choose, features_left, from_json, select, to_json
from ..planning._plan import Choice, Plan
from ._apply import apply_shrunk
from ._masked import Answers, fixed, verify
from ._optimizer import Moved, carried, carry_gradients


def resize(net: nn.Module, plan: Plan, example_inputs: Inputs, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """What `shrink` does when it is given an optimizer.

    What the plan drops but no layer can lose keeps its noise: features of hand-placed noise whose channels stay whole,
    and the last column that a layer reads of a channel that stays. Where something between hand-placed noise and a
    reader does more than scale (BatchNorm, a bias), channels stay until the end: what it makes of zeros changes while
    the network is trained.

    Raises:
        ValueError: If the plan or the optimizer is of another network, or has state that cannot be cut along.
        ShrinkError: If the smaller network is not the same function.
    """
    check(net, plan)
    analysis = analyse(ungate(twin(net)), example_inputs)
    whole = {space.name for space in analysis.spaces if space.constants or (space.noise and not space.linear)}
    whole |= {space.name for space in analysis.spaces if _grouped(net, space)}
    choices = [replace(c, kept=tuple(range(c.total))) if c.name in whole else c for c in plan.spaces]
    plan = replace(plan, spaces=tuple(choices))
    chosen = choose(plan, analysis)
    kept = keep_slots(chosen)
    layers, bank = gates(net), find_bank(net)
    for name in plan.sites:
        for tensor in ("loc", "log_scale"):
            kept[f"{name}.{tensor}"] = {0: features_left(name, chosen, layers[name].num_features)}
    columns = {c.name.removesuffix("[in]"): _readable(c, analysis) for c in plan.columns}
    selects = select(kept, columns, net)
    units = {space.name: keep.nonzero().flatten() for space, keep in chosen if bank and space.name in bank.layers}
    units |= {f"{name}[in]": at for name in columns if (at := kept.get(f"{name}.weight", {}).get(1)) is not None}
    record: dict[str, Any] = {
        "kept": to_json(kept),
        "selects": selects,
        "scales": {},
        "gates": {name: index.tolist() for name, index in units.items()},
    }
    small = own(apply_shrunk(twin(net), record), net)
    stay = {**units, **{name: kept[f"{name}.loc"][0] for name in plan.sites}}
    record["baked"] = bank.baked if bank else []
    record["numbers"] = _verify(net, small, stay, example_inputs)
    tell(small, record["numbers"])
    moved = _moved(net, small, record)
    carry_gradients(net, moved)
    columns_kept = [replace(c, kept=tuple(record["gates"].get(c.name, range(c.total)))) for c in plan.columns]
    done = replace(plan, columns=tuple(columns_kept), sites={name: tuple(stay[name].tolist()) for name in plan.sites})
    before = getattr(net, "dither_shrunk", None)
    small.dither_shrunk = {**record, "plan": done.to_dict(), "before": before}  # pyright: ignore[reportArgumentType]
    return small, carried(optimizer, moved)


def restructure(net: nn.Module, optimizer: Optimizer, record: Mapping[str, Any]) -> tuple[nn.Module, Optimizer]:
    """A fresh network and its optimizer with the structure of a training state, for ``load_state_dict`` to fill.

    Training that was stopped after `shrink` goes on from a state that has, beside the two state dicts, what was cut::

        torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "cut": net.dither_shrunk}, path)
        ...
        net, optimizer = pruning.restructure(net, optimizer, state["cut"])  # made as at the start of the training
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])

    Args:
        net: What `attach` returned for the original model. It is not changed.
        optimizer: A fresh optimizer that trains it; what it has of state is dropped.
        record: The attribute ``dither_shrunk`` of the smaller network.

    Returns:
        The smaller network with its noise, values not yet loaded, and an optimizer without state.

    Raises:
        ValueError: If the record is of another network or of a network without noise.
    """
    small = own(apply_shrunk(twin(net), record), net)
    small.dither_shrunk = record  # pyright: ignore[reportArgumentType]
    new = dict(small.named_parameters(remove_duplicate=False))
    names = dict(net.named_parameters(remove_duplicate=False))
    fresh = carried(optimizer, {id(p): Moved(name, new[name]) for name, p in names.items()})
    fresh.state.clear()
    return small, fresh


def overall(net: nn.Module, plan: Plan) -> Plan:
    """``plan`` in the numbers of the network that `attach` returned, before channels were removed while it trained.

    Args:
        net: What `shrink` returned with an optimizer, any number of times.
        plan: The plan for ``net``.

    Returns:
        The plan with the totals and the indices of the original network.
    """
    record: Mapping[str, Any] | None = getattr(net, "dither_shrunk", None)
    while record and "gates" in record:
        first = Plan.from_dict(record["plan"])
        sites = {name: tuple(first.sites[name][i] for i in kept) for name, kept in plan.sites.items()}
        spaces, columns = _counted_in(first.spaces, plan.spaces), _counted_in(first.columns, plan.columns)
        plan = replace(plan, spaces=spaces, columns=columns, sites=sites, network=first.network)
        record = record["before"]
    return plan


def _counted_in(earlier: Sequence[Choice], later: Sequence[Choice]) -> tuple[Choice, ...]:
    """Later choices among what earlier ones kept, in the numbers of the earlier ones."""
    by_name = {choice.name: choice for choice in later}

    def counted(choice: Choice) -> Choice:
        left = by_name.get(choice.name)  # a space without noise may have lost its name with its neighbours
        if left is None:
            return choice
        return replace(choice, kept=tuple(choice.kept[i] for i in left.kept), snr=left.snr)

    return tuple(map(counted, earlier))


def _readable(choice: Choice, analysis: Analysis) -> tuple[int, ...]:
    """The columns that stay; one of each channel, for without it the channel would have no reader left."""
    slot = f"{choice.name.removesuffix('[in]')}.weight", 1
    stays = torch.zeros(choice.total, dtype=torch.bool)
    stays[list(choice.kept)] = True
    for space in analysis.spaces:
        if slot in space.slots:
            _one_of_each(space, space.slots[slot], stays)
    return tuple(stays.nonzero().flatten().tolist())


def _grouped(net: nn.Module, space: Space) -> bool:
    """Whether channels go by groups: which way, whole or the same positions of each, depends on the present widths."""
    modules = (net.get_submodule(name.rpartition(".")[0]) for name, _ in space.slots)
    return any(getattr(m, "groups", 1) > 1 and m.in_channels > m.groups for m in modules)  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue]


def _one_of_each(space: Space, channel: Tensor, stays: Tensor) -> None:
    """Let a column of every channel stay, in place: the first where there is none."""
    read = torch.zeros(space.size, dtype=torch.bool)
    read[channel[stays & (channel >= 0)]] = True
    for column in ((channel >= 0) & ~read[channel.clamp(min=0)]).nonzero().flatten().tolist():
        if not read[channel[column]]:
            read[channel[column]] = stays[column] = True


@torch.no_grad()
def _verify(net: nn.Module, small: nn.Module, stay: Mapping[str, Tensor], example_inputs: Inputs) -> Numbers:
    """Same outputs under the same draw, the units that are gone at zero; the global generator is not touched."""
    generator = torch.Generator().manual_seed(0)
    whole: dict[str, Tensor] = {}
    part: dict[str, Tensor] = {}
    for name, layer in gates(net).items():
        theta = (0.5 + torch.rand(layer.num_features, generator=generator)).to(layer.loc)
        index = stay.get(name, torch.arange(layer.num_features)).to(theta.device)
        part[name] = theta[index]
        whole[name] = torch.zeros_like(theta).index_copy_(0, index, part[name])
    tried = fixed(twin(small), part)
    verify(Answers.of(fixed(twin(net), whole), example_inputs), tried)
    return numbers(tried)


def _moved(net: nn.Module, small: nn.Module, record: Mapping[str, Any]) -> dict[int, Moved]:
    """What became of every parameter, by its id."""
    plain = {f"{prefix}{name}": f"{prefix}parametrizations.{name}.original" for prefix, name in _gated(net)}
    old = dict(net.named_parameters(remove_duplicate=False))
    kept: Kept = {plain.get(name, name): dims for name, dims in from_json(record["kept"]).items()}
    dims = {id(old[name]): at for name, at in kept.items() if name in old}
    layers = gates(net)
    for name, index in record["gates"].items():
        dims |= {id(p): {0: torch.tensor(index)} for p in (layers[name].loc, layers[name].log_scale)}
    new = dict(small.named_parameters(remove_duplicate=False))
    return {id(p): Moved(name, new[name], dims.get(id(p), {})) for name, p in old.items()}


def _gated(net: nn.Module) -> list[tuple[str, str]]:
    prefixes = {id(module): path and f"{path}." for path, module in net.named_modules()}  # the network itself has none
    return [(prefixes[id(module)], name) for module, name, _ in gated_weights(net)]
