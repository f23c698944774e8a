"""Networks with which any order of calls is tried: small, and each with something that is easily forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dither import pruning


@dataclass(frozen=True, repr=False)
class Subject:
    """A network and its inputs: the shapes of one tensor or of several by name, or how many words."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return self.name

    def inputs(self, rows: int, seed: int, dtype: torch.dtype) -> Any:
        generator = torch.Generator().manual_seed(seed)
        if self.name == "words":
            return torch.randint(0, 7, (rows, *self.shape), generator=generator)
        x = torch.randn(rows, *self.shape, generator=generator).to(dtype)
        return {"x": x, "gain": torch.rand(rows, 1, generator=generator).to(dtype)} if self.name == "keywords" else x


class Residual(nn.Module):
    """A stream that two blocks write, and BatchNorm that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x)).relu()
        y = y + self.norm(self.outer(self.inner(y).relu()))
        return self.head(y.mean((2, 3)))


class Tied(nn.Module):
    """One weight under two names, and one layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.three.weight = self.two.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x).relu()).relu()
        return self.head(self.three(self.two(y)).relu())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.rnn, self.head = nn.Linear(5, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.before(x).relu())[0][:, -1])


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.one, self.head = (
            nn.Embedding(7, 6),
            nn.LayerNorm(6),
            nn.Linear(6, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(self.norm(self.table(x))).relu().mean(1))


class Keywords(nn.Module):
    """Two inputs by name, a dict as the output is not asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.head = nn.Linear(5, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        return self.head(gain * self.norm(self.one(x)).relu())


SUBJECTS = (
    Subject("perceptron", lambda: nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), (5,)),
    Subject("convolutions", lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)), (2, 4, 4)),
    Subject("residual", Residual, (2, 4, 4)),
    Subject("depthwise", lambda: nn.Sequential(
        nn.Conv1d(2, 6, 1), nn.ReLU(), nn.Conv1d(6, 6, 3, groups=6), nn.BatchNorm1d(6), nn.Hardswish(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3)), (2, 5)),
    Subject("noise by hand", lambda: nn.Sequential(
        nn.Conv2d(2, 6, 3), pruning.LogNormalNoise(6), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5),
        pruning.LogNormalNoise(5), nn.ReLU(), nn.Linear(5, 3)), (2, 4, 4)),
    Subject("weight norm", lambda: nn.Sequential(
        weight_norm(nn.Linear(5, 6)), nn.BatchNorm1d(6), nn.Tanh(), weight_norm(nn.Linear(6, 3))), (5,)),
    Subject("groups", lambda: nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.InstanceNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 3)), (2, 2, 2)),
    Subject("attention", lambda: nn.Sequential(
        nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Flatten(), nn.Linear(24, 3)),
        (3, 5)),
    Subject("tied", Tied, (5,)),
    Subject("recurrent", Recurrent, (3, 5)),
    Subject("words", Words, (4,)),
    Subject("keywords", Keywords, (5,)),
    Subject("nothing to remove", lambda: nn.Linear(5, 3), (5,)),
)  # fmt: skip
