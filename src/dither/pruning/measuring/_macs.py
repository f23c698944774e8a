"""Which tensor of a network the multiply-accumulates are spent on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..._flops import counter, flops
from ..._inputs import Inputs, call, evaluating, tensors


class MacsByTensor(TorchDispatchMode):
    """Multiply-accumulates of a run, by the tensor of the network that they read.

    A view of a parameter shares its storage, so a transposed weight or a third of the weight of an attention layer
    counts for the parameter. What multiplies activations with activations is in ``total`` only.

    Example:
        >>> import torch
        >>> net = nn.Linear(8, 4)
        >>> with torch.no_grad(), MacsByTensor(dict(net.named_parameters())) as run:
        ...     _ = net(torch.zeros(2, 8))
        >>> run.total, run.spent["weight"]
        (64.0, 64.0)
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in named.items() if tensor.numel()}
        self.spent: dict[str, float] = {}
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operations = flops(func._overloadpacket, args, kwargs or {}, out)
        if operations is not None:
            count = operations / 2
            self.total += count
            operands = [a for a in args if isinstance(a, Tensor) and a.ndim > 1]  # a bias is added, not multiplied
            read = {self.names.get(a.untyped_storage().data_ptr()) for a in operands} - {None}
            for name in read:
                self.spent[str(name)] = self.spent.get(str(name), 0.0) + count / len(read)
        return out


def macs_of_tensors(net: nn.Module, example_inputs: Inputs) -> tuple[dict[str, float], float]:
    """Multiply-accumulates of one example: of each tensor, and of what reads none."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    # The counter is entered last, so it takes composite operators apart before they are seen here.
    with evaluating(net), MacsByTensor(named) as run, counter():
        call(net, example_inputs)
    batch = max(next((t.shape[0] for t in tensors(example_inputs) if t.ndim), 1), 1)
    fixed = run.total - sum(run.spent.values())
    return {name: macs / batch for name, macs in run.spent.items()}, fixed / batch
