"""The trial: remove channels on a copy and run it, to find the sizes that are written into the code.

A label run sees operators. It does not see where a size comes from: ``x.view(-1, 800)`` and ``x.flatten(1)`` are the
same operator. So before noise is put on anything, a copy loses a random part of all its channels and is run; where that
fails, bisection finds the channel space to blame, which stays whole, and its reason names the module and the line.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ..._inputs import Inputs, evaluating, map_tensors, tensors, varied, with_batch
from ..cutting._cut import ShrinkError, cut, difference, keep_slots, restored, run, runs, silence, twin
from ..labels import Space
from ..labels._steps import shortened
from ._patterns import Pattern, patterns

Check = Callable[[Sequence[Space], Pattern], "str | None"]
"""What goes wrong when the spaces lose channels as a pattern says; None if nothing does."""

VALUES = 2  # patterns that are tried with values, where all of them have been tried with shapes
KIN = 2  # so many layers of one name in modules of one class are to blame: so are the others


def fixed_by_code(model: nn.Module, spaces: Sequence[Space], example_inputs: Inputs) -> dict[str, str]:
    """The spaces that cannot lose channels because the code of the model holds on to their sizes.

    Shapes are tried first, on the meta device, where nothing is computed, with as many patterns as it takes to tell all
    widths apart; then values, which need them all only where shapes alone cannot be tried. A space is blamed if
    everything before it in the forward pass can lose channels and it cannot. Where two layers of one name in modules of
    one class (equal blocks) are to blame, the others are not tried.

    Args:
        model: Any module. It is not changed.
        spaces: The channel spaces that the label run would allow to lose channels.
        example_inputs: As for `attach`.

    Returns:
        For the name of each space that must stay whole, why: module, file and line, or how far the output is off.

    Raises:
        ShrinkError: If two runs of the unchanged model differ, so that nothing can be verified.
    """
    search = _Search(model, spaces)
    shapes, values = _shapes(model, example_inputs), _values(model, varied(example_inputs))
    told = shapes is not None and search.run(shapes, confirm=values)
    search.run(values, most=VALUES if told else None)
    return search.found


class _Search:
    """The spaces that may lose channels, as far as is known, and those that may not, with the reason."""

    def __init__(self, model: nn.Module, spaces: Sequence[Space]) -> None:
        self.left = list(spaces)
        self.found: dict[str, str] = {}
        self.kin = {space.name: _kin(model, space) for space in spaces}
        self.hits: Counter[tuple[str, ...]] = Counter()

    def run(self, check: Check, most: int | None = None, confirm: Check | None = None) -> bool:
        """Find what is to blame until ``check`` passes for all that is left, with ``most`` patterns at most.

        Returns:
            False if ``confirm`` finds nothing wrong with the first space to blame: then ``check`` misleads, as shapes
            do where a tensor of the model's own is not on the meta device.

        Raises:
            ShrinkError: If two runs of the unchanged model differ.
        """
        drawn, number = patterns(self.left, most), 0
        while self.left and number < len(drawn):
            pattern = drawn[number]
            if (reason := check(self.left, pattern)) is None:
                number += 1
                continue
            together, reason = _blamed(check, self.left, pattern, reason)
            if confirm and not self.found and (reason := confirm(together, pattern)) is None:
                return False
            if not confirm and check([], pattern) is not None:
                raise ShrinkError(
                    "two runs of the unchanged model differ, in eval mode on the same inputs: no removal can be "
                    "verified. Make its forward pass deterministic in eval mode."
                )
            self._blame(together[-1].name, reason)
            drawn, number = patterns(self.left, most), 0
        return True

    def _blame(self, name: str, reason: str) -> None:
        kin = self.kin[name]
        self.hits[kin] += 1
        if self.hits[kin] >= KIN:
            self.found |= {s.name: f'as "{name}": {reason}' for s in self.left if self.kin[s.name] == kin}
        self.found[name] = reason
        self.left = [space for space in self.left if space.name not in self.found]


def _blamed(check: Check, spaces: Sequence[Space], pattern: Pattern, reason: str) -> tuple[Sequence[Space], str]:
    """The fewest first spaces that cannot lose channels together, the last one is to blame, and what goes wrong."""
    near = [space for space in spaces if _is_near(space, reason)]
    if 0 < len(near) < len(spaces) and (found := check(near, pattern)) is not None:
        spaces, reason = near, found  # three runs instead of log2 of all
    low, high = 0, len(spaces)  # spaces[:low] can, spaces[:high] cannot
    while high - low > 1:
        middle = (low + high) // 2
        part = check(spaces[:middle], pattern)
        low, high, reason = (middle, high, reason) if part is None else (low, middle, part)
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


def _lost(spaces: Sequence[Space], pattern: Pattern) -> list[tuple[Space, Tensor]]:
    return [(space, pattern[space.name]) for space in spaces]


def _shapes(model: nn.Module, inputs: Inputs) -> Check | None:
    """A check of shapes alone, without values; None where the model does not run without values."""
    ghost = twin(model, lambda t: t.to("meta"), lambda t: t.to("meta"))
    batches = [map_tensors(lambda t: t.to("meta"), batch) for batch in _batches(inputs)]
    expected: list[list[torch.Size] | None] = []

    def shapes(net: nn.Module, batch: Inputs) -> list[torch.Size] | None:
        with evaluating(net), shortened():
            return [t.shape for t in tensors(run(net, batch))]

    try:
        expected.append(shapes(ghost, batches[0]))
    except Exception:  # code that looks at values raises what it likes
        return None
    for batch in batches[1:]:
        with suppress(Exception):
            expected.append(shapes(ghost, batch))

    def check(spaces: Sequence[Space], pattern: Pattern) -> str | None:
        def compare(i: int) -> str:
            return "" if shapes(ghost, batches[i]) == expected[i] else "the output would have another shape"

        with restored(ghost):
            return _wrong(ghost, spaces, pattern, [partial(compare, i) for i in range(len(expected))])

    return check


def _values(model: nn.Module, inputs: Inputs) -> Check:
    """A check of the values that the network returns, masked against shrunk."""
    whole = twin(model, _unequal)
    small = twin(whole, lambda t: t)
    with restored(whole):
        batches = [batch for i, batch in enumerate(_batches(inputs)) if not i or runs(whole, batch)]

    def check(spaces: Sequence[Space], pattern: Pattern) -> str | None:
        def compare(batch: Inputs) -> str:
            worst = difference(whole, small, [batch])
            if worst == math.inf:
                return "the output would have another shape or not be finite"
            return f"the output would change by {worst:.2g} times the tolerance" if not worst <= 1 else ""

        with restored(whole), restored(small):
            silence(whole, _lost(spaces, pattern))
            return _wrong(small, spaces, pattern, [partial(compare, batch) for batch in batches])

    return check


def _batches(inputs: Inputs) -> list[Inputs]:
    """The inputs and, where they are several examples, the first alone.

    ``h.view(-1, width)`` makes fewer rows of several examples and fails only later; one example names the line.
    """
    one = with_batch(inputs, 1)
    alike = all(a.shape == b.shape for a, b in zip(tensors(inputs), tensors(one), strict=True))
    return [inputs] if alike else [inputs, one]


def _wrong(
    small: nn.Module, spaces: Sequence[Space], pattern: Pattern, compare: Sequence[Callable[[], str]]
) -> str | None:
    """What goes wrong when ``small`` loses channels and is run; None if the first comparison finds nothing.

    What the others find tells more.
    """
    try:
        cut(small, keep_slots(_lost(spaces, pattern)))
    except ShrinkError as error:
        return str(error)
    found = _failure(small, compare[0])
    return found and next(filter(None, (_failure(small, other) for other in compare[1:])), found)


def _unequal(tensor: Tensor) -> Tensor:
    """Random values in place of constants: a branch that begins with a scale of 0 would hide every error in it."""
    first = tensor.flatten()[:1]
    if not tensor.is_floating_point() or tensor.numel() < 2 or bool((tensor[-1:] != first).any()):  # quick, for most
        return tensor
    if bool((tensor != first).any()):
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
    inside = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[2]))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(inside)]
    where = f"{_short(frames[-1].filename)}:{frames[-1].lineno} `{frames[-1].line}`" if frames else "its forward pass"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f'in module "{module}", {where} fixes a size that would have to change ({reason})'


def _short(file: str) -> str:
    """A file as it is imported, ``transformers/models/bert/modeling_bert.py``: plans are stored, and travel."""
    roots = [root for root in map(Path, sys.path) if root in Path(file).parents]
    return Path(file).relative_to(max(roots, key=lambda r: len(r.parts))).as_posix() if roots else Path(file).name
