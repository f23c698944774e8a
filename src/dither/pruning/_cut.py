"""Cutting slices out of a network, and the check that nothing else changed."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from .._inputs import Inputs, call, evaluating, tensors, varied, with_batch
from .labels import Slot, Space

Kept = dict[str, dict[int, Tensor]]
"""The indices that stay, by tensor name and dimension; what is not named stays whole."""

POSITIONS = -1
"""In `Kept`, beside the dimensions of a buffer of positions: the positions that stay, by which its values count."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference between the masked and the shrunk network, on the scale of the output."""


class ShrinkError(ValueError):
    """A network would not be the same after channels are removed; it names what is in the way."""


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


def silence(net: nn.Module, spaces: Sequence[tuple[Space, Tensor]]) -> None:
    """Set the columns that read dropped channels to zero, in place."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    with torch.no_grad():
        for space, keep in spaces:
            for name, dim in space.readers:
                channel = space.slots[name, dim]
                dropped = (channel >= 0) & ~keep[channel.clamp(min=0)]
                named[name].index_fill_(dim, dropped.nonzero().flatten().to(named[name].device), 0)


def cut(net: nn.Module, kept: Kept) -> nn.Module:
    """Keep only the named slices of the named tensors, in place, and tell the layers their new sizes."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    held_by = holders(net)
    touched: list[nn.Module] = []
    for name, dims in kept.items():
        old = named[name]
        new = old.detach()
        for dim, index in sorted(dims.items(), reverse=True):  # what stays of the positions, and then their new values
            index = index.to(old.device)
            new = torch.searchsorted(index, new) if dim == POSITIONS else new.index_select(dim, index)
        channels_last = (
            old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous()
        )
        new = new.clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for module, attribute in held_by[id(old)]:
            setattr(module, attribute, new)
            touched.append(module)
    for module in touched:
        tell_sizes(module)
    return net


def tell_sizes(module: nn.Module) -> None:
    """Bring the sizes that torch's own layers store as numbers in line with their tensors."""
    if isinstance(module, nn.modules.conv._ConvNd):  # pyright: ignore[reportPrivateUsage]
        rows, columns = module.weight.shape[:2]
        if module.groups > 1:  # depthwise: as many groups as filters' inputs
            multiplier = module.out_channels // module.groups
            module.groups = module.in_channels = rows // multiplier
            module.out_channels = rows
        else:
            module.in_channels, module.out_channels = (rows, columns) if module.transposed else (columns, rows)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):  # pyright: ignore[reportPrivateUsage]
        sized = module.weight if module.affine else module.running_mean
        if sized is not None:
            module.num_features = len(sized)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def difference(whole: nn.Module, small: nn.Module, batches: Sequence[Inputs]) -> float:
    """The largest difference of any output, on that output's scale, in units of the tolerance of its dtype.

    Above 1 means that the two are not the same network.
    """
    worst = 0.0
    with evaluating(whole, small):
        for inputs in batches:
            for a, b in zip(tensors(call(whole, inputs)), tensors(call(small, inputs)), strict=True):
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


def check_sizes(model: nn.Module, spaces: Sequence[Space], example_inputs: Inputs) -> None:
    """Remove every second channel on a copy and run it: does the code of the model follow?

    Raises:
        ShrinkError: If a size is written into the code, with the module, the line and what to write instead.
    """
    example_inputs = varied(example_inputs)
    found = _trial(model, spaces, example_inputs)
    if found is None:
        return
    low, high = 0, len(spaces)  # the first space without which all before it can be removed
    while high - low > 1:
        middle = (low + high) // 2
        part = _trial(model, spaces[:middle], example_inputs)
        low, high, found = (middle, high, found) if part is None else (low, middle, part)
    raise ShrinkError(
        f'cannot remove channels of "{spaces[low].name}": {found}. Leave them whole with skip=["{spaces[low].name}"].'
    )


def _trial(model: nn.Module, spaces: Sequence[Space], example_inputs: Inputs) -> str | None:
    """What goes wrong when every second channel of ``spaces`` is removed; None if nothing does."""
    drop = [(space, torch.arange(space.size) % 2 == 0) for space in spaces]
    whole, small = copy.deepcopy(model), copy.deepcopy(model)
    silence(whole, drop)
    cut(small, keep_slots(drop))
    found = _failure(whole, small, example_inputs)
    if found is not None:
        # h.view(-1, width) makes fewer rows of several examples and fails only in the next layer: ask with one example
        with suppress(Exception):
            one = with_batch(example_inputs, 1)
            difference(whole, whole, [one])
            found = _failure(whole, small, one) or found
    return found


def _failure(whole: nn.Module, small: nn.Module, inputs: Inputs) -> str | None:
    """What is wrong with ``small``: an error and where it is raised, or another output."""
    stack: list[nn.Module] = []

    def enter(module: nn.Module, args: object) -> None:
        stack.append(module)

    def leave(module: nn.Module, args: object, out: object) -> None:
        stack.pop()

    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        worst = difference(whole, small, [inputs])
    except Exception as error:
        names = {id(m): name or type(m).__name__ for name, m in small.named_modules()}
        return _blame(error, names.get(id(stack[-1]), "the network") if stack else "the network")
    finally:
        for handle in handles:
            handle.remove()
    if worst > 1:
        return f"its output would change by {worst:.0f} times the tolerance; the code takes channels by position"
    return None


def _blame(error: Exception, module: str) -> str:
    """The innermost line of the user's own code, and how to write it."""
    inside = str(Path(torch.__file__).parent), str(Path(__file__).parent.parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(inside)]
    where = f"{frames[-1].filename}:{frames[-1].lineno} `{frames[-1].line}`" if frames else "its forward pass"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f'in module "{module}", {where} fixes a size that would have to change ({reason}). '
        "Write one that follows the tensor, such as x.flatten(1) or x.view(x.shape[0], -1)"
    )
