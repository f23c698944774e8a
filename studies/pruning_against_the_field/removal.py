"""From a score for each channel to a smaller network, by one rule for every method."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from dither import pruning
from dither.pruning.budget._fill import fill
from dither.pruning.budget._price import price


class Channels:
    """The channels of a network that can be removed, what they cost, and their removal.

    Args:
        net: the network at full size, without noise.
        example: images that it is run on.
        columns: layers whose single inputs can be removed too.
    """

    def __init__(self, net: nn.Module, example: Tensor, columns: tuple[str, ...] = ()) -> None:
        self.example = example
        self._gated = pruning.attach(net, example, features=columns)
        self._price = price(self._gated, example, "macs")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Nothing was learned")  # this noise is only there to name the channels
            self.whole = pruning.plan(self._gated, example)

    @property
    def sizes(self) -> dict[str, int]:
        """How many channels each space has, by name."""
        return {name: part.stop - part.start for name, part in self._price.units.parts.items()}

    def within(self, scores: Mapping[str, Tensor], share: float) -> pruning.Plan:
        """The best channels that cost at most ``share`` of the multiply-accumulates; one in every space stays.

        This is what `dither.pruning.Target.plan` does with signal-to-noise ratios: the worst channels of all spaces go
        until the rest fits, and then the best of those come back that still fit.
        """
        score = torch.cat([scores[name].double() for name in self._price.units.parts])
        rank = score.argsort(stable=True).argsort().double() + 1  # `fill` takes positive numbers, and only their order
        keep = fill(torch.ones_like(rank), rank, self._price, share * self._price.full)
        return self.keeping(
            {name: tuple(keep[part].nonzero().flatten().tolist()) for name, part in self._price.units.parts.items()}
        )

    def keeping(self, kept: Mapping[str, tuple[int, ...]]) -> pruning.Plan:
        """The plan that keeps these channels of each space, and these columns; all of what is not named."""
        spaces, columns = (
            tuple(replace(c, kept=kept[c.name]) if c.name in kept else c for c in choices)
            for choices in (self.whole.spaces, self.whole.columns)
        )
        return replace(self.whole, spaces=spaces, columns=columns)

    def cut(self, plan: pruning.Plan, net: nn.Module) -> nn.Module:
        """A copy of ``net``, of the same class, with the channels of the plan and its own weights as they are."""
        record = pruning.shrink(self._gated, plan, self.example).dither_shrunk
        small = pruning.apply_shrunk(copy.deepcopy(net), record)  # pyright: ignore[reportArgumentType]
        small.dither_shrunk = record
        return small


def quantiles(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rank of each channel within its own space, in (0, 1): ranked by it, every layer loses the same fraction."""
    return {name: (s.argsort(stable=True).argsort().double() + 0.5) / len(s) for name, s in scores.items()}


def drawn(widths: Mapping[str, int], sizes: Mapping[str, int], seed: int) -> dict[str, tuple[int, ...]]:
    """So many channels of each space, drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: tuple(torch.randperm(size, generator=draw)[: widths[name]].sort().values.tolist())
        for name, size in sizes.items()
    }


def renew(net: nn.Module, seed: int) -> nn.Module:
    """New weights in place, each layer with torch's own initial law for the width that it has now."""
    torch.manual_seed(seed)
    for module in net.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return net
