"""Cutting slices out of a network, and the check that nothing else changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..._inputs import Inputs, call, evaluating, map_tensors, tensors
from ..labels import Slot, Space
from ._known import ShrinkError as ShrinkError
from ._known import Slices, adapt, following
from ._precise import InDouble, double

Kept = dict[str, dict[int, Tensor]]
"""The indices that stay, by tensor name and dimension; what is not named stays whole."""

POSITIONS = -1
"""In `Kept`, beside the dimensions of a buffer of positions: the positions that stay, by which its values count."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between the masked and the shrunk network, on the scale of the output."""


def holders(net: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every (module, attribute) that holds a tensor, by the tensor's id: a tied weight has several."""
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in net.modules():
        for name, held in [*module._parameters.items(), *module._buffers.items()]:  # pyright: ignore[reportPrivateUsage]
            if held is not None:
                found.setdefault(id(held), []).append((module, name))
    return found


def keep_slots(spaces: Sequence[tuple[Space, Tensor]]) -> Kept:
    """From channels that stay, as a mask for each space, to the slices of each tensor that stay."""
    masks: dict[Slot, Tensor] = {}
    for space, keep in spaces:
        positions = {(name, POSITIONS): channel for name, channel in space.positions.items()}
        for slot, channel in {**space.slots, **positions}.items():
            here = (channel < 0) | keep[channel.clamp(min=0)]
            masks[slot] = masks[slot] & here if slot in masks else here
    kept: Kept = {}
    for (name, dim), mask in masks.items():
        if not bool(mask.all()):
            kept.setdefault(name, {})[dim] = mask.nonzero().flatten()
    return kept


def twin(
    net: nn.Module,
    parameter: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    buffer: Callable[[Tensor], Tensor] = torch.clone,
) -> nn.Module:
    """A copy of ``net`` with other tensors: by default the same parameters, shared, and copies of the buffers.

    A copy of the structure alone is quick and small, however large the network is. Buffers are copied because a forward
    pass may change them. What shares parameters may replace them and must not write into them.
    """
    memo: dict[int, object] = {}
    for old in net.parameters():
        new = parameter(old)
        memo[id(old)] = old if new is old else nn.Parameter(new.detach(), requires_grad=old.requires_grad)
    memo |= {id(tensor): buffer(tensor) for tensor in net.buffers()}
    return copy.deepcopy(net, memo)


def own(net: nn.Module, other: nn.Module) -> nn.Module:
    """Give ``net``, in place, copies of the parameters that it shares with ``other``."""
    theirs = {id(parameter) for parameter in other.parameters()}
    held_by = holders(net)
    for shared in [p for p in net.parameters() if id(p) in theirs]:
        copied = copy.deepcopy(shared)
        for module, attribute in held_by[id(shared)]:
            setattr(module, attribute, copied)
    return net


@contextmanager
def restored(net: nn.Module) -> Generator[None]:
    """Whatever happens to ``net`` inside, its modules are as before at the end; quicker than a copy.

    Attributes come back, and the values of buffers; parameters may be replaced, not changed.
    """
    before = [
        (m, type(m), {k: v.copy() if type(v) in (list, dict) else v for k, v in vars(m).items()}) for m in net.modules()
    ]
    values = [(buffer, buffer.clone()) for buffer in net.buffers()]
    try:
        yield
    finally:
        for module, kind, attributes in before:
            object.__setattr__(module, "__class__", kind)
            vars(module).clear()
            vars(module).update(attributes)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


def silence(net: nn.Module, spaces: Sequence[tuple[Space, Tensor]]) -> None:
    """Set the columns that read dropped channels to zero; ``net`` gets new tensors, the old ones may be shared."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    held_by = holders(net)
    dropped: dict[Slot, Tensor] = {}
    for space, keep in spaces:
        for slot in space.readers:
            channel = space.slots[slot]
            here = (channel >= 0) & ~keep[channel.clamp(min=0)]
            dropped[slot] = dropped[slot] | here if slot in dropped else here
    silent: dict[str, Tensor] = {}
    for (name, dim), columns in dropped.items():
        before = silent.get(name, named[name].detach())
        silent[name] = before.index_fill(dim, columns.nonzero().flatten().to(before.device), 0)
    for name, new in silent.items():
        _put(held_by[id(named[name])], named[name], new)


def cut(net: nn.Module, kept: Kept) -> nn.Module:
    """Keep only the named slices of the named tensors, in place, and tell the layers their new sizes."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    held_by = holders(net)
    adapt(net, Slices({id(named[name]): dims for name, dims in kept.items()}))
    for name, dims in kept.items():
        old = named.pop(name)  # nobody else may hold it: what is cut is freed before the next is
        _put(held_by[id(old)], old, sliced(old, dims))
    return net


def _put(holders: list[tuple[nn.Module, str]], old: Tensor, new: Tensor) -> None:
    """Let every holder of ``old`` hold ``new``: a parameter, frozen or not, or a buffer as ``old`` is."""
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for module, attribute in holders:
        setattr(module, attribute, new)


def sliced(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """A copy of the slices that stay, in the memory format of ``tensor``."""
    new = tensor.detach()
    for dim, index in sorted(dims.items(), reverse=True):  # what stays of the positions, and then their new values
        index = index.to(tensor.device)
        new = torch.searchsorted(index, new) if dim == POSITIONS else new.index_select(dim, index)
    channels_last = (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    )
    if channels_last or not dims:
        return new.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return new.contiguous()


def difference(
    whole: nn.Module, small: nn.Module, batches: Sequence[Inputs], known: Sequence[Any] | None = None
) -> float:
    """The largest difference of any output, on that output's scale, in units of the tolerance of its dtype.

    Above 1 means that the two are not the same network. What lower precision cannot tell is asked again in float64: the
    rounding errors of a deep network in float32 may be larger than any tolerance that still finds errors. ``known`` is
    what ``whole`` returned for the batches, if it ran already.
    """
    worst = _difference(whole, small, batches, known)
    coarse = {t.dtype for net in (whole, small) for t in net.parameters() if t.is_floating_point()} - {torch.float64}
    if not coarse or not 1 < worst < float("inf"):
        return worst
    try:
        exact = [map_tensors(double, inputs) for inputs in batches]
        whole, small = twin(whole, buffer=double), twin(small, buffer=double)
        with InDouble(whole, small):
            return min(worst, _difference(whole, small, exact))
    except Exception:  # code that insists on its dtype raises what it likes
        return worst


def _difference(
    whole: nn.Module, small: nn.Module, batches: Sequence[Inputs], known: Sequence[Any] | None = None
) -> float:
    worst = 0.0
    with evaluating(whole, small):
        for i, inputs in enumerate(batches):
            expected = run(whole, inputs) if known is None else known[i]
            for a, b in zip(tensors(expected), tensors(run(small, inputs)), strict=True):
                if a.shape != b.shape:
                    return float("inf")
                if not a.is_floating_point():
                    continue
                scale = a.abs().nan_to_num().max() if a.numel() else a.new_zeros(())
                error = (a - b).abs().nan_to_num(nan=0.0 if torch.equal(a.isnan(), b.isnan()) else torch.inf)
                tolerance = TOLERANCE.get(a.dtype, 1e-5)
                if a.numel() and float(error.max()) > 0:
                    worst = max(worst, float(error.max()) / (tolerance * max(float(scale), torch.finfo(a.dtype).tiny)))
    return worst


def runs(net: nn.Module, inputs: Inputs) -> bool:
    """Whether the network runs on other inputs than those that it was given: a mask may fit one batch size only."""
    try:
        with evaluating(net):
            run(net, inputs)
    except Exception:  # it is the user's code that runs
        return False
    return True


def run(net: nn.Module, inputs: Inputs) -> Any:
    """The output; the generators come back: a network may draw at random, and its shrunk copy then draws the same."""
    with torch.random.fork_rng(devices=sorted({t.device.index for t in net.parameters() if t.is_cuda})), following(net):
        return call(net, inputs)
