"""Under autocast, vmap computes every operator in the precision of a plain pass."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dither
from dither import batchnorm
from dither.prediction._vmap import vmap
from tests.prediction.networks import Apply, conv_net
from tests.prediction.test_fold import both
from tests.prediction.test_predict import plans

MHA = torch.nn.MultiheadAttention(6, 2, batch_first=True).requires_grad_(False).eval()
W = {d: torch.randn(4, 4, *[3] * d) for d in (1, 2, 3)}
OPERATORS = {
    **{f"conv{d}d": (getattr(F, f"conv{d}d"), d, W[d]) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": (getattr(F, f"conv_transpose{d}d"), d, W[d]) for d in (1, 2, 3)},
    "linear": (F.linear, 1, torch.randn(4, 6)),
    "linear of rows, with a bias": (lambda x, w: F.linear(x[0], w, w[:, 0]), 1, torch.randn(4, 6)),
    "addmm": (lambda x, w: torch.addmm(x[0], w, x[1]), 1, torch.randn(4, 4)),
    "attention layer": (lambda x, w: MHA(x, x, x)[0], 1, W[1]),
    "matmul": (torch.matmul, 1, torch.randn(6, 4)),
    "batch_norm": (lambda x, w: F.batch_norm(x, w[0, :, 0], w[1, :, 0].exp()), 1, W[1]),
    "attention": (lambda x, w: F.scaled_dot_product_attention(x, x + w, x), 1, torch.randn(6)),
    "attention, masked": (lambda x, w: F.scaled_dot_product_attention(x, x, x, attn_mask=w), 1, torch.randn(4, 4)),
    "einsum": (lambda x, w: torch.einsum("bij,jk->bik", x, w), 1, torch.randn(6, 3)),
    "baddbmm": (lambda x, w: x.baddbmm(w.expand(2, 4, 4), x), 1, torch.randn(4, 4)),
    "softmax": (lambda x, w: F.softmax(x + w[:, :, :1].mean(), 1), 1, W[1]),
}


def autocast(dtype: torch.dtype = torch.bfloat16) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPERATORS)
def test_precision_is_that_of_a_plain_pass(name: str, dtype: torch.dtype) -> None:
    operator, dims, weight = OPERATORS[name]
    x = torch.randn(3, 2, 4, *[6] * dims)
    with autocast(dtype):
        folded, plain = vmap(lambda x: operator(x, weight))(x), torch.stack([operator(each, weight) for each in x])
    assert folded.dtype == plain.dtype
    torch.testing.assert_close(folded, plain, rtol=0.02, atol=0.02)


def test_what_autocast_leaves_alone_is_left_alone() -> None:
    x, operator = torch.randn(3, 2, 4, 6), OPERATORS["conv1d"][0]
    with autocast():
        assert vmap(lambda x: operator(x, W[1].double()))(x.double()).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert vmap(lambda x: operator(x, W[1]))(x).dtype == torch.float32

        def inside(x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return operator(x, W[1])

        assert vmap(inside)(x).dtype == torch.float32
        assert vmap(lambda x: operator(input=x, weight=W[1], bias=W[1][0, :, 0]))(x).dtype == torch.bfloat16
    assert vmap(lambda x: operator(x, W[1]))(x).dtype == torch.float32


def test_folded_samples_are_computed_in_the_precision_of_the_loop() -> None:
    seen: list[torch.dtype] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    net, x = conv_net(), torch.randn(2, 1, 8, 8)
    net.insert(3, Apply(look))
    with autocast():
        looped, folded = both(net, x)
        dither.predict(net, x, 4)
    assert set(seen) == {torch.bfloat16}
    torch.testing.assert_close(folded, looped, rtol=0.02, atol=0.02)
    assert "fold" in plans(net)[0].seconds


def test_a_frozen_network_folds_under_autocast_compiled_too() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 6), torch.nn.Flatten()
    )
    converted = batchnorm.convert(net.eval())
    batchnorm.fit(converted, torch.randn(160, 1, 8, 8).split(16))
    frozen, x = batchnorm.freeze(converted, 4), torch.randn(2, 1, 8, 8)
    with torch.no_grad(), autocast():
        folded = frozen(x)
        assert frozen.folded
        compiled = torch.compile(frozen, backend="eager")(x)
        frozen.folded = False
        for a, b, c in zip(folded, frozen(x), compiled, strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)
            torch.testing.assert_close(a, c, rtol=0, atol=0)
