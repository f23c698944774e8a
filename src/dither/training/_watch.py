"""What is not finite in a training, and where it began: the step, the process and the parameter."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..pruning import gates
from ..pruning.noise._check import bad_gate

_LOOK_EVERY = 50  # steps between looks where a look would stall an accelerator
_SMALLEST_SCALE = 2.0**-16  # of the loss: it begins at 2¹⁶; with this one gradients up to 10⁹ fit into float16


class NonFiniteLoss(RuntimeError):
    """A loss, a gradient, a weight or a gate became NaN or infinite. The last complete checkpoint is good, and kept."""


class Watch:
    """Looks at the loss and the gradients of every step, and at the network before it is saved.

    On a CPU each step is looked at before the weights change. Elsewhere a look would wait for the device, so 50 steps
    are looked at together. With several processes each one looks at its own loss and at its own gradients, before they
    are averaged; all of them then raise the same error, which names the process. Infinite gradients under loss scaling
    (fp16) are part of its search for a scale: the optimizer leaves these steps out, and only a scale that has become
    absurdly small is an error.

    Args:
        accelerator: process layout, device and loss scaling.
        name: of the stretch of training.
        steps_per_epoch: to tell the epoch.
    """

    def __init__(self, accelerator: Accelerator, name: str, steps_per_epoch: int) -> None:
        self.accelerator, self.name, self.steps_per_epoch = accelerator, name, steps_per_epoch
        self.every = 1 if accelerator.device.type == "cpu" else _LOOK_EVERY
        self._rows: list[Tensor] = []  # (loss, largest gradient) of each step since the last look
        self._own: list[Tensor] = []  # largest gradient of each bucket of this step, before averaging

    def attach(self, wrapped: nn.Module) -> None:
        """Sees the gradients of this process before DistributedDataParallel averages them."""
        if isinstance(wrapped, DistributedDataParallel):
            # A lambda: torch refuses a hook whose annotations are text.
            wrapped.register_comm_hook(None, lambda state, bucket: self._see(bucket))

    def step(self, step: int, loss: Tensor, x: Tensor, net: nn.Module) -> None:
        """After the backward pass of a step, before the weights change.

        Raises:
            NonFiniteLoss: If a loss or a gradient of this step, or on an accelerator of one before, is not finite.
        """
        largest = loss.new_zeros(())
        if self.accelerator.sync_gradients and self.accelerator.scaler is None:
            gradients = [p.grad for p in net.parameters() if p.grad is not None]
            found = self._own or [torch.linalg.vector_norm(gradient, math.inf) for gradient in gradients]
            largest = torch.stack([value.to(loss.dtype) for value in found]).max() if found else largest
        self._own.clear()
        self._rows.append(torch.stack([loss.detach(), largest]))
        if len(self._rows) >= self.every:
            self.look(step + 1, net, x)

    def look(self, step: int, net: nn.Module, x: Tensor | None = None) -> None:
        """Looks at all steps before ``step`` that were not looked at. All processes call it at the same step.

        Raises:
            NonFiniteLoss: If a loss or a gradient of one of them is not finite, under loss scaling with any scale.
        """
        if not self._rows:
            return
        scaler: Any = self.accelerator.scaler
        if scaler is not None and (scale := float(scaler.get_scale())) < _SMALLEST_SCALE:
            raise NonFiniteLoss(
                f"the gradient of the loss is not finite at {self._place(step - 1)}, with whatever scale (it went down "
                f"to {scale:.1g}): train with mixed_precision bf16 or no"
            )
        rows = torch.isfinite(torch.stack(self._rows))
        finite = rows.all(1)
        begin, count = step - len(self._rows), len(self._rows)
        self._rows.clear()
        good = finite.cumprod(0).sum()  # steps before the first bad one
        of_all = torch.atleast_1d(self.accelerator.gather(good))
        first = int(of_all.min())
        if first == count:
            return
        rank = int((of_all == first).nonzero()[0])
        what = "the gradient of the loss" if bool(rows[first, 0]) else "the loss"
        text = f"{what} is not finite at {self._place(begin + first, rank)}"
        fault = [f"{text}: {self._fault(net, x if first == count - 1 else None)}"]
        raise NonFiniteLoss(broadcast_object_list(fault, from_process=rank)[0])

    def network(self, step: int, net: nn.Module) -> None:
        """Before the network of ``step`` is measured and saved: what is on the disk must be good.

        Raises:
            NonFiniteLoss: If a parameter, a running statistic or a gate is not finite, or a gate has exploded.
        """
        if (found := bad_tensor(net) or bad_gate(gates(net))) is not None:
            raise NonFiniteLoss(f"{found} after {self._place(step - 1)}")

    def _see(self, bucket: Any) -> Any:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook  # not in every build

        self._own.append(torch.linalg.vector_norm(bucket.buffer(), math.inf))
        return allreduce_hook(None, bucket)  # pyright: ignore[reportArgumentType] (None is the default group)

    def _place(self, step: int, rank: int | None = None) -> str:
        place = f"step {step} of stretch {self.name!r} (epoch {step // self.steps_per_epoch + 1}"
        world = self.accelerator.num_processes
        return f"{place})" if rank is None or world == 1 else f"{place}, process {rank} of 0 to {world - 1})"

    def _fault(self, net: nn.Module, x: Tensor | None) -> str:
        """Where it came from, as far as this process can see."""
        if x is not None and not bool(torch.isfinite(x).all()):
            image = int((~torch.isfinite(x).flatten(1).all(1)).nonzero()[0])
            return f"image {image} of its batch has pixels that are NaN or infinite"
        if (found := bad_tensor(net) or bad_gate(gates(net))) is not None:
            return found
        for name, parameter in net.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return (
                    "all parameters are finite, the first with a NaN or infinite gradient is "
                    f"{readable(net, name, parameter)}"
                )
        return "all images, parameters and gradients are finite, look at the penalty"


def bad_tensor(net: nn.Module) -> str | None:
    """The first parameter or running statistic with a NaN or infinite value, in words, or None.

    Other buffers may hold what they like: a mask of -inf is common.
    """
    named = list(net.named_parameters())
    named += [(name, buffer) for name, buffer in net.named_buffers() if name.endswith(("running_mean", "running_var"))]
    flags = [torch.isfinite(tensor).all() for _, tensor in named]
    if not flags or bool(torch.stack(flags).all()):
        return None
    name, tensor = next(pair for pair, finite in zip(named, flags, strict=True) if not finite)
    what = "parameter" if isinstance(tensor, nn.Parameter) else "running statistic"
    return f"the first {what} with a NaN or infinite value is {readable(net, name, tensor)}"


def readable(net: nn.Module, name: str, tensor: Tensor) -> str:
    """The name of a parameter; of a gate's, without the path through the parametrization that holds it."""
    for gate, layer in gates(net).items():
        for which in ("loc", "log_scale"):
            if getattr(layer, which) is tensor:
                return f"{which} of the gate {gate!r}"
    return repr(name.replace(".parametrizations.", ".").replace(".original", ""))
