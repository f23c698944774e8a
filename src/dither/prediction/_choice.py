"""How samples are run: folded, looped, or looped with the prefix computed once. Measured once, then remembered.

Whatever is chosen runs all samples, the first time too: the same draws give the same bits as long as the process lives.
Another process may choose otherwise, and its answers then differ by rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._inputs import map_tensors, tensors
from ._fold import Call, can_fold
from ._replay import Record
from ._sampler import Batch, Sampler, autocasting

T = TypeVar("T")

# Bytes of the largest tensor in a pass, up to which samples are folded.
FOLD_BYTES = 256 << 20
# A pass of this many seconds keeps the machine busy: folding cannot gain. Shorter ones are timed more often.
_BUSY = 0.02
_REPEATS = (2, 8)  # one alone may be slow by chance, and the first of its kind prepares its kernels
# Another memory format must gain this much: it is the one choice that costs a copy of the input.
_GAIN = 0.9
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 1e-2


@dataclass(frozen=True)
class Plan:
    """How the samples of a network are run for inputs of one shape.

    Attributes:
        fold: Samples in one pass; 1 loops.
        replay: Whether looped passes take over what does not depend on the draw.
        channels_last: Whether images are laid out with the channels last.
        calls: The calls of dropout layers in a pass, for folding.
        seconds: What was measured for all samples, by name of the way.
    """

    fold: int = 1
    replay: bool = False
    channels_last: bool = False
    calls: list[Call] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        way = f"{self.fold} samples in a pass" if self.fold > 1 else "loop, prefix once" if self.replay else "loop"
        return way + ", channels last" * self.channels_last


_plans: WeakKeyDictionary[nn.Module, dict[Any, Plan]] = WeakKeyDictionary()


def plan_of(net: nn.Module) -> Plan | None:
    """The plan that was made last for a network, to look at."""
    return next(reversed(_plans.get(net, {}).values()), None)


def run_samples(sampler: Sampler, batch: Batch, max_batch: int | None) -> Tensor:
    """All samples of a batch, (S, B, ...), the way that is fastest for its shape."""
    if sampler.num_samples == 1:
        return sampler.plain(batch, 0).unsqueeze(0)
    known = _plans.setdefault(sampler.net, {})
    key = _key(sampler, batch, max_batch)
    if key not in known:
        known[key], out = _measure(sampler, batch, max_batch)
        return out
    try:
        return _run(sampler, batch, known[key])
    except Exception:  # a batch may take a path through the network that the way cannot; a real error comes again
        known[key] = Plan(seconds=known[key].seconds)
        return _run(sampler, batch, known[key])


def _run(sampler: Sampler, batch: Batch, plan: Plan) -> Tensor:
    count = sampler.num_samples
    if plan.channels_last:
        batch = _channels_last(batch)
    if plan.fold > 1:
        return torch.cat([sampler.folded(batch, part, plan.calls) for part in _parts(count, plan.fold)])
    if not plan.replay:
        return torch.stack(sampler.looped(batch, range(count), None))
    first, record = sampler.recorded(batch, 0)
    rest = sampler.looped(batch, range(1, count), None if record.reason else record)
    return torch.stack([first, *rest])


def _measure(sampler: Sampler, batch: Batch, max_batch: int | None) -> tuple[Plan, Tensor]:
    """The plan, and the samples as it makes them. What is timed is samples that are needed anyway, run again."""
    count, coarse = sampler.num_samples, any(autocasting(batch))
    try:
        first, record = sampler.recorded(batch, 0)
    except Exception:  # an operator that a dispatch mode cannot see into; what the user did wrong is raised here again
        first, record = sampler.plain(batch, 0), None
    second, each = _timed(batch, lambda: sampler.plain(batch, 1))
    plan = Plan(seconds={"loop": each * count})
    if _has_images(batch) and not any(isinstance(m, _DropoutNd) for m in sampler.layers.values()):
        last = _channels_last(batch)
        tried = _tried(lambda: _timed(batch, lambda: sampler.plain(last, 1)))
        if tried is not None and tried[1] < _GAIN * each and _close(tried[0], second, coarse):
            (second, each), batch = tried, last
            plan = replace(plan, channels_last=True, seconds=plan.seconds | {"channels last": each * count})
            again = _tried(lambda: sampler.recorded(batch, 0))
            first, record = again or (sampler.plain(batch, 0), None)
    done, seconds = [first, second], each * count
    if record is not None and record.steps and not record.reason:
        tried = _tried(lambda: _timed(batch, lambda: sampler.replayed(batch, 1, record)))
        if tried is not None and torch.equal(tried[0], second):
            before = _timed(batch, lambda: sampler.recorded(batch, 0))[1] if each < _BUSY else each
            with_replay = before + tried[1] * (count - 1)
            plan.seconds["replay"] = with_replay
            if with_replay < seconds:
                plan, seconds = replace(plan, replay=True), with_replay
    fold = _most(record, batch, count, max_batch)
    if fold > 1 and each < _BUSY and record is not None and can_fold(list(sampler.layers.values())):
        calls = sampler.calls(batch, 0)
        tried = _try_fold(sampler, batch, fold, calls) if len(calls) == record.random else None
        if tried is not None and _close(tried[0][0], first, coarse):
            parts = -(-count // fold)
            plan.seconds["fold"] = tried[1] * parts
            if plan.seconds["fold"] < seconds:
                plan = replace(plan, fold=fold, replay=False, calls=calls)
                return plan, tried[0] if parts == 1 else _run(sampler, batch, replace(plan, channels_last=False))
    rest = sampler.looped(batch, range(len(done), count), record if plan.replay else None)
    return plan, torch.stack([*done, *rest])


def _try_fold(sampler: Sampler, batch: Batch, fold: int, calls: list[Call]) -> tuple[Tensor, float] | None:
    """Samples and seconds of a folded pass; None where vmap cannot run the network."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = _tried(lambda: _timed(batch, lambda: sampler.folded(batch, range(fold), calls)))
    if any("batching rule" in str(w.message) for w in caught):  # vmap loops then, with a warning for every call
        return None
    return out


def _tried(run: Callable[[], T]) -> T | None:
    """None where it fails: there is always the plain loop, and what is wrong with the network is raised there.

    Any exception: beside what vmap and dispatch modes raise, the user's own code may raise anything when it meets a
    batched tensor, and a folded pass may not fit into memory.
    """
    try:
        return run()
    except Exception:
        return None


def _timed(batch: Batch, run: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds of the fastest of a few runs; slow ones are run twice.

    On a CPU, the processor time counts where it is less than the time that passed: then other programs had the machine.
    """
    waits = [torch.get_device_module(d) for d in {t.device.type for t in tensors(batch.inputs)} - {"cpu"}]
    best, spent, repeats = float("inf"), 0.0, 0
    while True:
        start, busy = time.perf_counter(), time.process_time()
        out = run()
        for wait in waits:
            wait.synchronize()
        seconds = time.perf_counter() - start
        if not waits:
            seconds = min(seconds, time.process_time() - busy)
        best, spent, repeats = min(best, seconds), spent + seconds, repeats + 1
        if (spent > _BUSY and repeats >= _REPEATS[0]) or repeats == _REPEATS[1]:
            return out, best


def _most(record: Record | None, batch: Batch, count: int, max_batch: int | None) -> int:
    """Samples to fold: as many as fit, the same number in every pass."""
    if record is None or not record.depends:
        return 1
    limit = FOLD_BYTES // max(1, record.largest)
    if max_batch is not None:
        limit = max_batch // batch.rows
    return -(-count // -(-count // max(1, min(count, limit))))


def _parts(count: int, size: int) -> list[range]:
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _key(sampler: Sampler, batch: Batch, max_batch: int | None) -> Any:
    """What the speed of a network depends on."""
    inputs = [(t.shape, t.stride(), t.dtype, t.device) for t in tensors(batch.inputs)]
    draws = [(source.foldable, *(t.shape for t in source.tensors())) for source in sampler.sources]
    dropouts = [getattr(layer, "p", None) for layer in sampler.layers.values()]
    settings = torch.get_num_threads(), *autocasting(batch), max_batch, sampler.num_samples
    return (*inputs, *map(tuple, draws), *dropouts, *settings)


def _has_images(batch: Batch) -> bool:
    return any(t.ndim == 4 and t.is_floating_point() and t.is_contiguous() for t in tensors(batch.inputs))


def _channels_last(batch: Batch) -> Batch:
    def lay_out(t: Tensor) -> Tensor:
        return t.to(memory_format=torch.channels_last) if t.ndim == 4 and t.is_floating_point() else t

    return replace(batch, inputs=map_tensors(lay_out, batch.inputs))


def _close(a: Tensor, b: Tensor, coarse: bool) -> bool:
    """Whether two ways agree to rounding, coarsely where autocast computes; never if they are not finite."""
    if a.shape != b.shape or a.dtype != b.dtype or not bool(torch.isfinite(b).all()):
        return False
    tolerance = _COARSE if coarse else _ROUNDING.get(b.dtype, _COARSE)
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().amax()))
