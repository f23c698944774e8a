"""What the callbacks share: settings, the KL term of an example, what is logged, and when channels go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .. import pruning
from .._inputs import Inputs, map_tensors
from ..pruning import Plan
from ._in_place import noisy_root, restructure_, shrink_


class Pruning:
    """Settings of a callback that prunes in somebody else's loop.

    The arguments are those of `LightningPruning`. Some ``kl`` and ``plan``:

    - ``functools.partial(pruning.kl, weights=pruning.mac_weights(net, x))``: layers pay for what they cost;
    - ``control.kl`` of `pruning.Target.control`: steered to a budget (its state is yours to save);
    - ``functools.partial(pruning.plan, multiple_of=8)``: widths that the hardware likes.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        example_inputs: Inputs,
        num_data: int | None,
        *,
        shrink_at: float | Sequence[float] = (),
        gate_lr: float | None = None,
        kl: Callable[[nn.Module], Tensor] = pruning.kl,
        plan: Callable[[nn.Module, Inputs], Plan] = pruning.plan,
    ) -> None:
        super().__init__()
        self.shrink_at = tuple(shrink_at) if isinstance(shrink_at, Sequence) else (shrink_at,)
        if num_data is not None and num_data < 1:
            raise ValueError(f"num_data is {num_data}; give the size of the training set.")
        if not all(at > 0 for at in self.shrink_at):
            raise ValueError(f"shrink_at is {shrink_at}; give epochs > 0.")
        if gate_lr is not None and not gate_lr > 0:
            raise ValueError(f"gate_lr is {gate_lr}; give a learning rate > 0.")
        self.example_inputs, self.num_data, self.gate_lr = example_inputs, num_data, gate_lr
        self.kl, self.plan = kl, plan
        self.start()

    def start(self) -> None:
        """Forget what an earlier training did."""
        self.epoch = 0.0  # up to which removals are done
        self.last_kl = math.nan

    def penalty(self, net: nn.Module) -> Tensor:
        """KL / N, a scalar in nats for one example."""
        assert self.num_data is not None
        value = self.kl(noisy_root(net)) / self.num_data
        self.last_kl = value.detach()
        return value

    def statistics(self, net: nn.Module) -> dict[str, float]:
        """What is logged: kept channels and median SNR of every gate, kept channels in all, and the KL term."""
        logged: dict[str, float] = {}
        for name, gate in pruning.gates(net).items():
            logged[f"kept/{name}"] = float((gate.snr > gate.threshold).sum())
            logged[f"snr/{name}"] = float(gate.snr.median())
        logged["kept"] = sum(value for name, value in logged.items() if name.startswith("kept/"))
        return logged if self.num_data is None else {**logged, "kl": float(self.last_kl)}

    def due(self, epoch: float) -> bool:
        """Whether channels go now that this much of the training is over."""
        return any(self.epoch < at <= epoch for at in self.shrink_at)

    def shrink(self, module: nn.Module, example: Inputs, optimizer: Optimizer, epoch: float) -> None:
        """Remove channels from the network in ``module``, in place."""
        net = noisy_root(module)
        device = next(net.parameters()).device
        shrink_(net, map_tensors(lambda t: t.to(device), example), optimizer, plan=self.plan)
        self.epoch = epoch

    def state(self, module: nn.Module) -> dict[str, Any]:
        """What a checkpoint holds beside the state dicts: plain numbers, lists and texts."""
        return {"cut": getattr(noisy_root(module), "dither_shrunk", None), "epoch": self.epoch}

    def restore(self, module: nn.Module, state: Mapping[str, Any] | None) -> None:
        """Give the network in ``module`` the structure of a checkpoint, in place; None: it was saved without this."""
        restructure_(noisy_root(module), state["cut"] if state else None)
        self.epoch = float(state["epoch"]) if state else 0.0
