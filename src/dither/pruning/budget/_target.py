"""A budget: train to a requested cost, and plan within it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from ..._inputs import Inputs
from ..._processes import check_same, check_whole, decided, unwrapped
from ..planning._plan import Plan
from ..planning._planning import plan as plan_by_threshold
from ._control import Control
from ._fill import within
from ._price import Price, price
from ._weights import latency_weights, relative


@dataclass(frozen=True)
class Target:
    """What a network should cost, as a fraction of what it costs now. Give one of the three.

    Structured Bayesian Pruning needs no budget: the posterior chooses every width. For those who do have one, training
    is steered to it, and the plan stays within it::

        target = pruning.Target(macs=0.3)
        control = target.control(net, x, steps=epochs * len(loader))
        for x, y in ...:
            loss = F.cross_entropy(net(x), y) + control.kl(net) / num_data      # in place of pruning.kl(net)
            ...
        plan = target.plan(net, x)                                              # in place of pruning.plan(net, x)

    Args:
        macs: Multiply-accumulates, in (0, 1).
        params: Parameters, in (0, 1).
        latency: Seconds of a forward pass on the example inputs, measured here, in (0, 1).

    Raises:
        ValueError: If not exactly one is given, or it is not between 0 and 1.

    Example:
        >>> Target(macs=0.3)
        Target(macs=0.3, params=None, latency=None)
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if len(given) != 1 or not all(0 < value < 1 for value in given.values()):
            raise ValueError(f"{self}: give one of macs, params and latency, as a fraction between 0 and 1.")

    @property
    def quantity(self) -> str:
        """What the target limits: "macs", "params" or "latency"."""
        return next(name for name, value in asdict(self).items() if value is not None)

    @property
    def share(self) -> float:
        """The fraction of the original cost."""
        return getattr(self, self.quantity)

    def control(self, net: nn.Module, example_inputs: Inputs, *, steps: int, threshold: float = 1.0) -> Control:
        """What steers one training to the target.

        Every unit's KL weighs what the unit costs (for MACs, these are `mac_weights`); the common factor is steered.

        Args:
            net: What `attach` returned, or a network with hand-placed noise.
            example_inputs: As for `attach`; a latency is measured on these, at their batch size.
            steps: How many steps the training has. The target is approached over the first 60 %.
            threshold: Signal-to-noise ratio above which a unit stays.

        Returns:
            The `Control`, which starts at step 0.

        Raises:
            ValueError: If the network carries no noise, ``steps`` is below 1, or the target is out of reach: with one
                unit in every layer the network would still cost more.
            RuntimeError: If the first of several processes failed; it measures for all.

        Example:
            >>> import torch
            >>> from dither.pruning import attach
            >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
            >>> control = Target(macs=0.5).control(net, torch.zeros(1, 8), steps=100)
            >>> round(control.kl(net).item(), 1), control.share
            (1.2, 1.0)
        """
        net = unwrapped(net)
        cost, weights = decided(lambda: self._measure(net, example_inputs))
        return Control(cost, self.quantity, self.share, example_inputs, steps, weights, threshold)

    def _measure(self, net: nn.Module, example_inputs: Inputs) -> tuple[Price, dict[str, float]]:
        """What units cost, and the factors on their KL."""
        cost = price(net, example_inputs, self.quantity)
        least = float(cost(cost.units.first())) / cost.full
        if least > self.share:
            raise ValueError(
                f"{self} is out of reach: with one unit in every layer the network still costs {least:.3f} of its "
                f"{self.quantity}." + (" Give example inputs with a larger batch." if self.latency else "")
            )
        if self.quantity == "latency":
            return cost, latency_weights(net, example_inputs)
        units = cost.per_unit()
        free = max(units.values()) * 1e-6
        return cost, relative({name: max(value, free) for name, value in units.items()})

    def plan(self, net: nn.Module, example_inputs: Inputs, *, threshold: float = 1.0, multiple_of: int = 1) -> Plan:
        """The plan of `pruning.plan`, brought to the budget: it decides how many units stay, and the SNR decides which.

        Over the budget, units go in the order of their signal-to-noise ratio. Below it, units near the threshold (an
        SNR above threshold / e) return as far as they fit. The network is shrunk by the plan and its cost is counted or
        measured; ``plan.note`` tells it.

        Args:
            net: The trained network with noise.
            example_inputs: As for `attach`; a latency is measured on these, at their batch size.
            threshold: Signal-to-noise ratio above which a unit stays if the budget allows it.
            multiple_of: The number of channels that stay of each space is a multiple of this, or all of them. Channels
                then stay and go in groups of so many, and a group ranks as the loudest of its channels.

        Returns:
            The decision; print it.

        Raises:
            ValueError: If the network carries no noise, the budget is below that of one unit, or one group, in every
                layer, ``multiple_of`` is no number >= 1, or processes hold different parameters.
            RuntimeError: If the first of several processes failed.

        Example:
            >>> import torch
            >>> from dither.pruning import attach, gates
            >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
            >>> with torch.no_grad():
            ...     _ = gates(net)["0"].log_scale.copy_(torch.linspace(-1, 1, 16))
            >>> plan = Target(macs=0.5).plan(net, torch.zeros(1, 8))
            >>> plan.widths["0"], plan.note.rpartition("Target: ")[2]
            ((8, 16), 'at most 0.5 of the macs. By the threshold alone 0.938, this plan 0.500.')
        """
        if isinstance(multiple_of, str) or multiple_of < 1:
            raise ValueError(f"multiple_of is {multiple_of!r}; within a budget, give a number >= 1.")
        net = unwrapped(net)
        check_whole(net)
        check_same(net)
        return decided(lambda: self._plan(net, example_inputs, threshold, multiple_of))

    def _plan(self, net: nn.Module, example_inputs: Inputs, threshold: float, multiple_of: int) -> Plan:
        by_threshold = plan_by_threshold(net, example_inputs, threshold=threshold, multiple_of=multiple_of)
        cost = price(net, example_inputs, self.quantity)
        return within(net, example_inputs, by_threshold, cost, self.quantity, self.share, threshold)
