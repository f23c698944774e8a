"""A network in float64 without a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..._inputs import map_tensors
from ..noise._gates import GatedWeight, gated_weights

DTYPE = torch.Tensor.dtype.__get__  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


class InDouble(TorchFunctionMode):
    """While it is open, the parameters of some networks are float64 for every function of torch that takes them.

    A parameter is converted where it is used and the conversion is forgotten, so a network of n bytes never has another
    4 n beside it. Their dtype reads float64 too, for code that asks. A gate multiplies in the dtype of its weight, and
    the product is converted: the rounding of a folded weight is part of the network. Inputs and buffers are the
    caller's to convert; a forward pass may write into buffers.

    Args:
        nets: The networks. Their gates get a forward hook, which stays.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> with torch.no_grad(), InDouble(net):
        ...     y = net(torch.ones(1, 2, dtype=torch.float64))
        >>> y.dtype, net.weight.dtype
        (torch.float64, torch.float32)
    """

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        gated = [found for net in nets for found in gated_weights(net)]
        raw = {id(original(module, name)) for module, name, _ in gated}
        self.weights = {id(p): p for net in nets for p in net.parameters() if id(p) not in raw}
        for gate in {id(gate): gate for _, _, gate in gated}.values():
            gate.register_forward_hook(_converted)

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == DTYPE and id(args[0]) in self.weights:
            return torch.float64
        if getattr(func, "__name__", "") == "__get__":  # a property: its shape, its device
            return func(*args, **(kwargs or {}))
        return func(*map_tensors(self._double, args), **map_tensors(self._double, dict(kwargs or {})))

    def _double(self, tensor: Tensor) -> Tensor:
        return double(tensor) if id(tensor) in self.weights else tensor


def double(tensor: Tensor) -> Tensor:
    """In float64 what has a fraction; other tensors as they are."""
    return tensor.detach().double() if tensor.is_floating_point() else tensor


def original(module: Any, name: str) -> Tensor:
    """The tensor behind a parametrized one."""
    return module.parametrizations[name].original


def _converted(gate: GatedWeight, args: Any, out: Tensor) -> Tensor:
    return double(out)
