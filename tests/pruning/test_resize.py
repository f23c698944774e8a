"""shrink while training: the smaller network and its optimizer go on exactly where the larger ones were."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

import dither
from dither import pruning
from dither._inputs import call, tensors
from dither.pruning import LogNormalNoise
from tests.cases import CASES, Case, conv, head
from tests.pruning.test_cases import assert_same, build, drown_half

REMOVABLE = [c for c in CASES if c.removable]
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
Y = torch.tensor([0, 1, 2, 0])


def model() -> nn.Sequential:
    torch.manual_seed(0)
    # No bias before BatchNorm: its gradient is rounding noise, which adaptive steps blow up.
    layers = (conv(3, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 8), nn.ReLU(), head(8))
    return nn.Sequential(*layers).double().train()


def flat_model() -> nn.Sequential:
    """Channels and single columns are removed of one weight: fc reads a flatten of what the convolution writes."""
    torch.manual_seed(0)
    layers = (conv(3, 6), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 8), nn.ReLU(), nn.Linear(8, 3))
    return nn.Sequential(*layers).double().train()


def adam(net: nn.Module) -> Optimizer:
    return torch.optim.AdamW(pruning.param_groups(net, lr=1e-2), weight_decay=0.1)


def attached(net: nn.Module, seed: int = 0, **options: Any) -> nn.Module:
    net = pruning.attach(net, X, **options)
    drown_half(net, seed)
    return net


def resized(net: nn.Module, optimizer: Optimizer | None = None) -> tuple[nn.Module, Optimizer]:
    return pruning.shrink(net, pruning.plan(net, X), X, optimizer=optimizer or adam(net))


def kept_of(net: nn.Module, small: nn.Module) -> Callable[[str, Tensor], Tensor]:
    """What is left of a tensor of ``net`` by its name, read off the record alone."""
    record, bank = small.dither_shrunk, pruning.noise._gates.find_bank(net)
    gates = {
        id(p): record["gates"][name]
        for name, gate in (bank.layers.items() if bank else ())
        if name in record["gates"]
        for p in gate.parameters()
    }
    held = dict(net.named_parameters(remove_duplicate=False))
    plain = {n.replace("parametrizations.", "").removesuffix(".original"): id(p) for n, p in held.items()}
    cuts = {plain[name]: dims for name, dims in record["kept"].items() if name in plain}

    def kept(name: str, tensor: Tensor) -> Tensor:
        owner = id(held[name])
        for dim, index in {**cuts.get(owner, {}), **({"0": gates[owner]} if owner in gates else {})}.items():
            tensor = tensor.index_select(int(dim), torch.tensor(index))
        return tensor

    return kept


def draw(net: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    return {n: 0.2 + torch.rand(g.num_features, generator=generator).double() for n, g in pruning.gates(net).items()}


def inject(net: nn.Module, theta: dict[str, Tensor]) -> Tensor:
    """Let the gates be ``theta`` instead of a draw; the tensor whose gradient is that of θ."""
    fixed = torch.cat([*theta.values(), torch.ones(1).double()]).requires_grad_()
    pruning.noise._gates.find_bank(net).fixed = fixed
    return fixed


def silent(theta: dict[str, Tensor], small: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The draw with zeros where units are gone, and the draw of those that are left."""
    left = {n: t[small.dither_shrunk["gates"].get(n, range(len(t)))] for n, t in theta.items()}
    units = {n: torch.tensor(small.dither_shrunk["gates"].get(n, range(len(t)))) for n, t in theta.items()}
    return {n: torch.zeros_like(t).index_copy_(0, units[n], left[n]) for n, t in theta.items()}, left


# --- exact -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", REMOVABLE, ids=lambda c: c.name)
def test_same_outputs_and_gradients_under_the_same_draw(case: Case) -> None:
    """In train mode, with the statistics of the mini-batch; the gradient of θ too, from which the gates learn."""
    x = case.inputs()
    net = pruning.attach(build(case).train(), x)
    for module in net.modules():  # their own randomness draws for as many channels as there are
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, (nn.modules.dropout._DropoutNd, nn.RReLU)):
            module.eval()
    drown_half(net, 0)
    small, _ = pruning.shrink(net, pruning.plan(net, x), x, optimizer=adam(net))
    theta = draw(net, torch.Generator().manual_seed(1))
    whole, left = silent(theta, small)
    fixed = inject(net, whole), inject(small, left)
    outs = [tensors(call(n, case.inputs(2))) for n in (net, small)]
    for out in outs:
        generator = torch.Generator().manual_seed(2)
        sum((t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in out if t.requires_grad).backward()
    for a, b in zip(*outs, strict=True):
        assert_same(a, b)
    index = torch.cat([torch.tensor(i) for i in _units(net, small)])
    assert_same(fixed[0].grad[:-1][index], fixed[1].grad[:-1])
    kept, new = kept_of(net, small), dict(small.named_parameters())
    scale = max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None)
    for name, p in net.named_parameters():
        if p.grad is None or ".gates." in name:
            assert new[name].grad is None
        else:
            torch.testing.assert_close(new[name].grad, kept(name, p.grad), rtol=0, atol=1e-10 * scale, msg=name)


def _units(net: nn.Module, small: nn.Module) -> list[list[int]]:
    """The units that are left of each gate, counted in the whole θ."""
    found, begin = [], 0
    for name, gate in pruning.gates(net).items():
        found.append([begin + i for i in small.dither_shrunk["gates"].get(name, range(gate.num_features))])
        begin += gate.num_features
    return found


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=1e-2),
    "SGD with momentum": lambda g: torch.optim.SGD(g, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": torch.optim.Adam,
    "Adam, amsgrad": lambda groups: torch.optim.Adam(groups, amsgrad=True),
    "AdamW, fused": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=True),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, momentum=0.9, centered=True),
    "Rprop": torch.optim.Rprop,
    "ASGD": torch.optim.ASGD,
}


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizers_take_the_same_steps(name: str, features: bool) -> None:
    """Three steps of the whole network, then three of both: weights, gates, statistics and the optimizer's state."""
    net = attached(flat_model() if features else model(), features=features)
    optimizer = OPTIMIZERS[name](pruning.param_groups(net, lr=1e-2, gate_lr=2e-2))
    masks = {n: torch.ones(g.num_features).double() for n, g in pruning.gates(net).items()}
    for _ in range(3):
        step(net, optimizer, masks)
    drown_half(net, 0)
    small, cut = pruning.shrink(net, pruning.plan(net, X), X, optimizer=optimizer)
    assert type(cut) is type(optimizer)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in net.parameters())
    zeros, ones = silent(masks, small)
    for _ in range(3):
        step(net, optimizer, zeros)
        step(small, cut, ones)
    kept, new = kept_of(net, small), dict(small.named_parameters())
    for key, p in net.named_parameters():
        torch.testing.assert_close(new[key], kept(key, p), rtol=1e-9, atol=1e-10, msg=key)
        assert optimizer.state[p].keys() == cut.state[new[key]].keys()
        for entry, value in optimizer.state[p].items():
            mine = cut.state[new[key]][entry]
            expected = kept(key, value) if isinstance(value, Tensor) and value.shape == p.shape else value
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-10, msg=f"{entry} of {key}")
    for key, value in small.named_buffers():
        if "running" in key:
            assert_same(value, dict(net.named_buffers())[key][small.dither_shrunk["kept"][key]["0"]])


def step(net: nn.Module, optimizer: Optimizer, masks: dict[str, Tensor]) -> None:
    """One step of the objective, every unit at its mean, where a mask says so at zero: θ is a function of the gates."""
    theta = [g.distribution.mean * masks[n] for n, g in pruning.gates(net).items()]
    pruning.noise._gates.find_bank(net).fixed = torch.cat([*theta, torch.ones(1).double()])
    (F.cross_entropy(net(X), Y) + pruning.kl(net) / 100).backward()
    optimizer.step()
    optimizer.zero_grad()
    pruning.noise._gates.find_bank(net).fixed = None


def test_the_smaller_network_in_eval_mode_is_the_larger_one() -> None:
    net = attached(model())
    small, _ = resized(net)
    assert_same(net.eval()(X), small.eval()(X))


def test_the_noise_goes_on_and_is_that_of_the_units_that_stay() -> None:
    net = attached(model())
    small, _ = resized(net)
    assert type(small) is type(net)
    assert list(pruning.gates(small)) == list(pruning.gates(net))
    for name, gate in pruning.gates(small).items():
        units = small.dither_shrunk["gates"][name]
        assert len(units) == gate.num_features < pruning.gates(net)[name].num_features
        assert torch.equal(gate.loc, pruning.gates(net)[name].loc[units])
        assert torch.equal(gate.log_scale, pruning.gates(net)[name].log_scale[units])
    assert not torch.equal(small(X), small(X))


def test_the_kl_is_that_of_the_units_that_stay() -> None:
    net = attached(model())
    small, _ = resized(net)
    weights, total = {"0": 3.0}, 0.0
    for name, gate in pruning.gates(net).items():
        for unit in small.dither_shrunk["gates"][name]:
            alone = LogNormalNoise(1, init_loc=gate.loc[unit].item(), init_log_scale=gate.log_scale[unit].item())
            total += weights.get(name, 1.0) * pruning.kl(alone.double()).item()
    assert pruning.kl(small, weights).item() == pytest.approx(total, rel=1e-6)
    assert pruning.kl(small).item() < pruning.kl(net).item()


# --- again and again, and to the end ---------------------------------------------------------------------------------
@pytest.mark.parametrize(  # every fourth in the quick tests
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (i % 4 > 0), id=case.name) for i, case in enumerate(REMOVABLE)],
)
def test_again_and_again_and_then_for_good(case: Case) -> None:
    """Two removals in training and the last one end where one removal of the same channels ends."""
    x, fresh = case.inputs(), build(case)
    net = pruning.attach(copy.deepcopy(fresh), x)
    optimizer = adam(net)
    for seed in range(2):
        drown_half(net, seed)
        net, optimizer = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
    drown_half(net, 2)
    plan = pruning.plan(net, x)
    small = pruning.shrink(net, plan, x)
    whole = pruning.masked(net, plan)
    for a, b in zip(*(tensors(call(n, case.inputs(2))) for n in (whole, small)), strict=True):
        assert_same(a, b)
    rebuilt = pruning.apply_shrunk(fresh, json.loads(json.dumps(small.dither_shrunk)))
    rebuilt.load_state_dict(small.state_dict())
    assert str(rebuilt) == str(small)
    for a, b in zip(tensors(call(rebuilt, x)), tensors(call(small, x)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [model, flat_model])
def test_the_overall_plan_counts_in_the_network_that_attach_returned(make: Callable[[], nn.Module]) -> None:
    """Removing at once what two plans remove in two steps gives the same network."""
    net = first = attached(make(), features=True)
    net, optimizer = resized(net)
    for gate in pruning.gates(net).values():
        drown = torch.arange(gate.num_features) % 3 == 0
        gate.loc.data[drown], gate.log_scale.data[drown] = -10.0, 2.0
    plan = pruning.plan(net, X)
    total = pruning.overall(net, plan)
    assert [c.name for c in total.spaces] == [c.name for c in plan.spaces]
    assert {c.name: c.total for c in total.spaces} == {c.name: c.total for c in pruning.plan(first, X).spaces}
    assert total.network == pruning.plan(first, X).network
    at_once = pruning.shrink(first, total, X)
    assert_same(at_once(X), pruning.shrink(net, plan, X)(X))
    assert pruning.overall(first, total) == total
    del optimizer


def test_a_channel_never_loses_its_last_column() -> None:
    """Else nobody would read it, and the analysis of the smaller network would be another one."""
    net = pruning.attach(flat_model(), X, features=True)
    columns = pruning.gates(net)["3[in]"]
    with torch.no_grad():
        columns.loc[: 2 * 16], columns.log_scale[: 2 * 16] = -10.0, 2.0  # every column of the channels 0 and 1
    small, optimizer = resized(net)
    assert small[3].index.tolist() == [0, 16, *range(32, 96)]
    assert len(pruning.plan(small, X).spaces[0].kept) == 6
    assert small.dither_shrunk["gates"]["3[in]"] == small[3].index.tolist()
    again, _ = pruning.shrink(small, pruning.plan(small, X), X, optimizer=optimizer)
    assert again[3].index.tolist() == small[3].index.tolist()


@pytest.mark.parametrize("make", [model, flat_model])
def test_a_smaller_noisy_network_is_saved_and_loaded(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    small, optimizer = resized(attached(make(), features=True))
    drown_half(small, 5)
    small, _ = resized(small, optimizer)
    dither.save(small, tmp_path / "net.safetensors")
    back = dither.load(pruning.attach(make(), X, features=True), tmp_path / "net.safetensors")
    assert torch.equal(back.eval()(X), small.eval()(X))
    assert torch.equal(pruning.kl(back), pruning.kl(small))
    inject(back, theta := draw(back, torch.Generator().manual_seed(1)))
    inject(small, theta)
    assert torch.equal(back.train()(X), small.train()(X))
    with pytest.raises(ValueError, match="does not fit"):
        dither.load(make(), tmp_path / "net.safetensors")


def test_a_record_of_a_plain_network_is_refused_by_one_with_gates() -> None:
    net = attached(model())
    small = pruning.shrink(net, pruning.plan(net, X), X)
    with pytest.raises(ValueError, match="a network without noise"):
        pruning.apply_shrunk(attached(model()), small.dither_shrunk)
    noisy, _ = resized(net)
    record = {**noisy.dither_shrunk, "gates": {"0": [0, 99]}}
    with pytest.raises(ValueError, match='units of the gate "0"'):
        pruning.apply_shrunk(attached(model()), record)
    with pytest.raises(ValueError, match="drops noise of columns"):
        pruning.apply_shrunk(attached(model()), {**record, "kept": {}, "gates": {"0": [0]}})


def test_hand_placed_noise_stays_and_is_narrowed() -> None:
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), LogNormalNoise(8), nn.Linear(8, 3)).double()

    x, net = torch.randn(4, 5).double(), make()
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    small, optimizer = pruning.shrink(net, plan, x, optimizer=adam(net))
    kept = list(plan.spaces[0].kept)
    assert len(kept) == small[2].num_features == small[0].out_features < 8
    assert torch.equal(small[2].loc, net[2].loc[kept])
    assert_same(net.eval()(x), small.eval()(x))
    (small.train()(x).sum() + pruning.kl(small)).backward()
    optimizer.step()
    final = pruning.shrink(small, pruning.plan(small, x), x)
    rebuilt = pruning.apply_shrunk(make(), json.loads(json.dumps(final.dither_shrunk)))
    rebuilt.load_state_dict(final.state_dict())
    assert torch.equal(rebuilt(x), final(x))


def test_what_noise_does_not_keep_at_zero_stays_until_the_end() -> None:
    """BatchNorm makes a constant of a zero, and another one when it has learned more; ReLU may hide it today."""
    torch.manual_seed(0)
    layers = (nn.Linear(5, 8), LogNormalNoise(8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    x, net = torch.randn(4, 5).double(), nn.Sequential(*layers).double()
    nn.init.constant_(net[2].bias, -1.0)  # relu(-1) = 0: nothing is seen of the constant
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    assert len(plan.spaces[0].kept) < 8
    small, _ = pruning.shrink(net, plan, x, optimizer=adam(net))
    assert small[0].out_features == small[1].num_features == 8
    assert pruning.shrink(net, plan, x)[0].out_features < 8


def test_tied_weights_stay_tied_and_are_stepped_once() -> None:
    layers = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)]
    layers[4].weight = layers[2].weight
    x = torch.randn(4, 5).double()
    net = pruning.attach(nn.Sequential(*layers).double(), x).train()
    optimizer = torch.optim.SGD(pruning.param_groups(net, lr=1e-2), momentum=0.9)
    net(x).sum().backward()
    optimizer.step()
    drown_half(net, 0)
    small, cut = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
    one, two = (small[i].parametrizations.weight.original for i in (2, 4))
    assert one is two
    assert one.shape[0] < 8
    assert cut.state[one]["momentum_buffer"].shape == one.shape
    assert sum(p is one for group in cut.param_groups for p in group["params"]) == 1


# --- what is kept of the optimizer, and what is refused --------------------------------------------------------------
def test_options_groups_and_strangers_stay() -> None:
    net, stranger = attached(model()), nn.Parameter(torch.ones(3))
    optimizer = adam(net)
    optimizer.add_param_group({"params": [stranger], "lr": 0.5, "name": "mine"})
    stranger.sum().backward()
    optimizer.step()
    small, cut = resized(net, optimizer)
    assert [{k: v for k, v in g.items() if k != "params"} for g in cut.param_groups] == [
        {k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups
    ]
    assert cut.defaults == optimizer.defaults
    assert cut.param_groups[2]["params"][0] is stranger
    assert cut.state[stranger]["exp_avg"] is not optimizer.state[stranger]["exp_avg"]
    mine = {id(p) for group in cut.param_groups[:2] for p in group["params"]}
    assert mine == {id(p) for p in small.parameters()}
    names = [{n for n, p in n_.named_parameters() if any(p is q for q in o.param_groups[1]["params"])}
             for n_, o in ((net, optimizer), (small, cut))]  # fmt: skip
    assert names[0] == names[1]


def test_the_network_the_optimizer_and_the_generator_are_not_changed() -> None:
    net = attached(model())
    optimizer = adam(net)
    F.cross_entropy(net(X), Y).backward()
    optimizer.step()
    before, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    gradients, random = [None if p.grad is None else p.grad.clone() for p in net.parameters()], torch.get_rng_state()
    small, cut = resized(net, optimizer)
    F.cross_entropy(small(X), Y).backward()
    cut.step()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict(), state, rtol=0, atol=0)
    assert all((p.grad is None) == (g is None) for p, g in zip(net.parameters(), gradients, strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True) if g is not None)
    torch.set_rng_state(random)
    resized(net, optimizer)
    assert torch.equal(torch.get_rng_state(), random)


def test_waiting_gradients_are_cut_along() -> None:
    """Half of an accumulated gradient before the removal, half after it."""
    net = attached(model())
    net[0].requires_grad_(False)
    F.cross_entropy(net(X), Y).backward()
    small, _ = resized(net)
    kept, new = kept_of(net, small), dict(small.named_parameters())
    for name, p in net.named_parameters():
        if p.grad is None:
            assert new[name].grad is None
        else:
            assert torch.equal(new[name].grad, kept(name, p.grad))
    assert not small[0].weight.requires_grad


def test_modes_and_memory_format_stay() -> None:
    net = attached(model().to(memory_format=torch.channels_last))
    net[1].eval()
    pruning.gates(net)["0"].eval()
    optimizer = adam(net)
    F.cross_entropy(net(X), Y).backward()
    optimizer.step()
    small, cut = resized(net, optimizer)
    assert {n: m.training for n, m in small.named_modules()} == {n: m.training for n, m in net.named_modules()}
    weight = small[3].parametrizations.weight.original
    for tensor in (weight, cut.state[weight]["exp_avg"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_with_the_new_optimizer(name: str) -> None:
    """Its rates (and betas, which OneCycleLR moves too) are those of a run without removal."""
    net = attached(model())
    optimizers = [adam(net), adam(net)]
    schedulers = [SCHEDULERS[name](o) for o in optimizers]
    loss = (1.0,) if name == "ReduceLROnPlateau" else ()
    for k in range(6):
        if k == 3:
            _, optimizers[0] = resized(net, optimizers[0])
            schedulers[0].optimizer = optimizers[0]
        for o, s in zip(optimizers, schedulers, strict=True):
            o.step()
            s.step(*loss)
        options = [[(g["lr"], g["betas"]) for g in o.param_groups] for o in optimizers]
        assert options[0] == options[1]


def test_hooks_of_the_optimizer_stay() -> None:
    net, calls = attached(model()), []
    optimizer = adam(net)
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(o))
    _, cut = resized(net, optimizer)
    cut.step()
    assert calls == [cut]


def test_state_that_cannot_be_cut_is_named() -> None:
    net = attached(model())
    optimizer = torch.optim.Adafactor(pruning.param_groups(net, lr=1e-2))
    F.cross_entropy(net(X), Y).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r'Adafactor keeps "\w+" \(shape .*\) for ".*" \(shape .*cannot be cut along'):
        resized(net, optimizer)
    optimizer.state.clear()
    small, cut = resized(net, optimizer)
    F.cross_entropy(small(X), Y).backward()
    cut.step()


def test_an_optimizer_within_another_is_named() -> None:
    class Inside(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=0.1)
            self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    net = attached(model())
    with pytest.raises(ValueError, match=r"Inside\.base holds state that cannot be cut along"):
        resized(net, Inside(net.parameters()))


def test_attributes_of_an_optimizer_stay() -> None:
    net = attached(model())
    optimizer = torch.optim.LBFGS(net.parameters())  # it keeps the list of its parameters beside the groups
    small, cut = resized(net, optimizer)

    def closure() -> Tensor:
        cut.zero_grad()
        loss = F.cross_entropy(small(X), Y)
        loss.backward()
        return loss

    cut.step(closure)
    drown_half(small, 1)
    with pytest.raises(ValueError, match=r"LBFGS keeps .* cannot be cut along"):
        resized(small, cut)


def test_wrappers_and_strangers_are_refused() -> None:
    from accelerate import Accelerator

    net = attached(model())
    with pytest.raises(ValueError, match="AcceleratedOptimizer is a wrapper; give the optimizer inside"):
        resized(net, Accelerator(cpu=True).prepare(adam(net)))
    with pytest.raises(ValueError, match="AdamW trains no parameter of the network"):
        resized(net, adam(attached(model())))
    with pytest.raises(ValueError, match="made for another network"):
        pruning.shrink(net, pruning.plan(attached(flat_model()), X), X, optimizer=adam(net))


def test_a_wrong_network_never_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    right = pruning.shrinking._resize.apply_shrunk

    def wrong(net: nn.Module, record: Any) -> nn.Module:
        net = right(net, record)
        net[3].bias.data[0] += 0.01
        return net

    monkeypatch.setattr(pruning.shrinking._resize, "apply_shrunk", wrong)
    with pytest.raises(pruning.ShrinkError, match=r"differs from the masked one.*nothing was returned"):
        resized(attached(model()))
