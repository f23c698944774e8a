"""What a file of `dither.save` says about a converted network beside its tensors: which law it draws from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ._correlated import Correlated
from ._laws import Bank, Cached, Empirical, Factorized, Law
from ._layer import StochasticBatchNorm
from ._source import StatisticsSource
from ._statistics import Statistics

_LAWS: dict[str, type[Law]] = {law.__name__: law for law in (Factorized, Correlated, Empirical, Cached, Bank)}


def law_to_json(net: nn.Module) -> dict[str, Any] | None:
    """The law of a converted network, ``{"name": ..., setting: value}``; None without one, or for a law of yours."""
    law = next((source.law for source in _sources(net)), None)
    name = type(law).__name__
    return {"name": name, **asdict(law)} if _LAWS.get(name) is type(law) else None  # pyright: ignore[reportArgumentType]


def make_room(net: nn.Module, shapes: Mapping[str, tuple[int, ...]], law: Mapping[str, Any] | None) -> None:
    """Gives converted layers statistics of stored shapes (or none), in place, and the network its stored law.

    Raises:
        ValueError: If statistics are incomplete, or the law is not known.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, StochasticBatchNorm):
            begin = f"{name}.statistics." if name else "statistics."
            found: dict[str, Tensor] = {
                k[len(begin) :]: torch.empty(v) for k, v in shapes.items() if k.startswith(begin)
            }
            device = next((t.device for t in (*layer.parameters(), *layer.buffers())), torch.device("cpu"))
            layer.statistics = Statistics.like(found, device) if found else None
    for source in _sources(net) if law else ():
        assert law is not None
        settings = {name: value for name, value in law.items() if name != "name"}
        if law.get("name") not in _LAWS:
            raise ValueError(f"the file names the law {law.get('name')!r}, known are {', '.join(_LAWS)}")
        try:
            source.law = _LAWS[law["name"]](**settings)
        except TypeError as error:
            raise ValueError(
                f"the file names the law {law['name']} with settings that it does not have: {error}"
            ) from error


def _sources(net: nn.Module) -> list[StatisticsSource]:
    return [m.source for m in net.modules() if isinstance(m, StochasticBatchNorm)]
