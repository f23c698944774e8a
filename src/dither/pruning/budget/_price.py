"""What a network would cost if only some of its units were there, as a smooth function of which are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..._inputs import Inputs
from ..cutting._cut import twin
from ..cutting._plain import replace_module
from ..labels import Slot, analyse
from ..measuring._latency import seconds_of_ends, seconds_of_tensors
from ..measuring._macs import macs_of_tensors
from ..noise._gates import gates, ungate
from ._units import Units


@dataclass(frozen=True)
class Price:
    r"""Cost as a function of the share of each unit that is there.

    .. math:: c(k) = c_0 + \sum_t c_t \prod_d \frac{1}{n_{t,d}} \sum_{j=1}^{n_{t,d}} \prod_{i \in U(t, d, j)} k_i

    t runs over the tensors of the network, d over their dimensions and j over the positions along d; U(t, d, j) are the
    units that this position goes with. Removal cuts rectangles out of tensors. So for k in {0, 1} this *is* the cost of
    the smaller network, where the cost is proportional to the elements of the tensors: parameters, and the
    multiply-accumulates of convolutions and linear layers. It is an approximation where that is not so, and ``exact``
    is False: products of two activations are in c_0, and a time is measured at both ends and interpolated.

    Attributes:
        units: What the entries of k are.
        terms: c_t, and for each d the units of each position, (units, positions); the index ``units.size`` is for
            positions that stay.
        fixed: c_0.
        exact: Whether c(k) is the cost of the shrunk network without a measurement.
    """

    units: Units
    terms: tuple[tuple[float, tuple[Tensor, ...]], ...]
    fixed: float
    exact: bool

    def __call__(self, keep: Tensor) -> Tensor:
        """The cost when unit i is there to a share of ``keep[i]``, in [0, 1]; differentiable."""
        whole = torch.cat([keep, keep.new_ones(1)])
        total = keep.new_tensor(self.fixed)
        for cost, dims in self.terms:
            share = keep.new_tensor(cost)
            for index in dims:
                share = share * whole[index.to(keep.device)].prod(0).mean()
            total = total + share
        return total

    @property
    def full(self) -> float:
        """The cost of the original network."""
        return float(self(torch.ones(self.units.size, dtype=torch.float64)))

    def per_unit(self) -> dict[str, float]:
        """What one unit of each gate costs in the original network, by the name of the gate."""
        keep = torch.ones(self.units.size, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(self(keep), keep)
        costs: dict[str, float] = {}
        for name, part in self.units.parts.items():
            for gate in self.units.gates[name]:
                costs[gate] = costs.get(gate, 0.0) + float(slope[part].mean())
        return costs


def price(net: nn.Module, example_inputs: Inputs, quantity: str) -> Price:
    """The price of every unit of a network with noise.

    Args:
        net: What `attach` returned, or a network with hand-placed noise.
        example_inputs: As for `attach`; seconds are measured on these, at their batch size.
        quantity: "macs" (multiply-accumulates of one example), "params" or "latency" (seconds of one forward pass).

    Returns:
        The price.

    Raises:
        ValueError: If the network carries no noise.

    Example:
        >>> from dither.pruning import attach
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> cost = price(net, torch.zeros(1, 8), "macs")
        >>> cost.full, cost(torch.full((16,), 0.5)).item()
        (192.0, 96.0)
    """
    if not gates(net):
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) first.")
    plain = ungate(twin(net))
    analysis = analyse(plain, example_inputs)
    units = Units.of(net, analysis)
    for noise in gates(plain).values():  # placed by hand: it has a width of its own, and costs nothing after shrink
        replace_module(plain, noise, nn.Identity())
    index: dict[Slot, list[Tensor]] = {}
    for space in analysis.spaces:
        if space.name in units.parts:
            start = units.parts[space.name].start
            for slot, channel in space.slots.items():
                index.setdefault(slot, []).append(torch.where(channel >= 0, channel + start, units.size))
    for name, part in units.parts.items():
        if name.endswith("[in]"):
            index.setdefault((f"{name.removesuffix('[in]')}.weight", 1), []).append(torch.arange(part.start, part.stop))
    tensors = {**dict(plain.named_parameters()), **dict(plain.named_buffers())}

    def terms(costs: Mapping[str, float], dims: int | None = None) -> list[tuple[float, tuple[Tensor, ...]]]:
        slots = {name: [(name, d) for d in range(tensors[name].ndim)][:dims] for name in costs}
        return [(cost, tuple(torch.stack(index[s]) for s in slots[name] if s in index)) for name, cost in costs.items()]

    if quantity == "params":
        costs = {name: float(p.numel()) for name, p in plain.named_parameters()}
        return Price(units, tuple(terms(costs)), 0.0, exact=True)
    if quantity == "macs":
        costs, rest = macs_of_tensors(plain, example_inputs)
        return Price(units, tuple(terms(costs)), rest, exact=rest == 0)
    elements, rows = seconds_of_tensors(plain, example_inputs)
    rough = Price(units, (*terms(elements), *terms(rows, 1)), 0.0, exact=False)
    removable = [space for space in analysis.spaces if space.name in units.parts]
    return _between(rough, *seconds_of_ends(plain, example_inputs, removable))


def _between(rough: Price, whole: float, end: float) -> Price:
    """``rough`` brought to two measurements: of the whole network, and of that with one unit in every part."""
    least = float(rough(rough.units.first()))
    slope = max(whole - end, 0.0) / (rough.full - least)
    terms = tuple((slope * cost, dims) for cost, dims in rough.terms)
    return Price(rough.units, terms, whole - slope * rough.full, exact=False)
