"""Measured time: of the layers of a network, and of the layers that a channel space goes through, by its width."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._cost import time_in_turns
from ..._inputs import Inputs, call, evaluating, tensors
from ..._processes import decided
from ..cutting._cut import cut, keep_slots, twin
from ..labels import Space

SECONDS = 0.5  # what one comparison may take, unless so few rounds fit in that their median says nothing
ROUNDS = (7, 100)


def seconds_of_tensors(net: nn.Module, example_inputs: Inputs) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of one forward pass, by what they are proportional to.

    The time of a layer goes on the account of all elements of its largest tensor. The rest, activations and pooling,
    goes on the account of that tensor's rows, in proportion to the elements that the layer puts out.

    Returns:
        Seconds by tensor name: those for all its elements, and those for its rows.
    """
    names = {id(tensor): name for name, tensor in net.named_parameters()}
    largest = {
        name: names[id(max(module.parameters(recurse=False), key=torch.numel))] for name, module in _layers(net).items()
    }
    with evaluating(net):
        runs = _calls(net, example_inputs, largest.keys())
        whole, *parts = _medians([lambda: call(net, example_inputs), *runs.values()], _waits(net))
        sizes = [sum(t.numel() for t in tensors(run())) for run in runs.values()]
    rest = max(whole - sum(parts), 0.0) / max(sum(sizes), 1)
    elements: dict[str, float] = {}
    rows: dict[str, float] = {}
    for name, seconds, size in zip(runs, parts, sizes, strict=True):
        elements[largest[name]] = elements.get(largest[name], 0.0) + seconds
        rows[largest[name]] = rows.get(largest[name], 0.0) + rest * size
    return elements, rows


def seconds_of_ends(net: nn.Module, example_inputs: Inputs, spaces: Sequence[Space]) -> tuple[float, float]:
    """Seconds of one forward pass of the whole network, and with one channel in each of ``spaces``."""
    least = cut(twin(net), keep_slots([(space, _first(space, torch.zeros(1, dtype=torch.int64))) for space in spaces]))
    with evaluating(net, least):
        runs = [lambda: call(net, example_inputs), lambda: call(least, example_inputs)]
        whole, end = _medians(runs, _waits(net))
    return whole, end


def seconds_by_width(
    net: nn.Module, example_inputs: Inputs, spaces: Mapping[str, tuple[Space, Tensor]], name: str, widths: Sequence[int]
) -> list[float]:
    """Seconds that the layers of one space take at each of several widths, measured in turns.

    Only the layers that hold a slice of the space are timed, on what reaches them: a space of a large network is a
    small part of its forward pass, and would drown in the noise of a measurement of the whole.

    Args:
        net: A network without noise.
        example_inputs: Inputs with the batch size that matters.
        spaces: Other spaces that are narrower than in ``net``, and this one: the space and, best first, the order of
            the channels that stay.
        name: Which space.
        widths: How many of its channels stay, each in turn.

    Returns:
        The median seconds for each width.
    """
    runs: list[Callable[[], Any]] = []
    for width in widths:
        masks = [(s, _first(s, order[:width] if other == name else order)) for other, (s, order) in spaces.items()]
        small = cut(twin(net), keep_slots(masks))
        holding = {slot[0].rpartition(".")[0] for slot in spaces[name][0].slots}
        with evaluating(small):
            parts = list(_calls(small, example_inputs, [n for n in _layers(small) if n in holding]).values())
        runs.append(lambda parts=parts: [part() for part in parts])
        for module in small.modules():
            module.training = False
    with torch.no_grad():
        return _medians(runs, _waits(net))


def agree(values: list[float]) -> list[float]:
    """What the first process measured, in every process: decisions that rest on a measurement must be the same."""
    return decided(lambda: values)


def _first(space: Space, kept: Tensor) -> Tensor:
    mask = torch.zeros(space.size, dtype=torch.bool)
    mask[kept] = True
    return mask


def _layers(net: nn.Module) -> dict[str, nn.Module]:
    """Modules that hold parameters themselves, by name."""
    return {name: m for name, m in net.named_modules() if next(m.parameters(recurse=False), None) is not None}


def _calls(net: nn.Module, inputs: Inputs, names: Any) -> dict[str, Callable[[], Any]]:
    """For each named module that runs, and contains none that does, a function that repeats its calls."""
    wanted = {id(module): name for name, module in net.named_modules() if name in names}
    found: dict[str, list[tuple[nn.Module, Any, Any]]] = {}

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.setdefault(wanted[id(module)], []).append((module, args, kwargs))

    handles = [m.register_forward_pre_hook(see, with_kwargs=True) for m in net.modules() if id(m) in wanted]
    try:
        call(net, inputs)
    finally:
        for handle in handles:
            handle.remove()
    inner = [n for n in found if not any(other != n and other.startswith(f"{n}." if n else "") for other in found)]

    def repeat(calls: list[tuple[nn.Module, Any, Any]]) -> Callable[[], Any]:
        return lambda: [module(*args, **kwargs) for module, args, kwargs in calls]

    return {name: repeat(found[name]) for name in inner}


def _medians(runs: Sequence[Callable[[], Any]], wait: Callable[[], Any]) -> list[float]:
    """Median seconds of each function, in turns, in as many rounds as fit into `SECONDS`; the same in all processes."""

    def waiting(run: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (run(), wait())

    timed = [waiting(run) for run in runs]
    for run in timed:
        run()
    start = time.perf_counter()
    for run in timed:
        run()
    rounds = int(SECONDS / max(time.perf_counter() - start, 1e-9))
    seconds = time_in_turns(timed, min(max(rounds, ROUNDS[0]), ROUNDS[1]), warmup=0)
    return agree([statistics.median(values) for values in seconds])


def _waits(net: nn.Module) -> Callable[[], Any]:
    """A function that returns when the device of ``net`` has nothing left to do."""
    kind = next((t.device.type for t in tensors(list(net.parameters()))), "cpu")
    return getattr(torch, kind).synchronize if kind != "cpu" and hasattr(torch, kind) else lambda: None
