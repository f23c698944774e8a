"""Noise that a user writes into the network, wherever it may stand."""

from __future__ import annotations

from collections.abc import Callable

from dither.pruning import LogNormalNoise
from tests.random_networks._made import Drawn, Made


def noise(d: Drawn) -> Made:
    return d.one(lambda x, f: f(x), None, LogNormalNoise(d.channels))


STEPS: dict[str, Callable[[Drawn], Made | None]] = {"noise": noise}
