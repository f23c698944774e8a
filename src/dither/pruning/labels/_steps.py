"""A recurrent layer does the same in every step: a few stand for all.

In the decomposition of an RNN, a GRU or an LSTM the second step meets the hidden state that the first one wrote. Its
channels are in one class with the rows of the weights that wrote them, and so are those that the second step writes.
So the third step unites what the second has united, and every later one does: `STEPS` are enough for labels, one for
shapes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

STEPS = 2  # the first may begin with zeros, which carry no channel
PLAIN = tuple(kind.forward for kind in (nn.RNN, nn.GRU, nn.LSTM))


def along_time(module: nn.Module, args: tuple[Any, ...]) -> int | None:
    """The dimension of time of what a recurrent layer of torch is given; None where there is nothing to cut short."""
    if not isinstance(module, nn.RNNBase) or type(module).forward not in PLAIN:
        return None
    if not args or not isinstance(args[0], Tensor) or args[0].ndim not in (2, 3):
        return None
    time = int(module.batch_first and args[0].ndim == 3)
    return time if args[0].shape[time] > STEPS else None


def few_steps(x: Tensor, time: int) -> Tensor:
    """The first steps of ``x``."""
    return x.narrow(time, 0, STEPS)


@contextmanager
def decomposed(enabled: bool = True) -> Generator[None]:
    """Recurrent layers as their operators, not as one kernel that nobody can look into; or as they usually are."""
    (before,) = torch.backends.mkldnn.set_flags(_enabled=not enabled)[:1]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before)


@contextmanager
def shortened() -> Generator[None]:
    """Recurrent layers run one step and repeat it: right shapes, whatever the values."""
    given: list[tuple[int, int] | None] = []

    def before(module: nn.Module, args: Any) -> Any:
        if not isinstance(module, nn.RNNBase):
            return None
        time = along_time(module, args)
        given.append(None if time is None else (time, args[0].shape[time]))
        return None if time is None else (args[0].narrow(time, 0, 1), *args[1:])

    def after(module: nn.Module, args: Any, out: Any) -> Any:
        if not isinstance(module, nn.RNNBase) or (long := given.pop()) is None:
            return None
        time, steps = long
        return out[0].expand([steps if d == time else n for d, n in enumerate(out[0].shape)]), out[1]

    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
