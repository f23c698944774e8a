"""attach: W(θ∘x) = (W diag θ)x, and everything that a user does with a module still works."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils.checkpoint import checkpoint

import dither
from dither import pruning
from dither._inputs import call
from dither.pruning.noise._gates import gated_weights
from tests.cases import CASES, Case, Net, conv, head
from tests.pruning.test_cases import assert_same, build, drown_half

REMOVABLE = [c for c in CASES if c.removable]
PARAMETERS_ONLY = ("functional calls on parameters", "x @ W, with W stored inputs first", "W @ x with a bias")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def attached(model: nn.Module | None = None, x: Tensor | None = None, **options: Any) -> nn.Module:
    model = mlp() if model is None else model
    net = pruning.attach(model, torch.randn(4, 5) if x is None else x, **options)
    drown_half(net, 0)
    return net


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def assert_equal_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert list(a) == list(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


# --- noise on weights is noise on activations ------------------------------------------------------------------------
def on_activations(model: nn.Module, x: Any, theta: dict[str, Tensor]) -> Any:
    """``model`` with θ multiplied onto what every reader is given, by hooks."""
    held = dict(model.named_parameters())
    factors: dict[nn.Module, Tensor] = {}
    for space in pruning.analyse(model, x).spaces:
        for name, dim in space.readers if space.name in theta else ():
            at = space.slots[name, dim]
            factor = torch.where(at >= 0, theta[space.name][at.clamp(min=0)], 1.0)
            for module in model.modules():
                if getattr(module, "weight", None) is held[name]:
                    factors[module] = factors.get(module, 1.0) * factor

    def multiply(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        last = isinstance(module, nn.Linear)
        shape = (-1,) if last else (1, -1) + (1,) * (args[0].ndim - 2)
        return (args[0] * factors[module].view(shape).to(args[0].dtype),)

    for module in factors:
        module.register_forward_pre_hook(multiply)
    return call(model, x)


def read_by_layers(module: nn.Module) -> bool:
    """Whether column i of the weight multiplies input i."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.groups == 1
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)  # of attention


@pytest.mark.parametrize("case", [c for c in REMOVABLE if c.name not in PARAMETERS_ONLY], ids=lambda c: c.name)
def test_noise_on_weights_is_noise_on_activations(case: Case) -> None:
    x = case.inputs()
    net = pruning.attach(build(case), x)
    if not all(read_by_layers(module) for module, _, _ in gated_weights(net)):
        pytest.skip("grouped, recurrent and attention layers do not read what stands along dimension 1 of their weight")
    drown_half(net, 3)
    theta = {name: gate.theta() for name, gate in pruning.gates(net).items()}
    assert any(bool((t == 0).any()) for t in theta.values())
    assert_same(call(net, x), on_activations(build(case), x, theta))


@pytest.mark.parametrize("case", [c for c in CASES if c.name in PARAMETERS_ONLY], ids=lambda c: c.name)
def test_noise_on_bare_parameters(case: Case) -> None:
    x, net, m = case.inputs(), pruning.attach(build(case), case.inputs()), build(case)
    drown_half(net, 3)
    theta = pruning.gates(net)["w"].theta()
    by_hand = {
        PARAMETERS_ONLY[0]: lambda: F.linear(F.relu(F.linear(x, m.w, m.b)) * m.scale * theta, m.v),
        PARAMETERS_ONLY[1]: lambda: (F.relu(x @ m.w) * theta) @ m.v,
        PARAMETERS_ONLY[2]: lambda: m.v @ (F.relu(m.w @ x.mT + m.b[:, None]) * theta[:, None]),
    }
    assert_same(net(x), by_hand[case.name]())


@pytest.mark.parametrize(("features", "names"), [(True, ["0[in]", "4[in]"]), (["0"], ["0[in]"]), (["4"], ["4[in]"])])
def test_noise_on_single_columns(features: bool | list[str], names: list[str]) -> None:
    """Flattened features carry both the channel's noise and the column's."""
    m = nn.Sequential(nn.Linear(5, 8), nn.Unflatten(1, (4, 2)), nn.Conv1d(4, 6, 1), nn.Flatten(), nn.Linear(12, 3))
    m, x = m.double(), torch.randn(4, 5, dtype=torch.float64)
    net = attached(m, x, features=features).eval()
    theta = {name: gate.theta() for name, gate in pruning.gates(net).items()}
    assert [name for name in theta if name.endswith("[in]")] == names
    h = m[2](m[1](m[0](x * theta.get("0[in]", 1.0)))) * theta["2"].view(-1, 1)
    assert_same(net(x), m[4](m[3](h) * theta.get("4[in]", 1.0)))


def test_channel_noise_and_column_noise_multiply() -> None:
    m, x = mlp().double(), torch.randn(4, 5, dtype=torch.float64)
    net = attached(m, x, features=["2"]).eval()
    theta = {name: gate.theta() for name, gate in pruning.gates(net).items()}
    assert_same(net(x), m[4](m[3](m[2](m[1](m[0](x)) * theta["0"] * theta["2[in]"])) * theta["2"]))


@pytest.mark.parametrize("case", [c for c in REMOVABLE if c.name in ("one layer, two inputs", "dense block")], ids=str)
def test_all_readers_see_one_draw(case: Case) -> None:
    net = pruning.attach(build(case), case.inputs())
    seen: dict[str, list[Tensor]] = {}

    def see(module: nn.Module, args: object) -> None:
        ratio = (module.weight / module.parametrizations.weight.original).detach()
        seen.setdefault(name_of[module], []).append(ratio.movedim(1, 0).flatten(1)[:, 0])

    name_of = {m: name for name, m in net.named_modules() if hasattr(m, "parametrizations")}
    for module in name_of:
        module.register_forward_pre_hook(see)
    with dither.sampling(net):
        net(case.inputs())
        net(case.inputs())
    if "dense" in case.name:  # head.2 reads a, b and c; c reads a and b; b reads a
        assert torch.allclose(seen["head.2"][0][:9], seen["c"][0])
        assert torch.allclose(seen["c"][0][:4], seen["b"][0])
    else:  # s is called twice in one forward pass
        assert torch.equal(seen["s"][0], seen["s"][1])
        assert not torch.equal(seen["s"][0], seen["s"][2])


# --- the user's module stays the user's module -----------------------------------------------------------------------
def test_the_given_model_is_untouched() -> None:
    model = mlp().train()
    model[2].eval()
    before = copy.deepcopy(model)
    net = attached(model)
    net(torch.randn(2, 5)).sum().backward()
    assert_equal_bits(model.state_dict(), before.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_class_names_and_mode_stay(training: bool) -> None:
    case = next(c for c in CASES if c.name.startswith("residual block"))
    model = build(case).train(training)
    net = pruning.attach(model, case.inputs())
    assert type(net) is type(model)
    for name, module in model.named_modules():
        assert isinstance(net.get_submodule(name), type(module)), name
    assert {m.training for m in net.modules()} == {training}


def test_skip_leaves_a_layer_without_noise() -> None:
    assert list(pruning.gates(attached(skip=["2"]))) == ["0"]
    assert list(pruning.gates(attached(skip=["0"]))) == ["2"]


def test_skip_names_a_stream_by_any_of_its_writers() -> None:
    case = next(c for c in CASES if c.name == "residual block: the stream and the inside")
    for writer in ("stem", "b"):
        assert list(pruning.gates(pruning.attach(build(case), case.inputs(), skip=[writer]))) == ["a"]


def test_skip_names_a_bare_parameter() -> None:
    case = next(c for c in CASES if c.name == "functional calls on parameters")
    with pytest.raises(ValueError, match="no channel of this model can be removed"):
        pruning.attach(build(case), case.inputs(), skip=["w"])


def test_features_of_a_convnet_are_named_after_their_reader() -> None:
    model = nn.Sequential(conv(1, 4), nn.Flatten(), nn.Linear(256, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(2, 1, 8, 8)
    sizes = {name: gate.num_features for name, gate in pruning.gates(attached(model, x, features=True)).items()}
    assert sizes == {"0": 4, "2": 6, "2[in]": 256}


def test_inputs_as_a_tuple_and_as_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.b(self.a(x).relu() * scale)

    x, scale = torch.randn(4, 5), torch.ones(4, 1)
    assert list(pruning.gates(pruning.attach(Two(), (x, scale)))) == ["a"]
    assert list(pruning.gates(pruning.attach(Two(), {"x": x, "scale": scale}))) == ["a"]


def test_layers_may_be_called_as_methods_of_a_dictionary() -> None:
    model = Net(lambda m, x: m.out(m.keys(m.values(x))), values=nn.Linear(5, 6), keys=nn.Linear(6, 4), out=head(4)[2])
    assert list(pruning.gates(attached(model))) == ["values", "keys"]


def test_gates_of_nested_layers_do_not_collide() -> None:
    model = Net(
        lambda m, x: m.out(torch.cat([m.a.b(x), m.a_b(x)], 1)),
        a=nn.ModuleDict({"b": nn.Linear(5, 4)}),
        a_b=nn.Linear(5, 4),
        out=nn.Linear(8, 3),
    )
    net = attached(model)
    assert sum(name.endswith("loc") for name in net.state_dict()) == len(pruning.gates(net)) == 2


def test_a_frozen_model_learns_its_noise() -> None:
    net = attached(mlp().requires_grad_(False)).train()
    net(torch.randn(4, 5)).sum().backward()
    assert {name.rpartition(".")[2] for name in gradients(net)} == {"loc", "log_scale"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    net = attached(mlp().to(dtype), torch.randn(4, 5, dtype=dtype)).train()
    out = net(torch.randn(4, 5, dtype=dtype))
    out.sum().backward()
    gate = pruning.gates(net)["0"]
    assert out.dtype == dtype
    assert gate.loc.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(bool(g.isfinite().all()) for g in gradients(net).values())


# --- copies and checkpoints ------------------------------------------------------------------------------------------
def test_a_copy_is_independent() -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    other, before = copy.deepcopy(net), net(x)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        pruning.gates(other)["0"].loc.fill_(-5.0)
    assert not torch.equal(other(x), before)
    assert torch.equal(net(x), before)


def test_a_copy_after_a_training_step_is_possible() -> None:
    net = attached().train()
    net(torch.randn(4, 5)).sum().backward()
    copy.deepcopy(net)(torch.randn(4, 5)).sum().backward()


def test_removing_the_gates_of_a_copy_leaves_the_original() -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    before = net(x)
    plan = pruning.plan(net, x)
    pruning.masked(net, plan)
    pruning.shrink(net, plan, x)
    assert torch.equal(net(x), before)
    net.train()(x).sum().backward()
    assert pruning.gates(net)["0"].loc.grad is not None


def test_state_dict_goes_into_a_freshly_attached_net_bit_for_bit() -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    fresh = pruning.attach(mlp(), x).eval()
    fresh(x)  # θ of the fresh noise is known by now, and must be forgotten
    fresh.load_state_dict(net.state_dict())
    assert_equal_bits(fresh.state_dict(), net.state_dict())
    assert torch.equal(fresh(x), net(x))


@pytest.mark.parametrize("change", ["loc", "threshold", "mode"])
def test_eval_follows_every_change(change: str) -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    gate, before = pruning.gates(net)["0"], net(x)
    if change == "loc":
        gate.loc.data.sub_(1.0)
    elif change == "threshold":
        gate.threshold = 1e9
    else:
        gate.train()
    assert not torch.equal(net(x), before)


# --- training --------------------------------------------------------------------------------------------------------
def test_accumulated_gradients_are_those_of_the_big_batch_under_one_draw() -> None:
    net, x = attached(mlp().double(), torch.randn(8, 5).double()).train(), torch.randn(8, 5).double()

    def step(*parts: Tensor) -> dict[str, Tensor]:
        net.zero_grad()
        for part in parts:
            torch.manual_seed(1)
            (net(part).square().sum() / len(x) + pruning.kl(net) / 100 / len(parts)).backward()
        return gradients(net)

    torch.testing.assert_close(step(x), step(x[:4], x[4:]), rtol=1e-9, atol=1e-12)


def test_each_forward_pass_draws_anew() -> None:
    net, x = attached().train(), torch.randn(4, 5)
    assert not torch.equal(net(x), net(x))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.again = mlp()[:2], mlp()[2:], False

        def forward(self, x: Tensor) -> Tensor:
            if not self.again:
                return self.b(self.a(x))
            return checkpoint(self.b, checkpoint(self.a, x, use_reentrant=False), use_reentrant=False)

    net, x = attached(Blocks().double(), torch.randn(4, 5).double()).train(), torch.randn(4, 5).double()
    found = []
    for net.again in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        net(x).square().sum().backward()
        found.append(gradients(net))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)
    assert any(name.endswith("loc") for name in found[0])


def test_autocast_bf16() -> None:
    net, x = attached().train(), torch.randn(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
        loss = out.float().square().mean() + pruning.kl(net) / 100
    loss.backward()
    assert out.dtype == torch.bfloat16
    for name, grad in gradients(net).items():
        assert grad.dtype == torch.float32, name
        assert bool(grad.isfinite().all()), name


def test_a_submodule_without_its_root_trains() -> None:
    """Also after a backward pass of the root, whose draw autograd has freed, and after one without gradients."""
    net = attached().train()
    for first in (lambda: None, lambda: net(torch.randn(4, 5)).sum().backward(), lambda: no_grad(net)):
        first()
        net.zero_grad()
        net[2](torch.randn(4, 8)).square().sum().backward()
        assert bool((pruning.gates(net)["0"].loc.grad != 0).any())


def no_grad(net: nn.Module) -> None:
    with torch.no_grad():
        net(torch.randn(4, 5))


def test_an_error_in_the_forward_pass_leaves_no_trace() -> None:
    net = attached().train()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(torch.randn(4, 7))
    assert not torch.equal(net[2](torch.ones(1, 8)), net[2](torch.ones(1, 8)))


def test_inference_mode_before_gradients() -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    with torch.inference_mode():
        net(x)
    net(x).sum().backward()
    assert net[0].weight.grad is not None


def test_wrappers_are_looked_through() -> None:
    net = attached()
    wrapped = nn.Sequential(net)
    assert list(pruning.gates(wrapped)) == list(pruning.gates(net))
    assert torch.equal(pruning.kl(wrapped), pruning.kl(net))


def test_functional_call() -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    assert torch.equal(torch.func.functional_call(net, dict(net.named_parameters()), (x,)), net(x))


# --- torch.compile ---------------------------------------------------------------------------------------------------
@pytest.fixture
def compiled() -> Callable[[nn.Module], Any]:
    """With the backend that runs autograd's graphs eagerly: no C++ compiler is needed."""
    torch._dynamo.reset()
    return lambda net: torch.compile(net, backend="aot_eager")


def test_compiled_eval_is_eager_eval(compiled: Callable[[nn.Module], Any]) -> None:
    net, x = attached().eval(), torch.randn(4, 5)
    torch.testing.assert_close(compiled(net)(x), net(x))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch hides it itself, on display
def test_compiled_training_is_eager_training(compiled: Callable[[nn.Module], Any]) -> None:
    """The same draws and steps; one graph for all of them, after one break at the root."""
    nets, x = [attached(mlp().double(), torch.randn(4, 5).double()).train() for _ in range(2)], torch.randn(4, 5)
    nets[1].load_state_dict(nets[0].state_dict())
    torch._dynamo.utils.counters.clear()
    for net, run in ((nets[0], nets[0]), (nets[1], compiled(nets[1]))):
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(pruning.param_groups(net, lr=1e-2))
        for _ in range(4):
            optimizer.zero_grad()
            (run(x.double()).square().mean() + pruning.kl(run) / 100).backward()
            optimizer.step()
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict())
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert sum(counters["graph_break"].values()) == 1
