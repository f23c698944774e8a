"""Everything of a network that a plan keeps or drops, as one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..labels import Analysis
from ..noise._gates import find_bank, gates
from ..noise._noise import posterior
from ..planning._plan import Plan


@dataclass(frozen=True)
class Units:
    """The channels of all spaces with noise, then the columns of all readers with noise on them.

    Attributes:
        parts: Where the units of each space, and of each reader's columns (``"layer[in]"``), are in the vector.
        gates: For each part, the noise that acts on it, by name: of the n-th feature the unit in its part, or -1.
        size: Number of units.
    """

    parts: Mapping[str, slice]
    gates: Mapping[str, Mapping[str, Tensor]]
    size: int

    @classmethod
    def of(cls, net: nn.Module, analysis: Analysis) -> Units:
        """The units of a network with noise, by the analysis of the same network without it."""
        layers, bank = gates(net), find_bank(net)
        found: dict[str, Mapping[str, Tensor]] = {}
        sizes: dict[str, int] = {}
        for space in analysis.spaces:
            gate = layers.get(space.name)
            if space.reason is None and (space.noise or (gate is not None and gate.num_features == space.size)):
                found[space.name] = space.noise or {space.name: torch.arange(space.size)}
                sizes[space.name] = space.size
        for name in bank.layers if bank else ():
            if name.endswith("[in]"):
                sizes[name] = layers[name].num_features
                found[name] = {name: torch.arange(sizes[name])}
        ends = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        parts = {name: slice(a, b) for name, a, b in zip(sizes, ends, ends[1:], strict=False)}
        return cls(parts, found, ends[-1])

    @torch.no_grad()
    def snr(self, net: nn.Module) -> Tensor:
        """The signal-to-noise ratio of each unit, (units,), float64; the largest where several must drown together."""
        layers = gates(net)
        ratios = posterior(list(layers.values())).snr.double()
        loudest = ratios.new_full((self.size,), -torch.inf)
        for name, values in zip(layers, ratios.split([layer.num_features for layer in layers.values()]), strict=True):
            for part, acting in self.gates.items():
                if name in acting:
                    here = acting[name].to(values.device)
                    at = here + self.parts[part].start
                    loudest.scatter_reduce_(0, at[here >= 0], values[here >= 0], "amax")
        return loudest

    def groups(self, snr: Tensor, multiple_of: int) -> Tensor:
        """The group of each unit, (units,), int64, if channels stay and go by so many at once.

        Groups are numbered from 0. Those of a part follow each other, the loudest first, and the last one may be
        smaller. Columns of readers are on their own.

        Args:
            snr: The signal-to-noise ratio of each unit.
            multiple_of: Channels in a group.
        """
        group, start = torch.empty(self.size, dtype=torch.int64), 0
        for name, part in self.parts.items():
            size = 1 if name.endswith("[in]") else multiple_of
            order = snr[part].argsort(descending=True, stable=True)
            group[part][order] = start + torch.arange(len(order)) // size
            start += math.ceil(len(order) / size)
        return group

    def first(self) -> Tensor:
        """1 for the first unit of every part and 0 for the others, (units,), float64."""
        keep = torch.zeros(self.size, dtype=torch.float64)
        keep[[part.start for part in self.parts.values()]] = 1.0
        return keep

    def kept(self, plan: Plan) -> Tensor:
        """1 for the units that ``plan`` keeps and 0 for the others, (units,), float64."""
        keep = torch.zeros(self.size, dtype=torch.float64)
        for choice in (*plan.spaces, *plan.columns):
            if choice.name in self.parts:
                keep[self.parts[choice.name]][list(choice.kept)] = 1.0
        return keep
