"""Attention in shifted windows that lost heads, against one that goes from window to window in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning.cutting._fewer_windows import FewerWindows
from tests.pruning.test_cases import assert_same
from tests.pruning.test_known import shrunk

E, H = 12, 4


class ShiftedWindowAttention(nn.Module):
    """What torchvision's does, its parameters and its numbers, one window after the other."""

    def __init__(self, window: tuple[int, int] = (3, 4), shift: tuple[int, int] = (1, 2), bias: bool = True) -> None:
        super().__init__()
        self.window_size, self.shift_size, self.num_heads = list(window), list(shift), H
        self.attention_dropout = self.dropout = 0.0
        self.qkv, self.proj = nn.Linear(E, 3 * E, bias=bias), nn.Linear(E, E)
        a, b = (torch.arange(n) for n in window)
        place = torch.cartesian_prod(a, b)
        apart = place[:, None] - place + torch.tensor(window) - 1
        self.register_buffer("relative_position_index", (apart[..., 0] * (2 * window[1] - 1) + apart[..., 1]).flatten())
        self.make_table((2 * window[0] - 1) * (2 * window[1] - 1))

    def make_table(self, count: int) -> None:
        self.relative_position_bias_table = nn.Parameter(torch.randn(count, H))

    def table(self) -> Tensor:
        return self.relative_position_bias_table

    def projections(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT / math.sqrt(q.shape[-1])

    def forward(self, x: Tensor) -> Tensor:
        (height, width), (rows, columns, channels) = self.window_size, x.shape[1:]
        x = F.pad(x, (0, 0, 0, -columns % width, 0, -rows % height))
        tall, wide = x.shape[1:3]
        down, right = self.shift_size[0] * (height < tall), self.shift_size[1] * (width < wide)
        qkv = self.projections(x).view(len(x), tall, wide, 3, self.num_heads, channels // self.num_heads)
        bias = self.table()[self.relative_position_index].view(height * width, height * width, -1).permute(2, 0, 1)
        done: list[Tensor] = []
        where: list[Tensor] = []
        for i in range(0, tall, height):
            for j in range(0, wide, width):
                at = torch.cartesian_prod(torch.arange(i, i + height) + down, torch.arange(j, j + width) + right)
                over = at >= torch.tensor([tall, wide])  # from the other side of the image
                apart = (over[:, None] != over).any(-1)
                r, c = at[:, 0] % tall, at[:, 1] % wide
                q, k, v = qkv[:, r, c].permute(2, 0, 3, 1, 4)
                scores = self.scores(q, k) + bias + torch.where(apart, -100.0, 0.0)
                done.append((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(x), len(at), channels))
                where.append(r * wide + c)
        y = torch.cat(done, 1)[:, torch.cat(where).argsort()]
        return self.proj(y).view(len(x), tall, wide, -1)[:, :rows, :columns]


class ShiftedWindowAttentionV2(ShiftedWindowAttention):
    def make_table(self, count: int) -> None:
        self.logit_scale = nn.Parameter(torch.randn(H, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 7), nn.ReLU(), nn.Linear(7, H, bias=False))
        self.register_buffer("relative_coords_table", torch.randn(1, count, 1, 2))

    def table(self) -> Tensor:
        return 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads))

    def projections(self, x: Tensor) -> Tensor:
        if self.qkv.bias is None:
            return self.qkv(x)
        bias = self.qkv.bias.clone()
        bias[E : 2 * E].zero_() if len(bias) == 3 * E else None
        return F.linear(x, self.qkv.weight, bias)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.logit_scale.clamp(max=math.log(100.0)).exp()


KINDS = ShiftedWindowAttention, ShiftedWindowAttentionV2
HOW: dict[str, dict[str, Any]] = {
    "shifted": {},
    "not shifted": {"shift": (0, 0)},
    "shifted along one dimension": {"shift": (0, 2)},
    "larger than the image": {"window": (8, 4), "shift": (4, 1)},
    "without bias": {"bias": False},
}


def network(kind: type[ShiftedWindowAttention], how: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, E), nn.LayerNorm(E), kind(**HOW[how]), nn.Linear(E, 3)), torch.randn(2, 7, 10, 5)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_attention(kind: type[ShiftedWindowAttention], how: str) -> None:
    model, x = network(kind, how)
    expected = model.double()(x.double())
    FewerWindows.become(model[2])
    assert_same(model(x.double()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_windows_loses_heads(kind: type[ShiftedWindowAttention], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(kind, "shifted")
    assert "2.qkv" not in pruning.gates(pruning.attach(model, x))
    for known in KINDS:
        monkeypatch.setattr(known, "__module__", "torchvision.models.swin_transformer")
    small = shrunk(model, x)[1]
    assert type(small[2]) is FewerWindows
    assert 0 < small[2].num_heads < H
    assert small[2].qkv.out_features == 3 * small[2].proj.in_features == 9 * small[2].num_heads
    again = shrunk(small, x, seed=1, original=model)[1] if small[2].num_heads > 2 else small
    assert_same(again(x.double()[:1]), again(x.double())[:1])


def test_a_network_that_keeps_all_heads_keeps_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShiftedWindowAttention, "__module__", "torchvision.models.swin_transformer")
    model, x = network(ShiftedWindowAttention, "shifted")
    model.append(nn.ReLU())
    model.append(nn.Linear(3, 2))
    small = shrunk(model, x, skip=("2.qkv",))[1]
    assert type(small[2]) is ShiftedWindowAttention
