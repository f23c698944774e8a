"""Networks that draw, with a source of their own, so that predict is tested without BatchNorm's laws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dither import Stochastic
from dither._sampling import Source


class Normal(Source):
    """S vectors of standard normal numbers for all layers of a network."""

    def __init__(self, size: int, *, foldable: bool = True) -> None:
        self.size, self._foldable = size, foldable
        self.held: Tensor | None = None
        self.given: Tensor | None = None
        self.sample = 0

    def prepare(self, num_samples: int, generator: torch.Generator | None = None) -> None:
        self.held = torch.randn(num_samples, self.size, generator=generator)

    def choose(self, sample: int) -> None:
        self.sample = sample

    def tensors(self) -> list[Tensor]:
        assert self.held is not None
        return [self.held]

    def give(self, tensors: Sequence[Tensor] | None) -> None:
        self.given = None if tensors is None else tensors[0]

    def release(self) -> None:
        self.held = self.given = None

    def draw(self) -> Tensor:
        if self.given is not None:
            return self.given
        return torch.randn(self.size) if self.held is None else self.held[self.sample]

    @property
    def foldable(self) -> bool:
        return self._foldable


class Shift(Stochastic):
    """Adds a draw to every channel (dimension 1)."""

    def __init__(self, source: Normal) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        if not self.draws:
            return x
        return x + self.source.draw()[: x.shape[1]].view(-1, *[1] * (x.ndim - 2)).to(x)


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Apply(nn.Module):
    """``fn`` as a layer."""

    def __init__(self, fn) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x)


def conv_net(*, foldable: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """A prefix that does not draw, a residual block that does, a head."""
    source = Normal(6, foldable=foldable)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(inplace=True),
        Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), Shift(source), nn.ReLU(), nn.Conv2d(6, 6, 1))),
        nn.Dropout(dropout) if dropout else nn.Identity(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    ).eval()
