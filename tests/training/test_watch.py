"""Numbers that go bad: caught where they begin, named, and never saved."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

import dither
from dither import pruning
from dither.training import Engine, Fit, Images, NonFiniteLoss, Penalty, Progress, load_images
from dither.training._watch import Watch

FIT = Fit(epochs=2, batch_size=16, lr=1e-2)


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "train").split_last(1437 - 100)[0]


def engine(folder: Path, **options: Any) -> Engine:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Engine(Accelerator(cpu=True, **options), folder, Progress(), seed=1)


def gated(images: Images) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
    return pruning.attach(net, images.float_batch(slice(0, 4)))


class Wild(torch.autograd.Function):
    """1 forwards, NaN backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_ones(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.full((8,), math.nan)


def at(step: int, do: Callable[[nn.Module], Tensor | None]) -> Penalty:
    """A penalty of zero, at one step of something else."""
    calls: list[int] = []

    def value(net: nn.Module) -> Tensor:
        calls.append(0)
        result = do(net) if len(calls) == step + 1 else None
        return torch.zeros(()) if result is None else result

    return Penalty(value)


def stop(folder: Path, images: Images, penalty: Penalty, **options: Any) -> str:
    with pytest.raises(NonFiniteLoss) as caught:
        engine(folder).fit(gated(images), images, images, FIT, "prune", penalty=penalty, **options)
    states = sorted(path.name for path in (folder / "checkpoint" / "prune").iterdir())
    assert states == ["step-00000006"]  # nothing was saved afterwards
    assert "the last good checkpoint is step-00000006" in str(caught.value)
    return str(caught.value)


def test_a_bad_gradient_is_caught_before_the_weights_change(tmp_path: Path, images: Images) -> None:
    """The loss is finite: a look at the loss alone would notice a step later, in a network that is lost."""
    seen: list[nn.Module] = []

    def do(net: nn.Module) -> Tensor:
        seen.append(net)
        return Wild.apply(pruning.gates(net)["1"].loc)

    message = stop(tmp_path, images, at(8, do))
    place = "the gradient of the loss is not finite at step 8 of stretch 'prune' (epoch 2): "
    assert message.startswith(
        place + "all parameters are finite, the first with a NaN or infinite gradient is loc of the"
    )
    assert "loc of the gate '1'" in message
    assert all(bool(p.isfinite().all()) for p in seen[0].parameters())


def set_loc(value: float) -> Callable[[nn.Module], None]:
    def do(net: nn.Module) -> None:
        pruning.gates(net)["1"].loc.data[5] = value

    return do


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_a_gate_that_explodes_quietly_is_not_saved(tmp_path: Path, images: Images, value: float) -> None:
    """Loss, gradients and outputs are finite with it; training goes on, and nothing else would say a word."""
    message = stop(tmp_path, images, at(8, set_loc(value)))
    assert message.startswith('loc[5] of the gate "1" is 1e+30 after step 11'.replace("1e+30", f"{value:g}"))


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_gate_that_is_not_finite_is_named(tmp_path: Path, images: Images, value: float) -> None:
    message = stop(tmp_path, images, at(8, set_loc(value)))
    assert "is not finite at step 9" in message
    assert "the first parameter with a NaN or infinite value is loc of the gate '1'" in message


def test_running_statistics_that_only_evaluation_would_see(tmp_path: Path, images: Images) -> None:
    def do(net: nn.Module) -> None:
        net[2].running_var.data[1] = math.inf

    message = stop(tmp_path, images, at(8, do))
    assert message.startswith(
        "the first running statistic with a NaN or infinite value is '2.running_var' after step 11"
    )


def test_bad_images_are_counted_out(tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    float_batch, calls = Images.float_batch, []

    def read(self: Images, rows: Tensor) -> Tensor:
        x = float_batch(self, rows)
        if len(x) == 16:
            calls.append(0)
            if len(calls) == 9:
                x[3, 0, 2, 2] = math.nan
        return x

    monkeypatch.setattr(Images, "float_batch", read)
    message = stop(tmp_path, images, at(99, set_loc(0.0)))
    place = "the loss is not finite at step 8 of stretch 'prune' (epoch 2): "
    assert message.startswith(place + "image 3 of its batch has pixels that are NaN or infinite")


def test_outputs_that_are_bad_in_eval_mode_only(tmp_path: Path, images: Images) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if self.training else x / 0

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Odd())
    with pytest.raises(
        NonFiniteLoss, match=r"outputs for the images of .* are not finite after epoch 1 .*although all"
    ):
        engine(tmp_path).fit(net, images, images, FIT, "base")
    assert not (tmp_path / "history.jsonl").exists()


def scaled(folder: Path, scale: float) -> Engine:
    """What Accelerate does with fp16 on a GPU, here with float32 on a CPU."""
    made = engine(folder)
    made.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000)
    made.accelerator.native_amp = True
    return made


def test_infinite_gradients_under_loss_scaling_are_no_error(tmp_path: Path, images: Images) -> None:
    """Loss scaling begins too high, halves until gradients are finite, and trains from there."""
    net = gated(images)
    before = {name: p.clone() for name, p in net.named_parameters()}
    made = scaled(tmp_path, 3e38)
    penalty = Penalty(lambda net: 100 * pruning.gates(net)["1"].loc.sum())
    made.fit(net, images, images, FIT, "base", penalty=penalty)
    assert made.accelerator.scaler.get_scale() < 3e38  # so some steps were left out
    assert all(bool(p.isfinite().all()) for p in net.parameters())
    assert not any(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_loss_scaling_that_finds_no_scale_is_an_error(tmp_path: Path, images: Images) -> None:
    penalty = Penalty(lambda net: Wild.apply(pruning.gates(net)["1"].loc))
    message = r"gradient of the loss is not finite at step 33 .*with whatever scale \(it went down to 8e-06\).*bf16"
    with pytest.raises(NonFiniteLoss, match=message):
        scaled(tmp_path, 2.0**16).fit(gated(images), images, images, Fit(7, 16), "prune", penalty=penalty)


def processes(rank: int, firsts: list[int]) -> Any:
    """An accelerator of three processes that answers what they would, 50 steps at a time as on a GPU."""
    layout = {"device": torch.device("meta"), "scaler": None, "sync_gradients": True, "num_processes": 3}
    return SimpleNamespace(**layout, process_index=rank, gather=lambda mine: torch.tensor(firsts))


def test_the_process_and_the_step_are_named_where_looks_are_rare() -> None:
    watch = Watch(processes(1, [50, 7, 8]), "base", steps_per_epoch=20)
    net, x = nn.Linear(2, 1), torch.ones(1, 2)
    for step in range(100, 149):
        watch.step(step, torch.tensor(math.nan if step >= 107 else 1.0), x, net)
    message = r"the loss is not finite at step 107 of stretch 'base' \(epoch 6, process 1 of 0 to 2\)"
    with pytest.raises(NonFiniteLoss, match=message):
        watch.step(149, torch.tensor(1.0), x, net)
    watch = Watch(processes(1, [50, 50, 50]), "base", steps_per_epoch=20)
    for step in range(200):
        watch.step(step, torch.tensor(1.0), x, net)


# --- precision -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("convert", [nn.Module.half, nn.Module.bfloat16, lambda net: net.to(torch.bfloat16)])
def test_gates_stay_in_float32(images: Images, convert: Callable[[nn.Module], nn.Module]) -> None:
    net = gated(images)
    gate = pruning.gates(net)["1"]
    gate.loc.data.copy_(torch.linspace(-1, 0, 8) / 3)
    before = gate.loc.detach().clone()
    convert(net)
    assert {p.dtype for p in gate.parameters()} == {torch.float32}
    assert torch.equal(gate.loc, before)
    dtype = net[1].weight.dtype
    assert dtype in (torch.float16, torch.bfloat16)
    x = images.float_batch(slice(0, 16)).to(dtype)
    assert net.train()(x).dtype == dtype
    assert pruning.kl(net).dtype == torch.float32
    gate.loc.data[2:] = -5.0
    gate.log_scale.data[2:] = 3.0
    plan = pruning.plan(net, x)
    assert plan.widths["1"] == (2, 8)
    small = pruning.shrink(net, plan, x)
    assert small[1].weight.dtype == dtype
    assert torch.equal(small.eval()(x), pruning.masked(net, plan).eval()(x))
    net.double()
    assert {p.dtype for p in gate.parameters()} == {torch.float64}


def test_gates_of_a_network_in_bfloat16_learn(images: Images) -> None:
    """Steps of 1e-3 are lost in bfloat16, whose numbers next to -5 are 0.03 apart."""
    net = gated(images).bfloat16()
    gate = pruning.gates(net)["1"]
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=1e-4, gate_lr=1e-3))
    for _ in range(10):
        optimizer.zero_grad()
        pruning.kl(net).backward()
        optimizer.step()
    assert torch.allclose(gate.log_scale, torch.tensor(-5.0 + 0.01), atol=1e-3)


@pytest.mark.parametrize("name", ["loc", "log_scale"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -1e30])
def test_a_gate_that_exploded_decides_nothing(tmp_path: Path, images: Images, name: str, value: float) -> None:
    net, x = gated(images), images.float_batch(slice(0, 4))
    pruning.gates(net)["1"].loc.data[0] = -0.1
    plan = pruning.plan(net, x)
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=1e-3))
    getattr(pruning.gates(net)["1"], name).data[5] = value
    message = rf'{name}\[5\] of the gate "1" is {value:g}: the noise has exploded'.replace("+", r"\+")
    for use in (
        lambda: pruning.plan(net, x),
        lambda: pruning.masked(net, plan),
        lambda: pruning.shrink(net, plan, x),
        lambda: pruning.shrink(net, plan, x, optimizer=optimizer),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    what = message.partition(":")[0]
    with pytest.raises(dither.CheckpointError, match=rf"cannot save .*net.safetensors: {what}, the noise"):
        dither.save(net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
