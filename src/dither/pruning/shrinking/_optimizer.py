"""An optimizer for the parameters that are left: its state is cut along with them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..._inputs import tensors
from ..cutting._cut import sliced


@dataclass(frozen=True)
class Moved:
    """What became of one parameter.

    Attributes:
        name: Its qualified name.
        new: The parameter of the smaller network.
        dims: The indices that stay along each dimension that was cut.
    """

    name: str
    new: Tensor
    dims: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])


def carried(optimizer: Optimizer, moved: Mapping[int, Moved]) -> Optimizer:
    """A copy of ``optimizer`` for the smaller network.

    Of a parameter that was cut, every tensor of the state with the parameter's shape is cut alike and scalars (step
    counts) are kept. Parameters that are not in ``moved`` are trained on as they are, the new optimizer holds the same
    tensors. Options, parameter groups and hooks stay.

    Args:
        optimizer: Any optimizer of torch, or one like them. It is not changed.
        moved: By the id of the old parameter.

    Returns:
        An optimizer of the same class.

    Raises:
        ValueError: If it trains none of the parameters, wraps another optimizer, or has state that cannot be cut.
    """
    kind = type(optimizer).__name__
    if "param_groups" not in vars(optimizer):
        raise ValueError(f"{kind} is a wrapper; give the optimizer inside, and wrap the one that comes back.")
    trained: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in moved for p in trained):
        raise ValueError(f"this {kind} trains no parameter of the network; give the optimizer that trains it.")
    memo: dict[int, Any] = {id(p): moved[id(p)].new if id(p) in moved else p for p in trained}
    state: defaultdict[Any, Any] = defaultdict(dict)
    for key, entries in optimizer.state.items():
        place = moved.get(id(key))
        if place is None:
            state[key] = copy.deepcopy(entries, memo)
        else:
            state[place.new] = {name: _cut_along(kind, name, value, key, place) for name, value in entries.items()}
    memo[id(optimizer.state)] = state
    new = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():  # an optimizer copies its state and its options only
        if name.startswith("_optimizer_"):  # hooks that the user registered
            vars(new)[name] = copy.copy(value)
        elif name not in vars(new) and not hasattr(value, "_wrapped_by_lr_sched"):  # that one steps the old optimizer
            if isinstance(value, Optimizer) or any(id(t) not in memo for t in tensors(value)):
                raise ValueError(f"{kind}.{name} holds state that cannot be cut along; {_ANEW}")
            vars(new)[name] = copy.deepcopy(value, memo)
    return new


_ANEW = "clear it before (optimizer.state.clear()), or give a new optimizer of pruning.param_groups(net, lr=...)."


def _cut_along(kind: str, name: str, value: Any, old: Tensor, place: Moved) -> Any:
    """One entry of the state of a parameter."""
    if isinstance(value, Tensor) and value.shape == old.shape:
        return sliced(value, place.dims)
    # What lost nothing keeps what is no larger than itself; more is about others too (LBFGS stores all at the first).
    if all(t.numel() <= (1 if place.dims else old.numel()) for t in tensors(value)):
        return copy.deepcopy(value)
    what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__} of tensors"
    raise ValueError(
        f'{kind} keeps "{name}" ({what}) for "{place.name}" (shape {tuple(old.shape)}), '
        f"which cannot be cut along; {_ANEW}"
    )


@torch.no_grad()
def carry_gradients(net: nn.Module, moved: Mapping[int, Moved]) -> None:
    """Give the new parameters the gradients that the old ones wait with."""
    for old in net.parameters():
        if old.grad is not None:
            place = moved[id(old)]
            place.new.grad = sliced(old.grad, place.dims)
