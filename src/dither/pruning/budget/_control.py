"""The factor on the KL, steered so that the network arrives at a requested cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..._inputs import Inputs
from ..._processes import decided, unwrapped
from ..noise._kl import kl
from ..planning._planning import plan
from ._fill import measured
from ._price import Price

START = 0.01  # first factor: too little to remove what carries signal; the control raises it
LANDING = 0.6  # fraction of the steps after which the reference is the target; learning rates fall in what is left
INTEGRAL = 40.0  # nats that log w moves over the whole training if the cost is e times the reference
PROPORTIONAL = 10.0  # d log w / d log cost while the cost is above the reference
BRAKE = 30.0  # and below it: what is removed hardly comes back, so brake harder than you push
UPDATES = 1000  # of the factor in one training, at most
MEASUREMENTS = 20  # of the shrunk network in one training, where the cost cannot be computed


class Control:
    r"""A proportional-integral control of the factor w on the KL, for one training.

    .. math::
        \log w_t = \log w_0 + K_P e_t + \frac{K_I}{T} \sum_{u \le t} e_u, \qquad
        e_t = \log \frac{\hat c_t}{s_t} \in [-1, 1], \qquad
        s_t = r^{\,1 - (1 - \min(t / \tau, 1))^2}

    r is the target and T the number of steps. The reference s falls from 1 to r and lands there smoothly after
    τ = 0.6 T steps. A factor that is too large for a while removes units that do not come back, which is why the cost
    follows a reference, and why K_P is three times larger below it than above.

    ĉ is the cost as a fraction of the original when unit i is there to the share

    .. math::
        k_i = \operatorname{clip}\Big(\frac12 + \frac{\log \mathrm{SNR}_i}{2 b_t}, 0, 1\Big), \qquad b_t = 1 - t / T.

    A unit on its way down counts before it is gone, so the control sees early what its factor does. Once every gate is
    decided, and at the end in any case, k is what the plan keeps and ĉ the cost of the shrunk network. Made by
    `Target.control`.

    Attributes:
        weight: w, the factor on the KL. Every gate's KL is weighted by what a unit of it costs on top.
        share: ĉ, the last estimate.
        step: t, the number of calls of `kl` so far.
    """

    def __init__(
        self,
        price: Price,
        quantity: str,
        target: float,
        example_inputs: Inputs,
        steps: int,
        weights: Mapping[str, float],
        threshold: float,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; give the number of steps of the training.")
        self.price, self.quantity, self.target, self.steps = price, quantity, target, steps
        self.example_inputs, self.weights, self.threshold = example_inputs, dict(weights), threshold
        self.step, self.share, self.weight = 0, 1.0, START
        self.integral, self.offset = 0.0, 0.0

    def kl(self, net: nn.Module) -> Tensor:
        """W times the weighted KL of ``net``, in nats; call it once in every step of the training.

        The objective of one example is ``F.cross_entropy(net(x), y) + control.kl(net) / num_data``.
        """
        net = unwrapped(net)
        if not self.price.exact and self.step and self.step % max(self.steps // MEASUREMENTS, 1) == 0:
            self._measure(net)
        if self.step % max(self.steps // UPDATES, 1) == 0:
            self._steer(net)
        self.step += 1
        return self.weight * kl(net, self.weights)

    def reference(self) -> float:
        """S at this step: the fraction of the original cost where the network should be now."""
        left = max(1 - self.step / (LANDING * self.steps), 0.0)
        return self.target ** (1 - left**2)

    def state_dict(self) -> dict[str, Any]:
        """What changes during training, as JSON-able numbers."""
        return {name: getattr(self, name) for name in ("step", "share", "weight", "integral", "offset")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        for name in self.state_dict():
            setattr(self, name, state[name])

    def _steer(self, net: nn.Module) -> None:
        keep = present(self.price.units.snr(net) / self.threshold, 1 - self.step / self.steps)
        self.share = (float(self.price(keep)) + self.offset) / self.price.full
        error = math.log(max(self.share, 1e-9) / self.reference())
        error = min(max(error, -1.0), 1.0)
        self.integral += INTEGRAL * error * max(self.steps // UPDATES, 1) / self.steps
        gain = PROPORTIONAL if error > 0 else BRAKE
        self.weight = START * math.exp(self.integral + gain * error)

    def _measure(self, net: nn.Module) -> None:
        """What the shrunk network costs more than its price says."""

        def offset() -> float:
            now = plan(net, self.example_inputs, threshold=self.threshold)
            share = measured(net, now, self.example_inputs, self.quantity)
            return share * self.price.full - float(self.price(self.price.units.kept(now)))

        self.offset = decided(offset)


def present(snr: Tensor, band: float) -> Tensor:
    """To what share a unit counts as there: 0 below an SNR of exp(-band), 1 above exp(band), linear in log between.

    Example:
        >>> import torch
        >>> present(torch.tensor([1 / 3, 1.0, 100.0]), 1.0)
        tensor([0.0000, 0.5000, 1.0000])
        >>> present(torch.tensor([0.9, 1.1]), 0.0)
        tensor([0., 1.])
    """
    if band <= 0:
        return (snr > 1).to(snr.dtype)
    return (0.5 + snr.log() / (2 * band)).clamp(0, 1)
