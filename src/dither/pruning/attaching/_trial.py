"""The trial: remove channels on a copy and run it, to find the sizes that are written into the code.

A label run sees operators. It does not see where a size comes from: ``x.view(-1, 800)`` and ``x.flatten(1)`` are the
same operator. So before noise is put on anything, a copy loses a random part of all its channels and is run; where that
fails, bisection finds the channel space to blame, which stays whole, and its reason names the module and the line.
"""

from __future__ import annotations

import math
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ..._inputs import Inputs, evaluating, map_tensors, tensors, varied, with_batch
from ..cutting._cut import ShrinkError, cut, difference, keep_slots, restored, run, runs, silence, twin
from ..labels import Space

Check = Callable[[Sequence[Space], int], "str | None"]
"""What goes wrong when the spaces lose channels, by the pattern of that seed; None if nothing does."""

PATTERNS = (0, 1)  # one pattern can hide an error: every second of 3 x 4 heads is the same heads of q, k and v
KIN = 2  # so many layers of one name in modules of one class are to blame: so are the others


def fixed_by_code(model: nn.Module, spaces: Sequence[Space], example_inputs: Inputs) -> dict[str, str]:
    """The spaces that cannot lose channels because the code of the model holds on to their sizes.

    Shapes are tried first, on the meta device, where nothing is computed; then values. A space is blamed if everything
    before it in the forward pass can lose channels and it cannot. Where two layers of one name in modules of one class
    (equal blocks) are to blame, the others are not tried.

    Args:
        model: Any module. It is not changed.
        spaces: The channel spaces that the label run would allow to lose channels.
        example_inputs: As for `attach`.

    Returns:
        For the name of each space that must stay whole, why: module, file and line, or how far the output is off.

    Raises:
        ShrinkError: If two runs of the unchanged model differ, so that nothing can be verified.
    """
    found: dict[str, str] = {}
    hits: Counter[tuple[str, ...]] = Counter()
    kin = {space.name: _kin(model, space) for space in spaces}
    shapes, values = _shapes(model, example_inputs), _values(model, varied(example_inputs))
    left = list(spaces)
    for check in (shapes, values):
        for seed in PATTERNS:
            while left and (reason := check(left, seed)) is not None:
                together, reason = _blamed(check, left, seed, reason)
                if check is shapes and not found and (reason := values(together, seed)) is None:
                    break  # a tensor of the model's own that is not on the meta device: nothing is wrong with the model
                blamed = together[-1].name
                hits[kin[blamed]] += 1
                if hits[kin[blamed]] >= KIN:
                    found |= {s.name: f'as "{blamed}": {reason}' for s in left if kin[s.name] == kin[blamed]}
                found[blamed] = reason
                left = [space for space in left if space.name not in found]
    return found


def _blamed(check: Check, spaces: Sequence[Space], seed: int, reason: str) -> tuple[Sequence[Space], str]:
    """The fewest first spaces that cannot lose channels together, the last one is to blame, and what goes wrong."""
    near = [space for space in spaces if _is_near(space, reason)]
    if 0 < len(near) < len(spaces) and (found := check(near, seed)) is not None:
        spaces, reason = near, found  # three runs instead of log2 of all
    low, high = 0, len(spaces)  # spaces[:low] can, spaces[:high] cannot
    while high - low > 1:
        middle = (low + high) // 2
        part = check(spaces[:middle], seed)
        low, high, reason = (middle, high, reason) if part is None else (low, middle, part)
    if not low and check([], seed) is not None:
        raise ShrinkError(
            "two runs of the unchanged model differ, in eval mode on the same inputs: no removal can be verified. "
            "Make its forward pass deterministic in eval mode."
        )
    return spaces[:high], reason


def _is_near(space: Space, reason: str) -> bool:
    """Whether a tensor of the space lies in the module where a run failed."""
    module = reason.partition('in module "')[2].partition('"')[0]
    return bool(module) and any(f"{name}.".startswith(f"{module}.") for name, _ in space.slots)


def _kin(model: nn.Module, space: Space) -> tuple[str, ...]:
    """Equal for the spaces of layers of one name in modules of one class: the blocks of a network."""
    parts = space.name.split(".")
    owner = model
    chain, inside = [type(model).__qualname__], list[str]()
    for part in parts:
        child = getattr(owner, part, None)
        if isinstance(child, nn.Module) and part != parts[-1]:
            owner = child
            if type(owner).__module__.startswith("torch.nn.modules.container"):
                inside.append(part)
            else:
                chain.append(type(owner).__qualname__)
                inside = []
        else:
            inside.append(part)
    return (*chain, ".".join(inside))


def _lost(spaces: Sequence[Space], seed: int) -> list[tuple[Space, Tensor]]:
    """Which channels stay: of each space another share, a third to two thirds, at random."""
    drawn: list[tuple[Space, Tensor]] = []
    for space in spaces:
        generator = torch.Generator().manual_seed(zlib.crc32(space.name.encode()) + seed)
        share = (1 + float(torch.rand((), generator=generator))) / 3
        keep = torch.zeros(space.size, dtype=torch.bool)
        count = min(max(round(share * space.size), 1), space.size - 1)
        keep[torch.randperm(space.size, generator=generator)[:count]] = True
        drawn.append((space, keep))
    return drawn


def _shapes(model: nn.Module, inputs: Inputs) -> Check:
    """A check of shapes alone, without values; it finds nothing where the model does not run without values."""
    ghost = twin(model, lambda t: t.to("meta"), lambda t: t.to("meta"))
    batches = [map_tensors(lambda t: t.to("meta"), batch) for batch in (inputs, with_batch(inputs, 1))]

    def shapes(net: nn.Module, batch: Inputs) -> list[torch.Size] | None:
        with evaluating(net):
            return [t.shape for t in tensors(run(net, batch))]

    try:
        expected = [shapes(ghost, batches[0]), None]
    except Exception:  # code that looks at values raises what it likes
        return lambda spaces, seed: None
    with suppress(Exception):
        expected[1] = shapes(ghost, batches[1])

    def check(spaces: Sequence[Space], seed: int) -> str | None:
        def compare(i: int) -> str:
            return "" if shapes(ghost, batches[i]) == expected[i] else "the output would have another shape"

        with restored(ghost):
            return _wrong(ghost, spaces, seed, lambda: compare(0), lambda: compare(1) if expected[1] else "")

    return check


def _values(model: nn.Module, inputs: Inputs) -> Check:
    """A check of the values that the network returns, masked against shrunk."""
    whole = twin(model, _unequal)
    small = twin(whole)

    def check(spaces: Sequence[Space], seed: int) -> str | None:
        def compare(batch: Inputs) -> str:
            worst = difference(whole, small, [batch])
            if worst == math.inf:
                return "the output would have another shape or not be finite"
            return f"the output would change by {worst:.2g} times the tolerance" if not worst <= 1 else ""

        def alone() -> str:
            one = with_batch(inputs, 1)
            return compare(one) if runs(whole, one) else ""

        with restored(whole), restored(small):
            silence(whole, _lost(spaces, seed))
            return _wrong(small, spaces, seed, lambda: compare(inputs), alone)

    return check


def _wrong(
    small: nn.Module, spaces: Sequence[Space], seed: int, together: Callable[[], str], alone: Callable[[], str]
) -> str | None:
    """What goes wrong when ``small`` loses channels and is run; None if nothing does.

    ``h.view(-1, width)`` makes fewer rows of several examples and fails only later: where a run fails, one example
    ``alone`` may name the line.
    """
    try:
        cut(small, keep_slots(_lost(spaces, seed)))
    except ShrinkError as error:
        return str(error)
    found = _failure(small, together)
    return found and (_failure(small, alone) or found)


def _unequal(tensor: Tensor) -> Tensor:
    """Random values in place of constants: a branch that begins with a scale of 0 would hide every error in it."""
    if not tensor.is_floating_point() or tensor.numel() < 2 or not bool((tensor == tensor.flatten()[0]).all()):
        return tensor
    generator = torch.Generator().manual_seed(tensor.numel())
    noise = torch.rand(tensor.shape, generator=generator).to(tensor) - 0.5
    return tensor.detach() + noise / max(tensor[0].numel(), 1) ** 0.5


def _failure(small: nn.Module, run: Callable[[], str]) -> str | None:
    """What is wrong with ``small``: where its run raised an error, or what the run says of its output."""
    stack: list[nn.Module] = []

    def enter(module: nn.Module, args: object) -> None:
        stack.append(module)

    def leave(module: nn.Module, args: object, out: object) -> None:
        stack.pop()

    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        wrong = run()
    except Exception as error:  # anything: it is the user's code that runs
        names = {id(m): name or type(m).__name__ for name, m in small.named_modules()}
        return _where(error, names.get(id(stack[-1]), "the network") if stack else "the network")
    finally:
        for handle in handles:
            handle.remove()
    return f"{wrong}, because the code takes channels by position or by number" if wrong else None


def _where(error: Exception, module: str) -> str:
    """The module, and the innermost line of code that is not torch's."""
    inside = str(Path(torch.__file__).parent), str(Path(__file__).parent.parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(inside)]
    where = f"{_short(frames[-1].filename)}:{frames[-1].lineno} `{frames[-1].line}`" if frames else "its forward pass"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f'in module "{module}", {where} fixes a size that would have to change ({reason})'


def _short(file: str) -> str:
    """A file as it is imported, ``transformers/models/bert/modeling_bert.py``: plans are stored, and travel."""
    roots = [root for root in map(Path, sys.path) if root in Path(file).parents]
    return Path(file).relative_to(max(roots, key=lambda r: len(r.parts))).as_posix() if roots else Path(file).name
