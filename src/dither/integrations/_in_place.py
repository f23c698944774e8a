"""shrink and restructure in place, for loops that hold references to the network and the optimizer.

Schedulers, loggers, mixed precision, the loop itself: all point to one network and one optimizer. Here both stay the
objects they are, and their content changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .. import pruning
from .._inputs import Inputs
from ..pruning import Plan
from ..pruning.noise._gates import Bank


def shrink_(
    net: nn.Module,
    example_inputs: Inputs,
    optimizer: Optimizer,
    *,
    plan: Callable[[nn.Module, Inputs], Plan] = pruning.plan,
) -> Plan:
    """`pruning.shrink` with an optimizer, in place: ``net`` gets smaller, ``optimizer`` is cut along.

    Everything that refers to the two goes on: schedulers, gradient scalers, wrappers that call the network, loggers.
    What refers to single parameters or layers must be made anew: averaged copies (EMA), DistributedDataParallel.

    Args:
        net: A network with noise.
        example_inputs: As for `pruning.attach`.
        optimizer: The optimizer that trains ``net``, as torch made it (not a wrapper around it).
        plan: Decides what stays, from the network and the example inputs.

    Returns:
        The plan that was carried out; nothing is touched where it keeps everything.

    Raises:
        ValueError: If the optimizer trains none of the parameters, or has state that cannot be cut along.
        ShrinkError: If the smaller network is not the same function. Nothing is touched then.

    Example:
        >>> import torch
        >>> net = pruning.attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> optimizer = torch.optim.Adam(pruning.param_groups(net, lr=1e-3))
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
        >>> with torch.no_grad():
        ...     _ = pruning.gates(net)["0"].log_scale[:12].fill_(3.0)
        >>> plan = shrink_(net, torch.zeros(1, 8), optimizer)
        >>> net[0].out_features, scheduler.optimizer.param_groups[0]["params"][0] is net[0].weight
        (4, True)
    """
    with _bare(net):
        decided = plan(net, example_inputs)
        if all(kept == total for kept, total in decided.widths.values()):
            return decided
        small, cut = pruning.shrink(net, decided, example_inputs, optimizer=optimizer)
    _become(net, small)
    _refill(optimizer, cut)
    return decided


def restructure_(net: nn.Module, record: Mapping[str, Any] | None) -> None:
    """Give ``net`` the structure that a checkpoint was saved with, in place; the values are then loaded as always.

    Args:
        net: A network with noise, as at the start of the training, or with this structure already.
        record: ``net.dither_shrunk`` when the checkpoint was saved; None if nothing was removed by then.

    Raises:
        ValueError: If the network lost channels that the checkpoint has, or the record is of another network.
    """
    known: Mapping[str, Any] | None = getattr(net, "dither_shrunk", None)
    if json.dumps(known) == json.dumps(record):  # one of them may have been JSON, which has no tuples
        return
    if known is not None or record is None:
        raise ValueError(
            "this network has lost other channels than the one in the checkpoint; load the checkpoint into a network "
            "that pruning.attach has just returned."
        )
    pruning.apply_shrunk(net, record)
    net.dither_shrunk = record  # pyright: ignore[reportArgumentType]


def noisy_root(module: nn.Module) -> nn.Module:
    """The network that carries the noise: what `attach` returned, wherever it is in ``module``, else ``module``.

    Raises:
        ValueError: If there is no noise.
    """
    if not pruning.gates(module):
        raise ValueError(
            "the network carries no noise; call pruning.attach(model, example_inputs) before the training."
        )
    return next((m for m in module.modules() if _has_bank(m)), module)


def _has_bank(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()  # pyright: ignore[reportPrivateUsage]
    return any(isinstance(getattr(hook, "__self__", None), Bank) for hook in hooks)


@contextmanager
def _bare(net: nn.Module) -> Generator[None]:
    """The forward pass without what Accelerate has put around it: in its autocast two networks compare badly."""
    own = vars(net)
    wrapped, bare = own.get("forward"), own.get("_original_forward")
    if wrapped is not None and bare is not None:
        own["forward"] = bare
    try:
        yield
    finally:
        if wrapped is not None:
            own["forward"] = wrapped


def _become(net: nn.Module, other: nn.Module) -> None:
    """Give ``net`` the content of ``other``. Functions stay: a wrapped ``forward`` is bound to this object."""
    content = {k: v for k, v in vars(other).items() if isinstance(v, nn.Module) or not callable(v)}
    object.__setattr__(net, "__class__", type(other))
    vars(net).update(content)


def _refill(optimizer: Optimizer, cut: Optimizer) -> None:
    """Give ``optimizer`` the parameters and the state of ``cut``. Its groups, options and hooks stay these objects."""
    for group, new in zip(optimizer.param_groups, cut.param_groups, strict=True):
        group["params"] = new["params"]
    optimizer.state.clear()
    optimizer.state.update(cut.state)
    taken = {"param_groups", "state"}
    for name, value in vars(cut).items():
        if name not in taken and not name.startswith("_optimizer_") and not callable(value):
            vars(optimizer)[name] = value
