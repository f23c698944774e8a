"""Known classes keep their numbers in line with their tensors, and attention that lost heads is still attention."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning.cutting._cut import cut
from dither.pruning.cutting._fewer_heads import FewerHeads
from tests.cases import Net, conv, head
from tests.pruning.test_cases import assert_same, drown_half

E, H = 12, 4
STREAMS = ("query", "key", "value", "attention.out_proj")


def shrunk(
    model: Any, x: Tensor, seed: int = 0, original: nn.Module | None = None, skip: tuple[str, ...] = ()
) -> tuple[Any, Any]:
    """The masked and the shrunk network, half of all units at random; loading into a fresh copy gives the same one."""
    net = pruning.attach(model.double().eval(), x.double(), skip=skip)
    drown_half(net, seed)
    plan = pruning.plan(net, x.double())
    whole: Any = pruning.masked(net, plan)
    small: Any = pruning.shrink(net, plan, x.double())
    fresh = pruning.apply_shrunk(copy.deepcopy(original or model), small.dither_shrunk)
    assert str(fresh) == str(small)
    fresh.load_state_dict(small.state_dict())
    assert_same(whole(x.double()), small(x.double()))
    assert torch.equal(fresh(x.double()), small(x.double()))
    return whole, small


# --- torch's own layers ----------------------------------------------------------------------------------------------
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
WIDTHS = ("in_channels", "out_channels", "groups", "num_groups", "num_channels", "num_features", "num_parameters")
LAYERS: dict[str, tuple[nn.Module, int, dict[str, int]]] = {
    "the same channels of every group": (nn.Conv2d(12, 8, 1, groups=2), 8, {"groups": 2}),
    "the same channels of every group, transposed": (nn.ConvTranspose2d(12, 8, 1, groups=2), 8, {"groups": 2}),
    "depthwise": (nn.Conv2d(12, 24, 3, padding=1, groups=12), 24, {}),
    "depthwise transposed": (nn.ConvTranspose2d(12, 12, 3, padding=1, groups=12), 12, {}),
    "GroupNorm": (nn.GroupNorm(4, 12), 12, {}),
    "GroupNorm without parameters": (nn.GroupNorm(4, 12, affine=False), 12, {}),
    "InstanceNorm": (nn.InstanceNorm2d(12, affine=True), 12, {}),
    "InstanceNorm without parameters": (nn.InstanceNorm2d(12), 12, {}),
    "BatchNorm without parameters": (nn.BatchNorm2d(12, affine=False), 12, {}),
    "PReLU": (nn.PReLU(12), 12, {}),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_says_what_it_is(name: str, seed: int) -> None:
    """Every number is that of a layer of torch built with the same widths. (Warnings are errors here.)"""
    layer, width, fixed = LAYERS[name]
    model = Net(lambda m, x: m.head(m.layer(m.a(x))), a=conv(3, 12), layer=layer, head=head(width))
    small: Any = shrunk(model, IMAGES, seed)[1]
    numbers = {n: getattr(small.layer, n) for n in WIDTHS if hasattr(small.layer, n)}
    assert numbers != {n: getattr(layer, n) for n in numbers}
    assert {n: numbers[n] for n in fixed} == fixed
    entry = {**numbers, "in_channels": small.a.out_channels, "out_channels": small.head[2].in_features}
    assert {n: entry[n] for n in numbers} == numbers
    assert numbers.get("num_features", small.a.out_channels) == small.a.out_channels


def test_whole_groups_of_a_convolution() -> None:
    model = Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 8), g=nn.Conv2d(8, 12, 1, groups=4), head=head(12))
    small: Any = shrunk(model, IMAGES)[1]
    assert small.g.groups < 4
    assert (small.g.in_channels, small.g.out_channels) == (2 * small.g.groups, 3 * small.g.groups)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind: Any) -> None:
    model = Net(lambda m, x: m.o(m.r(m.e(x))[0]), e=nn.Linear(5, 6), r=kind(6, 8, batch_first=True), o=nn.Linear(8, 3))
    small: Any = shrunk(model, torch.randn(2, 7, 5))[1]
    assert (small.r.input_size, small.r.hidden_size) == (small.e.out_features, small.o.in_features)
    assert small.r.hidden_size < 8


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_feel_the_noise(kind: Any) -> None:
    """They compute with a list of their weights, which a parametrization alone does not reach."""
    model = Net(lambda m, x: m.o(m.r(m.e(x))[0]), e=nn.Linear(5, 6), r=kind(6, 8, batch_first=True), o=nn.Linear(8, 3))
    x = torch.randn(2, 7, 5).double()
    net: Any = pruning.attach(model.double(), x, skip=["r"])
    assert list(pruning.gates(net)) == ["e"]
    assert not torch.equal(net.train()(x), net(x))
    net(x).sum().backward()
    assert bool((pruning.gates(net)["e"].loc.grad != 0).any())
    copy.deepcopy(net)(x).sum().backward()
    drown_half(net, 0)
    assert_same(net.eval()(x), pruning.masked(net, pruning.plan(net, x))(x))


# --- attention -------------------------------------------------------------------------------------------------------
class Attends(nn.Module):
    """One `nn.MultiheadAttention` and any way to call it, between linear layers."""

    def __init__(self, call: dict[str, Any] | None = None, cross: bool = False, **options: Any) -> None:
        super().__init__()
        self.key, self.value = (nn.Linear(5, options.get(n, E)) for n in ("kdim", "vdim"))
        self.attention = nn.MultiheadAttention(E, H, **options)
        self.query, self.out = nn.Linear(5, E), nn.Linear(E, 3)
        self.call, self.cross = call or {}, cross

    def forward(self, x: Tensor) -> Tensor:
        other = x.flip(-2)[..., :-1, :] if self.cross else x
        return self.out(self.attention(self.query(x), self.key(other), self.value(other), **self.call)[0])


def mask(*shape: int) -> Tensor:
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    drawn[..., 0] = False  # a row that may look at nothing is not a number, here as in torch
    return drawn


def added(drawn: Tensor) -> Tensor:
    return torch.zeros(drawn.shape, dtype=torch.float64).masked_fill_(drawn, -1.5)


CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "kdim and vdim": {"kdim": 7, "vdim": 9},
    "without bias": {"bias": False},
    "zero attention": {"add_zero_attn": True, "call": {"attn_mask": mask(6, 6)}},
    "mask": {"call": {"attn_mask": mask(6, 6)}},
    "mask to add": {"call": {"attn_mask": added(mask(6, 6))}},
    "mask for each head": {"call": {"attn_mask": mask(4 * H, 6, 6)}},
    "padding": {"call": {"key_padding_mask": mask(4, 6)}},
    "padding to add": {"call": {"key_padding_mask": added(mask(4, 6))}},
    "padding and mask": {"call": {"key_padding_mask": mask(4, 6), "attn_mask": mask(6, 6)}},
    "causal": {"call": {"attn_mask": torch.ones(6, 6).triu(1).bool(), "is_causal": True}},
    "causal and padding": {
        "call": {"attn_mask": torch.ones(6, 6).triu(1).bool(), "is_causal": True, "key_padding_mask": mask(4, 6)}
    },
}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("heads", [[0, 1, 2, 3], [0, 2], [3]], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_attention_of_some_heads(name: str, heads: list[int], weights: bool) -> None:
    """Is that of all heads with zeros where the others are read, in outputs and in weights."""
    model = Attends(**CALLS[name]).double().eval()
    x = torch.randn(4, 6, 5) if model.attention.batch_first else torch.randn(6, 4, 5)
    inputs = [layer(x.double()) for layer in (model.query, model.key, model.value)]
    rows = torch.cat([torch.arange(3 * h, 3 * h + 3) for h in heads])
    packed = torch.cat([rows, rows + E, rows + 2 * E])
    kept = {"out_proj.weight": {1: rows}}
    for tensor in dict(model.attention.named_parameters(recurse=False)):
        kept[tensor] = {0: packed if tensor.startswith("in_proj") else rows}
    few: Any = cut(copy.deepcopy(model.attention), kept)
    assert (type(few), few.num_heads) == (FewerHeads, len(heads))
    with torch.no_grad():
        silent = torch.ones(E, dtype=torch.bool)
        silent[rows] = False
        model.attention.out_proj.weight[:, silent] = 0

    options = {**model.call, "need_weights": weights}
    out, seen = few(*inputs, **options, average_attn_weights=False)
    expected, of_all = model.attention(*inputs, **options, average_attn_weights=False)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    if weights:
        torch.testing.assert_close(seen, of_all[:, heads], rtol=0, atol=1e-12)
        torch.testing.assert_close(few(*inputs, **options)[1], seen.mean(1), rtol=0, atol=1e-12)
    else:
        assert seen is None


SHRUNK = ("plain", "batch first", "kdim and vdim", "without bias", "mask", "mask to add", "causal")


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("name", SHRUNK)
def test_attention_loses_heads(name: str, weights: bool) -> None:
    model = Attends(**CALLS[name])
    model.call["need_weights"] = weights and name not in ("mask", "mask to add", "causal")
    x = torch.randn(4, 6, 5) if model.attention.batch_first else torch.randn(6, 4, 5)
    shrunk(model, x)
    small: Any = shrunk(model, x, skip=STREAMS)[1]
    assert isinstance(small.attention, FewerHeads)
    assert small.attention.num_heads < H
    assert small.attention.out_proj.weight.shape == (E, 3 * small.attention.num_heads)


def test_unbatched_attention() -> None:
    model, x = Attends({"need_weights": False}), torch.randn(6, 5)
    small: Any = shrunk(model, x, skip=STREAMS)[1]
    assert small.attention(*[torch.randn(6, E).double()] * 3)[1].shape == (6, 6)


def test_cross_attention() -> None:
    shrunk(Attends(cross=True, batch_first=True), torch.randn(4, 6, 5))


def test_attention_with_dropout_trains() -> None:
    small = shrunk(Attends(dropout=0.5), torch.randn(6, 4, 5))[1].train()
    x = torch.randn(6, 4, 5).double()
    assert not torch.equal(small(x), small(x))
    small(x).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in small.parameters())


def test_attention_that_cannot_lose_heads_stays_whole() -> None:
    class Own(nn.MultiheadAttention):
        pass

    for attention in (nn.MultiheadAttention(E, H, add_bias_kv=True), Own(E, H)):
        model = Attends()
        model.attention = attention
        net = pruning.attach(model, torch.randn(6, 4, 5))
        assert not any("in_proj" in gate for gate in pruning.gates(net))


def test_a_causal_hint_needs_its_mask() -> None:
    small: Any = shrunk(Attends(), torch.randn(6, 4, 5), skip=STREAMS)[1]
    with pytest.raises(RuntimeError, match="Need attn_mask if specifying the is_causal hint"):
        small.attention(*[torch.randn(6, 4, E).double()] * 3, is_causal=True)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")  # torch's own, in the fused kernel
def test_the_fused_encoder_of_torch_steps_aside(padding: bool) -> None:
    """Its kernels know heads x channels = width only; they run in eval mode, without gradients, unless told not to."""
    layer, hide = nn.TransformerEncoderLayer(E, H, 16, batch_first=True), {}
    model = Net(lambda m, x: m.o(m.t(x, **hide)), t=nn.TransformerEncoder(layer, 2), o=nn.Linear(E, 3))
    x = torch.randn(4, 6, E)
    whole, small = shrunk(model, x)
    assert any(isinstance(module, FewerHeads) for module in small.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    seen = torch.arange(6) < torch.tensor([[5], [3], [4], [2]]) if padding else torch.ones(4, 6, dtype=torch.bool)
    if padding:
        hide["src_key_padding_mask"] = ~seen
    with torch.no_grad():
        length = seen.sum(1).max()  # the fused kernels cut what nobody sees
        assert_same(whole(x.double())[:, :length][seen[:, :length]], small(x.double())[:, :length][seen[:, :length]])


def test_twice() -> None:
    """Heads of a layer that has lost heads before."""
    model, x = Attends(), torch.randn(6, 4, 5)
    model.attention = nn.MultiheadAttention(E, 6)
    small = shrunk(model, x)[1]
    again: Any = shrunk(small, x, seed=2, original=model)[1]
    assert again.attention.num_heads < small.attention.num_heads < 6


# --- attention of other libraries ------------------------------------------------------------------------------------
class Conv1D(nn.Module):
    """As in transformers: a linear layer with the inputs first, which keeps its width."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view((*x.shape[:-1], self.nf))


class GPT2Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj, self.split_size, self.num_heads = Conv1D(3 * E, E), Conv1D(E, E), E, H

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, E // H)
        q, k, v = (y.view(shape).transpose(1, 2) for y in self.c_attn(x).split(self.split_size, dim=2))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def gpt2() -> tuple[Any, Tensor]:
    return nn.Sequential(nn.Linear(5, E), nn.LayerNorm(E), GPT2Attention(), nn.Linear(E, 3)), torch.randn(4, 6, 5)


def test_classes_that_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = gpt2()
    with pytest.raises(pruning.ShrinkError, match=r"\(\*x.shape\[:-1\], self.nf\).* fixes a size"):
        pruning.attach(model, x)
    for kind in (Conv1D, GPT2Attention):
        monkeypatch.setattr(kind, "__module__", "transformers.somewhere")
    small: Any = shrunk(model, x)[1]
    assert (small[2].split_size, small[2].c_attn.nf) == (3 * small[2].num_heads, 9 * small[2].num_heads)
    assert small[2].num_heads < H


def test_a_known_name_on_other_code_costs_its_channels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = gpt2()
    for kind in (Conv1D, GPT2Attention):
        monkeypatch.setattr(kind, "__module__", "transformers.somewhere")
    model[2].num_heads = 6  # not what its code means by it
    net = pruning.attach(model, x)
    assert list(pruning.gates(net)) == ["2.c_proj"]


class MixedConv2d(nn.Module):
    """As in timm: it cuts its input into the parts that its layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.splits = conv(6, 5), conv(6, 5, 1), [6, 6]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([c(part) for c, part in zip(self.children(), x.split(self.splits, 1), strict=True)], 1)


class CrossStage(nn.Module):
    """As in timm: it keeps the width of its first layer and goes on with half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_exp, self.b, self.expand_chs = nn.Sequential(OrderedDict(conv=conv(10, 8))), conv(4, 4), 8

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv_exp(x).split(self.expand_chs // 2, dim=1)
        return torch.cat([a, self.b(b)], 1)


class RelPosBias(nn.Module):
    """As in timm: one number for each head, by the distance of two positions."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table, self.bias_shape = nn.Parameter(torch.randn(5, H)), (6, 6, H)

    def forward(self, scores: Tensor) -> Tensor:
        distance = (torch.arange(6)[:, None] - torch.arange(6)).clamp(-2, 2) + 2
        return scores + self.relative_position_bias_table[distance.flatten()].view(self.bias_shape).permute(2, 0, 1)


class MaskUnitAttention(nn.Module):
    """As in timm: its heads, their size and their product."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.bias = nn.Linear(E, 3 * E), nn.Linear(E, E), RelPosBias()
        self.heads, self.head_dim, self.dim_out = H, E // H, E

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = self.bias(q @ k.mT).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(*x.shape[:2], self.dim_out))


def stages() -> tuple[Any, Tensor]:
    net = nn.Sequential(conv(3, 12), nn.ReLU(), MixedConv2d(), nn.ReLU(), CrossStage(), head(8))
    return net, torch.randn(2, 3, 8, 8)


def mask_units() -> tuple[Any, Tensor]:
    return nn.Sequential(nn.Linear(5, E), nn.LayerNorm(E), MaskUnitAttention(), nn.Linear(E, 3)), torch.randn(4, 6, 5)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("make", "free", "more"),
    [
        (stages, ["2.a", "2.b", "4.b"], ["0", "2.a", "2.b", "4.conv_exp.conv", "4.b"]),
        (mask_units, ["2.proj"], ["2.qkv", "2.proj"]),
    ],
)
def test_modules_that_count_for_the_layers_in_them(
    make: Any, free: list[str], more: list[str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make()
    assert list(pruning.gates(pruning.attach(model, x))) == free
    for kind in (MixedConv2d, CrossStage, RelPosBias, MaskUnitAttention):
        monkeypatch.setattr(kind, "__module__", "timm.somewhere")
    assert list(pruning.gates(pruning.attach(model, x))) == more
    shrunk(model, x, seed)


def test_a_known_module_of_another_version_costs_its_channels_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CrossStage, "__module__", "timm.somewhere")
    model = nn.Sequential(conv(3, 10), nn.ReLU(), CrossStage(), head(8))
    model[2].conv_exp = conv(10, 8)
    assert list(pruning.gates(pruning.attach(model, torch.randn(2, 3, 8, 8)))) == ["0", "2.b"]


class Attention(nn.Module):
    """Written by hand; its number of heads is in a view."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.attn_dim = nn.Linear(E, 3 * E), nn.Linear(E, E), H, E

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], self.attn_dim))


def test_heads_of_any_attention_are_counted_again() -> None:
    model = nn.Sequential(nn.Linear(5, E), nn.LayerNorm(E), Attention(), nn.Linear(E, 3))
    small = shrunk(model, torch.randn(4, 6, 5))[1]
    assert small[2].num_heads < H
    assert small[2].qkv.out_features == 3 * small[2].attn_dim == 9 * small[2].num_heads


def test_a_number_of_heads_that_means_something_else_stays() -> None:
    class Heads(nn.Sequential):
        num_heads = 2

    model = Heads(nn.Linear(5, E), nn.ReLU(), nn.Linear(E, 4))
    model.num_heads = 2  # in the instance, where it could be set
    assert shrunk(model, torch.randn(4, 5))[1].num_heads in (1, 2)
    assert pruning.gates(pruning.attach(model, torch.randn(4, 5).double()))["0"].num_features == E


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"num_layers": 2}], ids=str)
def test_recurrent_layers_of_one_width(options: dict[str, Any]) -> None:
    """Directions and layers lose other units, and one layer of torch has one hidden_size for all."""
    width = 8 * (1 + options.get("bidirectional", False))
    layer = nn.LSTM(6, 8, batch_first=True, **options)
    model = Net(lambda m, x: m.o(m.r(m.e(x))[0]), e=nn.Linear(5, 6), r=layer, o=nn.Linear(width, 3))
    net = pruning.attach(model, torch.randn(2, 7, 5))
    assert list(pruning.gates(net)) == ["e"]
    shrunk(model, torch.randn(2, 7, 5))


def test_parameters_keep_their_order() -> None:
    """Optimizers address parameters by position."""
    order = ("w", "b", "scale", "v")
    shapes = ((8, 5), (8,), (8,), (3, 8))
    model = Net(
        lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)) * m.scale, m.v),
        **{n: nn.Parameter(torch.randn(s)) for n, s in zip(order, shapes, strict=True)},
    )
    _, small = shrunk(model, torch.randn(4, 5))
    assert tuple(dict(small.named_parameters())) == order
