"""Gates in a parameter group of their own, when the optimizer and its schedulers exist already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

FASTER = 10.0  # gates learn ten times faster than weights: Neklyudov et al. 2017
_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr")  # what a scheduler keeps in a group
_RATE_LISTS = ("base_lrs", "_last_lr", "max_lrs", "min_lrs")  # and in lists with an entry for each group
_OTHER_LISTS = ("lr_lambdas", "base_momentums", "max_momentums")


def separate(
    optimizer: Optimizer, noise: Iterable[Tensor], gate_lr: float | None = None, schedulers: Iterable[Any] = ()
) -> None:
    """Move the parameters of the noise into a group of their own, in place: faster, without weight decay.

    The new group has the options of the group that they were in, and follows its schedule: every rate of it times
    ``gate_lr / lr``. Groups that hold nothing but noise are the user's choice and stay.

    Args:
        optimizer: Any optimizer.
        noise: The parameters of the gates; those that the optimizer does not train are left out.
        gate_lr: Learning rate of the noise at the start; ten times that of its group if None.
        schedulers: What has been made for the optimizer already.

    Raises:
        ValueError: If a scheduler is not one of torch's, and so does not say what it keeps for each group.
    """
    wanted = {id(p) for p in noise}
    groups: list[dict[str, Any]] = optimizer.param_groups
    mixed = [
        i for i, group in enumerate(groups) if 0 < sum(id(p) in wanted for p in group["params"]) < len(group["params"])
    ]
    if not mixed:
        return
    source, count = groups[mixed[0]], len(groups)
    rate = float(source.get("initial_lr", source["lr"]))
    factor = FASTER if gate_lr is None else gate_lr / rate
    moved = [p for i in mixed for p in groups[i]["params"] if id(p) in wanted]
    for i in mixed:
        groups[i]["params"] = [p for p in groups[i]["params"] if id(p) not in wanted]
    faster = {name: value * factor for name, value in source.items() if name in _RATES}
    optimizer.add_param_group({**source, **faster, "params": moved, "weight_decay": 0.0})
    for scheduler in _flattened(schedulers):
        for name in (*_RATE_LISTS, *_OTHER_LISTS):
            values: Any = getattr(scheduler, name, None)
            if isinstance(values, list) and len(values) == count:
                values.append(values[mixed[0]] * factor if name in _RATE_LISTS else values[mixed[0]])


def _flattened(schedulers: Iterable[Any]) -> Iterator[LRScheduler]:
    """The schedulers, and those inside of them (`SequentialLR`, `ChainedScheduler`)."""
    for scheduler in schedulers:
        if not isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)):
            raise ValueError(
                f"a {type(scheduler).__name__} does not say what it keeps for each parameter group; make the optimizer "
                "of pruning.param_groups(net, lr=...), where the noise has its own group from the start."
            )
        yield scheduler
        yield from _flattened(getattr(scheduler, "_schedulers", ()))
