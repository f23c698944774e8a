"""Channels that go while the network trains, every few epochs, so that the rest of the training is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from .. import pruning
from ..pruning import Plan


@dataclass(frozen=True)
class Shrinking:
    """When and how channels are removed in training.

    Attributes:
        every: epochs between removals, at least 1. After the last epoch nothing is removed.
        plan: decides what goes, from the network.
        example: what the network is run on to see what belongs together.

    Raises:
        ValueError: If ``every`` is less than 1.
    """

    every: int
    plan: Callable[[nn.Module], Plan]
    example: Tensor

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every is {self.every}; give a number of epochs >= 1.")

    def carry_out(self, net: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The smaller network and its optimizer; the given ones where nothing goes."""
        plan = self.plan(net)
        if all(kept == total for kept, total in plan.widths.values()):
            return net, optimizer
        return pruning.shrink(net, plan, self.example, optimizer=optimizer)
