"""What a step is given and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Made:
    """One more map: ``run(*maps, *layers)``, of the maps ``reads``."""

    channels: int
    reads: tuple[int, ...]
    run: Callable[..., Tensor]
    layers: tuple[nn.Module, ...] = ()


class Drawn:
    """One drawn step and the program so far."""

    def __init__(self, program: Any, at: int, step: Any) -> None:
        self.program, self.at, self.step = program, at, step
        self.dims: int = program.dims
        self.channels: int = program.channels[at]
        self.width: int = step.width
        self.variant: int = step.variant

    def layer(self, kind: str, *args: Any, **options: Any) -> nn.Module:
        """A layer of torch in as many dimensions as the program has: ``layer("Conv", 3, 8, 1)``."""
        return getattr(nn, f"{kind}{self.dims}d")(*args, **options)

    def other(self, fits: Callable[[int], bool] = lambda channels: True) -> int | None:
        """Another map whose number of channels fits, by its index."""
        found = [i for i, c in enumerate(self.program.channels) if fits(c)]
        return found[-1 - self.step.other % len(found)] if found else None

    def pick(self, choices: Iterable[Any]) -> Any:
        """One of the choices, by the variant that was drawn."""
        found = list(choices)
        return found[self.variant % len(found)]

    def one(self, run: Callable[..., Tensor], channels: int | None = None, *layers: nn.Module) -> Made:
        """A step that reads one map."""
        return Made(self.channels if channels is None else channels, (self.at,), run, layers)


class Weight(nn.Module):
    """A bare parameter."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)


def divisors(n: int, least: int = 2) -> list[int]:
    return [d for d in range(least, n + 1) if n % d == 0]
