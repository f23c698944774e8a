"""What one channel costs, in multiply-accumulates."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .._inputs import Inputs, call, evaluating, tensors
from ._gates import find_bank, gates, ungate
from .labels import analyse


def macs_per_unit(net: nn.Module, example_inputs: Inputs) -> dict[str, float]:
    """Multiply-accumulates for one example, of one unit of each gate: what its writers and readers spend on it."""
    layers = gates(net)
    if not layers:
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) first.")
    plain = ungate(copy.deepcopy(net))
    analysis = analyse(plain, example_inputs)
    spent = module_macs(plain, example_inputs)
    shapes = {name: tensor.shape for name, tensor in plain.named_parameters()}
    bank = find_bank(net)
    costs: dict[str, float] = {}
    for space in analysis.spaces:
        cost = 0.0
        for name, dim in (*space.writers, *space.readers):
            mine = int((space.slots[name, dim] >= 0).sum())
            cost += spent.get(name.rpartition(".")[0], 0.0) * mine / shapes[name][dim]
        for gate in [space.name] if not space.noise else space.noise:
            if gate in layers:
                costs[gate] = costs.get(gate, 0.0) + cost / max(space.size, 1)
    for name in bank.layers if bank else ():
        if name.endswith("[in]"):
            layer = name.removesuffix("[in]")
            costs[name] = spent[layer] / shapes[f"{layer}.weight"][1]
    return {name: max(costs.get(name, 0.0), 1.0) for name in layers}


def module_macs(net: nn.Module, example_inputs: Inputs) -> dict[str, float]:
    """Multiply-accumulates of each module for one example, by qualified name; only contractions count."""
    counter = FlopCounterMode(display=False)
    with evaluating(net), counter:
        call(net, example_inputs)
    batch = _batch(example_inputs)
    prefix = f"{type(net).__name__}."
    totals = {name.removeprefix(prefix): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return {name: flops / 2 / batch for name, flops in totals.items()}


def _batch(example_inputs: Inputs) -> int:
    first: Tensor = next((t for t in tensors(example_inputs) if t.ndim), torch.zeros(1))
    return max(first.shape[0], 1)
