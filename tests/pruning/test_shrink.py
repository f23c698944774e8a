"""shrink and masked: what is left is plain, smaller, of the same kind, and provably the same function."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import dither
from dither import pruning
from dither._inputs import tensors
from dither.pruning import FixedScale, LogNormalNoise, SelectedLinear
from tests.cases import CASES, LAYERS, Case, conv, head
from tests.pruning.test_cases import assert_same, build, drown_half

STRUCTURES = [c for c in CASES if c.removable and c not in LAYERS]
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def model() -> nn.Sequential:
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 8), nn.ReLU(), head(8))


def shrunk(net: nn.Module, x: Any = X, seed: int = 0, **options: Any) -> nn.Module:
    net = pruning.attach(net, x, **options)
    drown_half(net, seed)
    return pruning.shrink(net, pruning.plan(net, x), x)


# --- what is kept ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype(dtype: torch.dtype) -> None:
    small = shrunk(model().to(dtype), X.to(dtype))
    assert {t.dtype for t in small.state_dict().values() if t.is_floating_point()} == {dtype}
    assert small(X.to(dtype)).dtype == dtype


def test_modes_stay_layer_by_layer() -> None:
    net = model().train()
    net[1].eval()
    small = shrunk(net)
    assert [m.training for m in small] == [True, False, True, True, True, True]


def test_shrinking_leaves_the_statistics_of_batchnorm_alone() -> None:
    """Also in train mode: the verification must not count as training."""
    net = pruning.attach(model().train(), X)
    drown_half(net, 0)
    before = copy.deepcopy(net.state_dict())
    plan = pruning.plan(net, X)
    small = pruning.shrink(net, plan, X)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(small[1].running_var, before["1.running_var"][list(plan.spaces[0].kept)])
    assert int(small[1].num_batches_tracked) == 0


def test_requires_grad() -> None:
    net = model()
    net[0].requires_grad_(False)
    net[3].weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in net.named_parameters()}
    assert {name: p.requires_grad for name, p in shrunk(net).named_parameters()} == wanted


def test_channels_last_stays() -> None:
    net = model().to(memory_format=torch.channels_last)
    small = shrunk(net, X.to(memory_format=torch.channels_last))
    for layer in (small[0], small[3]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.is_contiguous()


def test_names_order_and_classes_stay() -> None:
    net = model()
    small = shrunk(net)
    assert type(small) is type(net)
    assert [(name, type(m)) for name, m in small.named_modules()] == [(n, type(m)) for n, m in net.named_modules()]
    assert list(small.state_dict()) == list(net.state_dict())


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))
    net[4].weight = net[2].weight
    small = shrunk(net.double(), torch.randn(4, 5).double())
    assert small[4].weight is small[2].weight
    assert small[0].out_features < 8


@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: c.name)
def test_nothing_of_dither_is_left(case: Case) -> None:
    small = shrunk(build(case), case.inputs())
    for module in small.modules():
        fewer = type(module).__name__ == "FewerHeads"  # torch's own attention cannot have fewer
        assert fewer or not type(module).__module__.startswith("dither")
        assert not nn.utils.parametrize.is_parametrized(module)
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
    json.dumps(small.dither_shrunk)


@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: c.name)
def test_layers_know_their_sizes(case: Case) -> None:
    """The numbers that a layer prints are those of its tensors."""
    for name, module in shrunk(build(case), case.inputs()).named_modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape), name
        elif isinstance(module, nn.modules.conv._ConvNd):
            i, o, g = module.in_channels, module.out_channels, module.groups
            rows = (i, o // g) if module.transposed else (o, i // g)
            assert rows == tuple(module.weight.shape[:2]), name
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.num_features == len(module.running_mean), name


# --- selected columns ------------------------------------------------------------------------------------------------
def test_dropped_pixels_become_one_selection() -> None:
    x = torch.randn(4, 9).double()
    net = pruning.attach(nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3)).double(), x, features=True)
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    small = pruning.shrink(net, plan, x)
    assert isinstance(small[0], SelectedLinear)
    assert tuple(small[0].index.tolist()) == plan.columns[0].kept
    assert small[0].weight.shape == (len(plan.spaces[0].kept), len(plan.columns[0].kept))
    assert_same(pruning.masked(net, plan)(x), small(x))


def test_selection_counts_in_the_columns_that_are_left_of_a_flatten() -> None:
    """Channels and features are dropped at once: the index points into the flattened rest."""
    net = nn.Sequential(conv(1, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(3, 1, 4, 4).double()
    net = pruning.attach(net.double(), x, features=True)
    drown_half(net, 1)
    plan = pruning.plan(net, x)
    channels, features = plan.spaces[0].kept, set(plan.columns[0].kept)
    small = pruning.shrink(net, plan, x)
    rest = [16 * c + pixel for c in channels for pixel in range(16)]
    assert small[3].index.tolist() == [i for i, feature in enumerate(rest) if feature in features]
    assert_same(pruning.masked(net, plan)(x), small(x))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_channels_before_a_selection_are_removed_and_its_positions_renumbered(seed: int) -> None:
    """Twice: the second time the layer selects already, and loses channels of its input and columns of its own."""
    net = nn.Sequential(conv(1, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    fresh, x = copy.deepcopy(net), torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(4)).double()
    small = shrunk(net, x, features=True, seed=seed)
    again = pruning.attach(small, x)
    drown_half(again, seed)
    plan = pruning.plan(again, x)
    smaller = pruning.shrink(again, plan, x)
    assert len(plan.spaces[0].kept) < plan.spaces[0].total
    assert smaller[0].out_channels < small[0].out_channels
    assert int(smaller[3].index.max()) < 16 * smaller[0].out_channels
    assert len(smaller[3].index) == smaller[3].in_features < small[3].in_features
    assert_same(pruning.masked(again, plan)(x), smaller(x))
    rebuilt = pruning.apply_shrunk(fresh, json.loads(json.dumps(smaller.dither_shrunk)))
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(x), smaller(x))


def test_positions_that_the_forward_pass_computes_stay_whole() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.index_select(1, torch.arange(x.shape[1] // 2) * 2 + 1)

    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), Odd(), nn.Linear(4, 3))
    assert "index_select" in (pruning.analyse(net, torch.randn(4, 5)).spaces[0].reason or "")


def test_nothing_is_selected_where_no_column_is_dropped() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 5), features=True)
    drown_half(net, 0)
    with torch.no_grad():
        pruning.gates(net)["0[in]"].loc.zero_()
        pruning.gates(net)["0[in]"].log_scale.fill_(-5.0)
    assert type(pruning.shrink(net, pruning.plan(net, torch.zeros(1, 5)), torch.zeros(1, 5))[0]) is nn.Linear


# --- the same function -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: c.name)
def test_masked_is_eval_where_the_plan_keeps_what_the_noise_keeps(case: Case) -> None:
    net = pruning.attach(build(case), case.inputs())
    drown_half(net, 0)
    with torch.no_grad():  # no layer may be empty, or the plan keeps more
        for gate in pruning.gates(net).values():
            gate.loc[0], gate.log_scale[0] = -0.1, -3.0
    assert_same(case.run(net, 2), case.run(pruning.masked(net, pruning.plan(net, case.inputs())), 2))


def test_masked_keeps_more_than_eval_where_the_plan_does() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 5))
    with torch.no_grad():
        pruning.gates(net)["0"].log_scale.fill_(5.0)
    x = torch.randn(4, 5)
    whole = pruning.masked(net, pruning.plan(net, x, multiple_of=4))
    assert int((whole[2].weight != 0).any(0).sum()) == 4
    torch.testing.assert_close(net.eval()(x), net[2].bias.expand(4, 3))


def test_verification_refuses_a_wrong_network(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pruning.shrinking._apply.cut

    def wrong(net: nn.Module, kept: Any) -> nn.Module:
        net = right(net, kept)
        with torch.no_grad():
            net[0].bias[0] += 0.01
        return net

    net = pruning.attach(model(), X)
    drown_half(net, 0)
    plan = pruning.plan(net, X)
    monkeypatch.setattr(pruning.shrinking._apply, "cut", wrong)
    with pytest.raises(pruning.ShrinkError, match=r"differs from the masked one.*nothing was returned"):
        pruning.shrink(net, plan, X)


def test_verification_refuses_an_output_that_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pruning.shrinking._apply.cut

    def wrong(net: nn.Module, kept: Any) -> nn.Module:
        net = right(net, kept)
        net[0].bias.data[0] = torch.nan
        return net

    net = pruning.attach(model(), X)
    drown_half(net, 0)
    plan = pruning.plan(net, X)
    monkeypatch.setattr(pruning.shrinking._apply, "cut", wrong)
    with pytest.raises(pruning.ShrinkError, match="differs from the masked one by inf"):
        pruning.shrink(net, plan, X)


def test_accuracy_is_the_same_at_removal_on_the_digits() -> None:
    """Trained for a few seconds with the real objective; every single decision stays, not only their number."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images).float().view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    net = nn.Sequential(conv(1, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 24), nn.ReLU())
    net = pruning.attach(net.append(nn.Linear(24, 10)), x[:2]).train()
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=2e-3, gate_lr=5e-2))
    for step in range(300):
        optimizer.zero_grad()
        batch = torch.randint(0, 1500, (64,))
        (F.cross_entropy(net(x[batch]), y[batch]) + pruning.kl(net) / 1500 * min(1.0, step / 150)).backward()
        optimizer.step()
    plan = pruning.plan(net, x[:2])
    small = pruning.shrink(net.eval(), plan, x[:2])
    assert sum(k for k, _ in plan.widths.values()) < sum(n for _, n in plan.widths.values())
    assert torch.equal(small(x).argmax(1), net(x).argmax(1))
    assert float((small(x[1500:]).argmax(1) == y[1500:]).float().mean()) > 0.8


def test_the_shrunk_network_trains() -> None:
    small = shrunk(model().train())
    optimizer = torch.optim.Adam(small.parameters(), lr=3e-2)
    losses: list[float] = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(small(X), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_shrinking_does_not_touch_the_network_or_the_generator() -> None:
    net = pruning.attach(model(), X)
    drown_half(net, 0)
    plan, before, state = pruning.plan(net, X), copy.deepcopy(net.state_dict()), torch.get_rng_state()
    pruning.shrink(net.train(), plan, X)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert net.training
    assert torch.equal(state, torch.get_rng_state())


def test_what_is_shrunk_can_be_attached_and_shrunk_again() -> None:
    small = shrunk(model().double(), X.double())
    again = shrunk(small, X.double())
    assert again[3].out_channels < small[3].out_channels


# --- structure without values ----------------------------------------------------------------------------------------
def hand_placed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), LogNormalNoise(8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("case", STRUCTURES, ids=lambda c: c.name)
def test_the_record_rebuilds_the_structure(case: Case) -> None:
    small = shrunk(build(case), case.inputs())
    fresh = pruning.apply_shrunk(build(case), json.loads(json.dumps(small.dither_shrunk)))
    fresh.load_state_dict(small.state_dict())
    found, wanted = tensors(case.run(fresh, 2)), tensors(case.run(small, 2))
    assert all(map(torch.equal, found, wanted))
    assert len(found) == len(wanted) > 0
    assert str(fresh) == str(small)


def test_the_record_rebuilds_selections_and_hand_placed_noise() -> None:
    x = torch.randn(4, 5)
    small = shrunk(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), x, features=True)
    fresh = pruning.apply_shrunk(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), small.dither_shrunk)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh(x), small(x))
    net = hand_placed()
    drown_half(net, 0)
    small = pruning.shrink(net, pruning.plan(net, x), x)
    fresh = pruning.apply_shrunk(hand_placed(), small.dither_shrunk)
    fresh.load_state_dict(small.state_dict())
    assert isinstance(fresh[2], FixedScale)
    assert torch.equal(fresh(x), small(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {"9.weight": {"0": [0]}}}, r'indices of "9\.weight", dimension 0'),
        ({"kept": {"0.weight": {"0": [0, 99]}}}, r'indices of "0\.weight", dimension 0'),
        ({"kept": {"0.weight": {"0": [-1]}}}, r'indices of "0\.weight", dimension 0'),
        ({"kept": {"0.weight": {"7": [0]}}}, r'indices of "0\.weight", dimension 7'),
        ({"selects": {"nowhere": [0]}}, 'a layer "nowhere" that the model does not have'),
        ({"scales": {"nowhere": True}}, 'a layer "nowhere" that the model does not have'),
        ({"scales": {"0": True}}, 'noise at "0", where the model has a Conv2d'),
    ],
    ids=str,
)
def test_records_of_another_model(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pruning.apply_shrunk(model(), {"kept": {}, "selects": {}, "scales": {}, **change})


def test_columns_of_something_that_is_not_linear() -> None:
    with pytest.raises(ValueError, match='columns of "0" that this Conv2d does not have'):
        pruning.apply_shrunk(model(), {"kept": {}, "selects": {"0": [0]}, "scales": {}})


def test_stochastic_layers_stay_stochastic() -> None:
    """Dropout is the user's own, and goes on working."""
    small = shrunk(nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3)), x := torch.randn(4, 5)).eval()
    with dither.sampling(small):
        assert not torch.equal(small(x), small(x))


def test_zeros_as_example_inputs_do_not_blind_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))  # 0 at 0, whatever is removed
    net, x = pruning.attach(nn.Sequential(*layers), torch.zeros(2, 5)), torch.zeros(2, 5)
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    right = pruning.shrinking._shrink.keep_slots

    def shifted(chosen: Any) -> Any:
        return {
            n: {d: (i + 1) % 8 for d, i in dims.items()} if n == "0.weight" else dims
            for n, dims in right(chosen).items()
        }

    monkeypatch.setattr(pruning.shrinking._shrink, "keep_slots", shifted)
    with pytest.raises(pruning.ShrinkError, match="differs from the masked one"):
        pruning.shrink(net, plan, x)
