"""Batches from whatever loader the user has, checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import Inputs, map_tensors, split_batch, tensors


def checked_loader(loader: Any) -> Iterable[Any]:
    """``loader``, if it is an iterable of batches.

    Raises:
        TypeError: If it is a tensor (whose rows would be taken for batches) or cannot be iterated.
    """
    if isinstance(loader, Tensor):
        raise TypeError(f"the loader is a tensor of shape {tuple(loader.shape)}; expected an iterable of batches, such "
                        "as torch.utils.data.DataLoader or x.split(batch_size)")  # fmt: skip
    if not isinstance(loader, Iterable):
        raise TypeError(f"the loader is a {type(loader).__name__}; expected an iterable of batches, such as DataLoader")
    return loader  # pyright: ignore[reportUnknownVariableType]


def checked_batch(net: nn.Module, batch: Any, number: int) -> tuple[Inputs, Tensor | None, int]:
    """Inputs, target and number of examples of one batch, on the device of the network.

    Raises:
        ValueError: If no input can be told from the batch, or it is empty or not finite.
    """
    try:
        inputs, target = split_batch(net, batch)
    except ValueError as error:
        raise ValueError(f"batch {number}: {error}") from error
    device = next((p.device for p in (*net.parameters(), *net.buffers())), None)
    if device is not None:
        inputs = map_tensors(lambda t: t.to(device, non_blocking=True), inputs)
        target = None if target is None else target.to(device)
    found = tensors(inputs)
    rows = found[0].shape[0] if found and found[0].ndim else 0
    if not rows:
        raise ValueError(f"batch {number} of the loader holds no example")
    for tensor in found:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            finite = torch.isfinite(tensor).flatten(1).all(1) if tensor.ndim > 1 else torch.isfinite(tensor)
            bad = int((~finite).sum())
            raise ValueError(f"batch {number} of the loader holds NaN or infinity in {bad} of {len(finite)} rows")
    return inputs, target, rows


class EqualBatches:
    """The inputs of at most ``num_batches`` batches, all of the size of the first.

    The law of batch statistics is that of one batch size, so a smaller last batch is left out.

    Attributes:
        size: Examples per batch; 0 before the first.
        left_out: Examples in the batch that was left out; 0 if none was.

    Raises:
        ValueError: While iterating, if a batch has one example or sizes vary otherwise.
    """

    def __init__(self, net: nn.Module, loader: Iterable[Any], num_batches: int | None) -> None:
        self._net, self._loader = net, loader
        self._most = math.inf if num_batches is None else num_batches
        self.size = self.left_out = 0

    def __iter__(self) -> Iterator[Inputs]:
        taken = 0
        for number, batch in enumerate(self._loader):
            inputs, _, rows = checked_batch(self._net, batch, number)
            self.size = self.size or rows
            if self.size == 1:
                raise ValueError("the loader yields batches of one example; expected those of training, 2 or more")
            if self.left_out or rows > self.size:
                odd = f"{self.left_out} and then {rows}" if self.left_out else f"{rows}"
                raise ValueError(
                    f"the batches have different sizes: {self.size} examples at first, {odd} in batch {number}. "
                    "The law of batch statistics is that of one size (a smaller last batch is left out): "
                    "use a DataLoader with a fixed batch_size"
                )
            if rows < self.size:
                self.left_out = rows
                continue
            yield inputs
            taken += 1
            if taken >= self._most:
                return
