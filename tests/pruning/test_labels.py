"""The label run: classes of channels, what operators do to them, and what is printed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dither import pruning
from dither.pruning.labels import _steps, _table
from dither.pruning.labels._moving import refine
from dither.pruning.labels._union import CONSTANT, Labels, compress, core
from tests.cases import CASES, IMAGE, Net, conv, head
from tests.pruning.test_cases import build

FEW = settings(max_examples=100, deadline=None, derandomize=True)
PAIRS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


# --- union-find ------------------------------------------------------------------------------------------------------
def classes(size: int, pairs: list[tuple[int, int]]) -> list[int]:
    """The smallest member of each one's class, by walking; 0 and 1 belong to nobody and unite nothing."""
    parent = list(range(size))

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for a, b in pairs:
        if min(a, b) > CONSTANT:
            low, high = sorted((find(a), find(b)))
            parent[high] = low
    return [find(i) for i in range(size)]


def labels_after(batches: list[list[tuple[int, int]]]) -> Labels:
    union = Labels()
    union.new(20)
    for pairs in batches:
        both = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
        union.unite(both[:, 0], both[:, 1], "meets a constant")
    return union


@FEW
@given(st.lists(PAIRS, max_size=4))
def test_uniting_is_a_plain_union_find(batches: list[list[tuple[int, int]]]) -> None:
    union = labels_after(batches)
    assert union.find(torch.arange(22)).tolist() == classes(22, list(chain.from_iterable(batches)))


@FEW
@given(st.lists(PAIRS, max_size=3))
def test_whatever_meets_a_constant_is_pinned_with_its_class(batches: list[list[tuple[int, int]]]) -> None:
    """A neutral label, 0, does nothing at all."""
    pairs = list(chain.from_iterable(batches))
    root = classes(22, pairs)
    wanted = {root[max(a, b)] for a, b in pairs if min(a, b) == CONSTANT < max(a, b)}
    assert set(labels_after(batches).reasons()) == wanted


@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_chain_is_one_class(reverse: bool) -> None:
    union, n = Labels(), 5000
    union.new(n)
    order = torch.arange(2, n).flip(0) if reverse else torch.arange(2, n)
    union.unite(order, order + 1, "")
    assert union.find(torch.arange(2, n + 2)).unique().tolist() == [2, n + 1]


def test_uniting_broadcasts() -> None:
    union = Labels()
    own = union.new(6).view(2, 3)
    union.unite(own, own[:1], "")
    assert union.find(own).tolist() == [[2, 3, 4], [2, 3, 4]]


def test_the_first_reason_is_told() -> None:
    union = Labels()
    own = union.new(3)
    union.pin(own[1:2], "the first")
    union.pin(own, "the second")
    union.unite(own[0], own[1], "")
    assert union.reasons() == {2: "the first", 4: "the second"}


def test_along_unites_the_other_dimensions() -> None:
    union = Labels()
    own = union.new(6).view(2, 3)
    assert union.along(own, 1, "").tolist() == [2, 3, 4]
    assert union.find(own).tolist() == [[2, 3, 4], [2, 3, 4]]


# --- small labels ----------------------------------------------------------------------------------------------------
@FEW
@given(SHAPES, st.data())
def test_core_and_compress_keep_every_value(shape: list[int], data: st.DataObject) -> None:
    constant = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    small = torch.arange(torch.Size(shape).numel()).view(shape)
    for dim, flat in enumerate(constant):
        small = small.narrow(dim, 0, 1) if flat else small
    labels = small.expand(shape).clone()
    assert torch.equal(compress(labels), labels)
    assert core(compress(labels)).numel() == small.numel()
    assert torch.equal(core(compress(labels)).expand(shape), labels)


@FEW
@given(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=5), st.data())
def test_refine_is_the_finest_cut_that_both_shapes_share(sizes: list[int], data: st.DataObject) -> None:
    """Multiplied together again, the factors are either shape."""
    after: list[int] = []
    for size in data.draw(st.permutations(sizes)) if data.draw(st.booleans()) else sizes:
        merge = after and data.draw(st.booleans())
        after[-1:] = [after[-1] * size] if merge else [*after[-1:], size]
    factors = refine(torch.Size(sizes), torch.Size(after))
    if factors is None:
        assert sorted(sizes) != sizes or after != sizes
        return
    for shape, dims in ((sizes, [f.before for f in factors]), (after, [f.after for f in factors])):
        product = [1] * len(shape)
        for factor, dim in zip(factors, dims, strict=True):
            product[dim] *= factor.size
        assert product == list(shape)


def test_shapes_that_do_not_divide_each_other_are_not_refined() -> None:
    assert refine(torch.Size([4, 6]), torch.Size([6, 4])) is None
    assert refine(torch.Size([2, 12]), torch.Size([6, 4])) == [(2, 0, 0), (3, 1, 0), (4, 1, 1)]


# --- what is said ----------------------------------------------------------------------------------------------------
def test_printing_names_writers_readers_and_reasons() -> None:
    case = next(c for c in CASES if c.name.startswith("residual block"))
    lines = {line.split()[0]: line for line in str(pruning.analyse(build(case), case.inputs())).splitlines()}
    assert lines["stem"].split()[1:] == ["6", "stem", "b", "->", "a", "head.2"]
    assert lines["a"].split()[1:] == ["8", "a", "->", "b"]
    assert lines["head.2"].endswith("head.2 -> nobody  [the network returns them]")


def test_a_space_names_every_slice_that_goes_with_it() -> None:
    case = next(c for c in CASES if c.name == "BatchNorm between")
    space = pruning.analyse(build(case), case.inputs()).spaces[0]
    names = {"a.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert set(space.slots) == {(name, 0) for name in names} | {("head.2.weight", 1)}
    assert all(channel.tolist() == list(range(6)) for channel in space.slots.values())


UNKNOWN = {
    "cdist": lambda y: torch.cdist(y.flatten(2), y.flatten(2)),
    "fft": lambda y: torch.fft.fft(y, dim=1).real,
    "tril": lambda y: y.tril(),
    "grid_sampler": lambda y: F.grid_sample(y, torch.zeros(2, 8, 8, 2, dtype=y.dtype), align_corners=False),
    "index": lambda y: y[:, torch.tensor([1, 0, 2, 3, 4, 5])],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_operator_pins_with_its_name_and_its_module(name: str) -> None:
    class Odd(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return UNKNOWN[name](y)

    net = Net(lambda m, x: m.odd(m.a(x)), a=conv(3, 6), odd=Odd()).double()
    space = pruning.analyse(net, torch.randn(IMAGE).double()).spaces[0]
    assert name in space.reason
    assert "in odd" in space.reason


def test_only_what_mixes_is_pinned() -> None:
    net = Net(lambda m, x: m.head(m.b(F.relu(m.a(x)).flip(0)).softmax(1)), a=conv(3, 6), b=conv(6, 4), head=head(4))
    reasons = {s.name: s.reason for s in pruning.analyse(net, torch.randn(IMAGE)).spaces}
    assert reasons["a"] is None
    assert "softmax" in reasons["b"]


def test_the_run_changes_nothing() -> None:
    case = next(c for c in CASES if c.name == "BatchNorm between")
    net = build(case).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    pruning.analyse(net, case.inputs())
    assert all(torch.equal(t, net.state_dict()[name]) for name, t in before.items())
    assert all(m.training for m in net.modules())


def test_modes_come_back_after_an_error() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout().eval(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="does not run on the example inputs"):
        pruning.analyse(net, torch.zeros(2, 7))
    assert [m.training for m in net.modules()] == [True, True, False, True]
    assert not nn.modules.module._global_forward_pre_hooks
    assert not nn.modules.module._global_forward_hooks


def test_columns_are_inputs_and_flattened_channels() -> None:
    net = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(256, 6), nn.ReLU(), nn.Linear(6, 3))
    assert pruning.analyse(net, torch.zeros(1, 3, 8, 8)).columns == ("2",)
    assert pruning.analyse(net[2:], torch.zeros(1, 256)).columns == ("2",)  # a slice keeps its names


def test_outputs_in_containers_are_pinned() -> None:
    net = Net(lambda m, x: {"logits": m.b(y := m.a(x)), "hidden": [y]}, a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    assert {s.reason for s in pruning.analyse(net, torch.zeros(2, 5)).spaces} == {"the network returns them"}


# --- what is known about numbers that no layer wrote -----------------------------------------------------------------
def reasons(run: Callable[[Any, Tensor], Tensor], **layers: Any) -> dict[str, str | None]:
    layers = {"a": nn.Linear(5, 8), "head": nn.Linear(8, 3), **layers}
    return {s.name: s.reason for s in pruning.analyse(Net(run, **layers), torch.randn(2, 7, 5)).spaces}


def test_zeros_of_any_width_are_neutral() -> None:
    assert reasons(lambda m, x: m.head((y := m.a(x)) + torch.zeros(y.shape)))["a"] is None
    assert reasons(lambda m, x: m.head((y := m.a(x)) * y.new_full(y.shape, 0.5)))["a"] is None


def test_numbers_that_are_no_longer_alike_are_constants() -> None:
    def halves(m: Any, x: Tensor) -> Tensor:
        scale = torch.ones(8)
        scale[4:] = 2.0
        return m.head(m.a(x) * scale)

    assert "constant" in str(reasons(lambda m, x: m.head(m.a(x) + torch.ones(8).cumsum(0)))["a"])
    assert "constant" in str(reasons(lambda m, x: m.head(m.a(x) + torch.ones(8, 8).tril()[3]))["a"])
    assert "constant" in str(reasons(halves)["a"])


def test_new_strides_that_move_numbers_pin() -> None:
    def turned(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).movedim(-1, 1).contiguous().movedim(1, -1)  # channels first in memory
        return m.head(y.as_strided(y.shape, (7 * 8, 8, 1)))

    assert "as_strided" in str(reasons(turned)["a"])
    assert reasons(lambda m, x: m.head((y := m.a(x)).as_strided(y.shape, y.stride())))["a"] is None


def test_channels_that_are_written_into_a_part_of_another_tensor_stay() -> None:
    def put(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        wide = torch.zeros(*y.shape[:-1], 16)
        wide[..., :8] = y
        return m.head(wide) + m.other(y)

    told = reasons(put, head=nn.Linear(16, 3), other=nn.Linear(8, 3))
    assert "into a part of another tensor" in str(told["a"])


# --- heads -----------------------------------------------------------------------------------------------------------
def heads(m: Any, x: Tensor, mask: Tensor | None = None, average: bool = False) -> Tensor:
    q, k, v = m.a(x).unflatten(-1, (3, 4, 2)).permute(2, 0, 3, 1, 4)
    weights = q @ k.mT if mask is None else q @ k.mT + mask
    mean = weights.mean(1)
    y = m.head((weights.softmax(-1) @ v).transpose(1, 2).flatten(2))
    return y + mean.sum(-1, keepdim=True) if average else y


MASKS = {
    "none": (None, None),
    "one for all": (torch.randn(7, 7), None),
    "repeated for each head": (torch.randn(2, 1, 7, 7).expand(-1, 4, -1, -1), None),
    "one for each head": (torch.randn(4, 7, 7), "constant"),
}


@pytest.mark.parametrize(("mask", "word"), MASKS.values(), ids=MASKS.keys())
def test_a_mask_holds_heads_only_where_it_tells_them_apart(mask: Tensor | None, word: str | None) -> None:
    told = reasons(lambda m, x: heads(m, x, mask), a=nn.Linear(5, 24))["a"]
    assert told is None if word is None else word in str(told)


def test_a_mean_over_heads_that_nobody_uses_costs_nothing() -> None:
    assert reasons(heads, a=nn.Linear(5, 24))["a"] is None
    assert "mean" in str(reasons(lambda m, x: heads(m, x, average=True), a=nn.Linear(5, 24))["a"])


# --- grouped convolution ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("groups", "sizes"), [(2, {"a": 4, "g": 6}), (4, {"a": 4}), (8, {"a": 8})])
def test_groups_go_whole_where_they_are_small(groups: int, sizes: dict[str, int]) -> None:
    out = 8 if groups == 8 else 12
    net = Net(lambda m, x: m.head(m.g(m.a(x))), a=conv(3, 8), g=conv(8, out, groups=groups), head=head(out))
    found = pruning.analyse(net, torch.randn(IMAGE)).spaces
    assert {s.name: s.size for s in found if s.reason is None} == sizes


def test_where_whole_groups_cannot_go_the_same_positions_of_each_do() -> None:
    net = Net(lambda m, x: m.head(m.g(x)), g=conv(4, 8, groups=4), head=head(8))
    found = pruning.analyse(net, torch.randn(2, 4, 8, 8)).spaces
    assert {s.name: s.size for s in found if s.reason is None} == {"g": 2}


# --- what the run tells ----------------------------------------------------------------------------------------------
def test_notes_name_values_asked_for_parameters_not_reached_and_computed_weights() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x) if x.sum() > -1e9 else m.aux(x)
        return F.conv2d(y, m.last.weight.softmax(0))

    net = Net(run, a=conv(3, 8), aux=conv(3, 8), last=conv(8, 4, 1, bias=False))
    notes = " ".join(pruning.analyse(net, torch.randn(IMAGE)).notes)
    for words in ("asks for values", "does not reach aux.weight, aux.bias", "computes the weights of the network"):
        assert words in notes
    assert not pruning.analyse(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), torch.randn(2, 5)).notes


def test_a_call_that_a_rule_does_not_understand_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(c: Any) -> None:
        raise KeyError("odd call")

    monkeypatch.setitem(_table.BY_NAME, "relu", broken)
    assert "is not understood" in str(reasons(lambda m, x: m.head(m.a(x).relu()))["a"])


# --- steps in time ---------------------------------------------------------------------------------------------------
STEPPING = [
    (kind, layers, both, hidden, front)
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for layers, both, hidden, front in ((1, False, False, "a"), (1, True, True, ""), (2, True, False, "e"))
]


class Stepping(nn.Module):
    """A recurrent layer behind a linear layer, positions or nothing; its states may begin with a constant."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, both: bool, hidden: bool, front: str) -> None:
        super().__init__()
        self.a, self.e, self.front, self.hidden = nn.Linear(4, 4), nn.Embedding(20, 4), front, hidden
        self.r = kind(4, 5, num_layers=layers, bidirectional=both, batch_first=True)
        self.out, self.last = nn.Linear(5 * (1 + both), 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x) + self.e(torch.arange(x.shape[1])) if self.front == "e" else self.a(x) if self.front else x
        one = torch.ones(self.r.num_layers * (1 + self.r.bidirectional), len(x), 5) if self.hidden else None
        steps, last = self.r(x, (one, one) if self.hidden and isinstance(self.r, nn.LSTM) else one)
        return self.out(steps), self.last(last[0] if isinstance(self.r, nn.LSTM) else last)


def told(analysis: pruning.Analysis) -> list[Any]:
    spaces = [(str(s), {slot: at.tolist() for slot, at in s.slots.items()}) for s in analysis.spaces]
    return [spaces, analysis.columns, analysis.notes]


@pytest.mark.parametrize("which", STEPPING, ids=lambda w: f"{w[0].__name__}-{w[1:]}")
def test_few_steps_of_a_recurrent_layer_stand_for_all(which: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Stepping(*which), torch.randn(2, 7, 4)
    few = told(pruning.analyse(model, x))
    monkeypatch.setattr(_steps, "STEPS", 7)
    assert told(pruning.analyse(model, x)) == few


def test_the_labels_of_a_recurrent_layer_do_not_cost_more_with_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    find = Labels.find

    def counted(union: Labels, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return find(union, labels)

    monkeypatch.setattr(Labels, "find", counted)
    counts: list[int] = []
    for steps in (5, 50):
        calls = 0
        pruning.analyse(Stepping(nn.LSTM, 2, True, False, "a"), torch.randn(2, steps, 4))
        counts.append(calls)
    assert counts[0] == counts[1]


def test_a_recurrent_layer_runs_all_its_steps_for_code_that_looks_at_them() -> None:
    """What it returns are the real numbers: they decide about the path."""

    def decides(m: Any, x: Tensor) -> Tensor:
        y = m.r(x)[0]
        return m.b(m.a(y)) if bool((y[:, -1] - m.r(x[:, :2])[0][:, -1]).abs().max() > 1e-3) else m.c(y)

    net = Net(decides, r=nn.GRU(4, 5, batch_first=True), a=nn.Linear(5, 6), b=nn.Linear(6, 3), c=nn.Linear(5, 3))
    assert [s.name for s in pruning.analyse(net, torch.randn(2, 7, 4)).spaces][1] == "a"
