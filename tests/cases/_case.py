"""What a case is, and the few pieces that almost every network of the table is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    removable: Mapping[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:  # the name in test ids: the functions print an address that every worker has another of
        return self.name

    def inputs(self, seed: int = 1) -> Any:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """Layers by name and the forward pass as a function of them: ``Net(lambda m, x: m.b(m.a(x)), a=..., b=...)``."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def conv(c_in: int, c_out: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, padding=k // 2, **options)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


IMAGE, OUTPUT = (2, 3, 8, 8), {"head.2": "returns"}
