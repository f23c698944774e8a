"""Attention: heads go as a whole, the width of a head where the code allows it, and hidden units always."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cases._case import Case, Net

TOKENS = (2, 5, 8)
RETURNED = {"out": "returns"}


def linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*size) for name, size in sizes.items()}


def heads_by_width(m: Net, x: Tensor) -> Tensor:
    """As many heads of width 2 as there are: heads can go."""
    q, k, v = (f(x).unflatten(-1, (-1, 2)).transpose(1, 2) for f in (m.q, m.k, m.v))
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def heads_by_number(m: Net, x: Tensor) -> Tensor:
    """Two heads, as wide as what is left: positions can go, of all heads the same."""
    q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (m.q, m.k, m.v))
    weights = (q @ k.mT * 0.5).softmax(-1)  # a scale of its own: not that of the width
    return m.out((weights @ v).transpose(1, 2).flatten(2))


def fused(m: Net, x: Tensor) -> Tensor:
    """One layer for q, k and v, as in timm's ViT."""
    q, k, v = m.qkv(x).unflatten(-1, (3, -1, 2)).permute(2, 0, 3, 1, 4)
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def in_a_row(m: Net, x: Tensor) -> Tensor:
    """One layer for q, k and v, cut in three and then into heads, as in GPT-2, with a causal mask."""
    q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    return m.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


def written_out(m: Net, x: Tensor) -> Tensor:
    """The heads of `heads_by_width` with a mask and a softmax by hand."""
    q, k, v = (f(x).unflatten(-1, (-1, 2)).transpose(1, 2) for f in (m.q, m.k, m.v))
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    weights = (q @ k.mT * 2**-0.5).masked_fill(mask, -torch.inf).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).flatten(2))


def shared_keys(m: Net, x: Tensor) -> Tensor:
    """Grouped queries: four heads of queries, two of keys and values, each used twice."""
    q = m.q(x).unflatten(-1, (4, 2)).transpose(1, 2)
    k, v = (f(x).unflatten(-1, (2, 2)).transpose(1, 2).repeat_interleave(2, 1) for f in (m.k, m.v))
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def block() -> Net:
    """A block of a transformer with its norms: the stream stays, heads and hidden units go."""
    return Net(
        lambda m, x: m.head((y := x + heads_by_width(m, m.norm1(m.stem(x)))) + m.down(F.gelu(m.up(m.norm2(y))))),
        stem=nn.Linear(8, 8),
        norm1=nn.LayerNorm(8),
        norm2=nn.LayerNorm(8),
        head=nn.Linear(8, 3),
        **linears(q=(8, 8), k=(8, 8), v=(8, 8), out=(8, 8), up=(8, 12), down=(12, 8)),
    )


SEPARATE = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "out": (8, 3)}
FUSED = {"qkv": (8, 24), "out": (8, 3)}

ATTENTION = [
    Case("heads by their width", lambda: Net(heads_by_width, **linears(**SEPARATE)), TOKENS, {"q": 4}, RETURNED),
    Case("heads by their number", lambda: Net(heads_by_number, **linears(**SEPARATE)), TOKENS, {}, RETURNED, {"q": 2}),
    Case("a softmax by hand, and a mask", lambda: Net(written_out, **linears(**SEPARATE)), TOKENS, {"q": 4}, RETURNED),
    Case("q, k and v in one layer", lambda: Net(fused, **linears(**FUSED)), TOKENS, {"qkv": 4}, RETURNED),
    Case("q, k and v in one layer, in a row", lambda: Net(in_a_row, **linears(**FUSED)), TOKENS, {"qkv": 4}, RETURNED),
    Case(
        "grouped queries",
        lambda: Net(shared_keys, **linears(q=(8, 8), k=(8, 4), v=(8, 4), out=(8, 3))),
        TOKENS,
        {},
        RETURNED,
        {"q": 2},
    ),
    Case("a block of a transformer", block, TOKENS, {"q": 4, "up": 12}, {"head": "returns"}),
    Case(
        "cross-attention",
        lambda: Net(
            lambda m, x, z: m.out(F.scaled_dot_product_attention(m.q(x), m.k(z), m.v(z), scale=0.5)),
            **linears(q=(8, 6), k=(5, 6), v=(5, 4), out=(4, 3)),
        ),
        lambda: (torch.randn(TOKENS), torch.randn(2, 3, 5)),
        {"v": 4},
        {"q": "bmm", "k": "bmm", **RETURNED},
    ),
    Case(
        "nn.MultiheadAttention",
        lambda: Net(
            lambda m, x: m.out(m.mix(y := m.stem(x), y, y, need_weights=False)[0]),
            stem=nn.Linear(8, 8),
            mix=nn.MultiheadAttention(8, 4, batch_first=True),
            out=nn.Linear(8, 3),
        ),
        TOKENS,
        {"stem": 8, "mix.in_proj_weight": 4, "mix.out_proj": 8},
        RETURNED,
    ),
    Case(
        "nn.TransformerEncoderLayer",
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), nn.Linear(8, 3)),
        TOKENS,
        {"0.self_attn.in_proj_weight": 4, "0.linear1": 12},
        {"1": "returns"},
    ),
    Case(
        "attention over channels",
        lambda: Net(
            lambda m, x: m.out((y := m.stem(x)) @ (y.mT @ y).softmax(-1)), stem=nn.Linear(8, 6), out=nn.Linear(6, 3)
        ),
        TOKENS,
        {},
        RETURNED,
    ),
]
