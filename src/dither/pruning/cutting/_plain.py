"""The two layers that a shrunk network may carry beside torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelectedLinear(nn.Linear):
    """A linear layer that reads only the input columns ``index``: y = W x[..., index] + b.

    What `shrink` leaves where single input columns (pixels, flattened features) were dropped. Shapes: (..., n) in, with
    n larger than any index, (..., out_features) out.

    Args:
        linear: The layer whose weight already has one column for each index.
        index: The columns of the input that are read, shape (in_features,).

    Example:
        >>> SelectedLinear(nn.Linear(2, 3), torch.tensor([0, 5]))(torch.zeros(1, 9)).shape
        torch.Size([1, 3])
    """

    index: Tensor

    def __init__(self, linear: nn.Linear, index: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = len(index), linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.register_buffer("index", index.to(linear.weight.device), persistent=False)
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.index_select(-1, self.index), self.weight, self.bias)


class FixedScale(nn.Module):
    """Multiply every channel by a constant: hand-placed noise at its mean, where that cannot move into a weight.

    Args:
        scale: One factor for each channel, shape (C,).
        dim: The channel dimension.
    """

    scale: Tensor

    def __init__(self, scale: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return x * self.scale.view(shape).to(x.dtype)


def select_columns(net: nn.Module, name: str, index: Tensor) -> None:
    """Let the linear layer ``name`` read only ``index`` of its input, in place; its weight is already that narrow."""
    linear = net.get_submodule(name)
    if not isinstance(linear, nn.Linear):
        raise TypeError(f'"{name}" is a {type(linear).__name__}; only nn.Linear can select columns.')
    replace_module(net, linear, SelectedLinear(linear, torch.as_tensor(index)))


def replace_module(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is registered."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
