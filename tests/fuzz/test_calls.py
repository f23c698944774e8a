"""A few networks of `python -m tests.fuzz.calls` with fixed seeds, and what its long runs have found."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import dither
from dither import batchnorm, pruning
from tests.fuzz import calls
from tests.fuzz.networks import Recurrent

EXAMPLES = 16


def test_public_functions_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counter[str]()
    monkeypatch.setattr(calls, "COUNTS", counts)
    run_state_machine_as_test(calls.Calls, settings=settings(calls.HOW, max_examples=EXAMPLES))
    assert min(counts[name] for name in ("attach", "plan", "shrink", "convert", "fit", "load", "predict")) > 0


def test_a_call_that_changes_what_it_was_given_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = pruning.attach

    def attach(net: nn.Module, *args: object, **options: object) -> nn.Module:
        made = honest(net, *args, **options)
        next(net.parameters()).requires_grad_(False)
        return made

    monkeypatch.setattr(pruning, "attach", attach)
    machine = calls.Calls()
    with pytest.raises(AssertionError, match=r"attach changed \['grad 0.weight'\]"):
        machine.start(calls.SUBJECTS[0], torch.float32, True, False, "", False, "attach")
    machine.teardown()


# ---- found by the long runs


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


def batches(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return list(torch.randn(48, 2, 4, 4).to(dtype).split(6))


@pytest.mark.parametrize(
    "moved", [nn.Module.double, nn.Module.bfloat16, lambda net: net.to("cpu")], ids=["double", "bf16", "to"]
)
@pytest.mark.filterwarnings("ignore:Nothing was learned")
def test_a_recurrent_network_with_noise_is_moved_and_copied(moved: object) -> None:
    net = moved(pruning.attach(Recurrent(), torch.randn(2, 3, 5)))
    x = torch.randn(2, 3, 5).to(net.head.bias.dtype)
    again = copy.deepcopy(net)
    assert torch.equal(again.eval()(x), net.eval()(x))
    net.train()(x).sum().backward()
    assert all(gate.loc.grad is not None for gate in pruning.gates(net).values())
    pruning.shrink(net, pruning.plan(net, x), x)


@pytest.mark.filterwarnings("ignore:Nothing was learned")
def test_a_recurrent_network_that_shrinks_while_it_trains_is_moved_and_copied() -> None:
    x = torch.randn(2, 3, 5)
    net = pruning.attach(Recurrent(), x)
    with torch.no_grad():
        pruning.gates(net)["before"].log_scale[:3] = 3.0
    optimizer = torch.optim.Adam(net.parameters())
    small, _ = pruning.shrink(net, pruning.plan(net, x), x, optimizer=optimizer)
    copy.deepcopy(small.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_a_fitted_network_in_half_precision_predicts(dtype: torch.dtype, affine: bool) -> None:
    """Its statistics are float32, its weights are not."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.Flatten(), nn.Linear(16, 3)).eval()
    net = batchnorm.convert(model)
    batchnorm.fit(net, batches())
    half = batchnorm.convert(model).to(dtype)
    batchnorm.fit(half, batches(dtype))
    for name, value in net[1].statistics.named_buffers():
        setattr(half[1].statistics, name, value)
    x, draws = torch.randn(5, 2, 4, 4), torch.Generator()
    exact = dither.predict(net, x, 3, generator=draws.manual_seed(1), max_batch=1)
    for rows in (None, 1, 3):
        found = dither.predict(half, x.to(dtype), 3, generator=draws.manual_seed(1), max_batch=rows)
        torch.testing.assert_close(found.probs.float(), exact.probs, rtol=0, atol=0.02)


@pytest.mark.parametrize("law", [batchnorm.Factorized(), batchnorm.Empirical(), batchnorm.Correlated(rank=2)], ids=str)
def test_a_fitted_network_that_shrinks_draws_what_its_masked_one_draws(law: batchnorm.Law, tmp_path: Path) -> None:
    net = batchnorm.convert(normed())
    batchnorm.fit(net, batches(), law=law)
    x = torch.randn(5, 2, 4, 4)
    noisy = pruning.attach(net, x)
    with torch.no_grad():
        pruning.gates(noisy)["0"].log_scale[:2] = 3.0
    plan = pruning.plan(noisy, x)
    small, whole = pruning.shrink(noisy, plan, x), pruning.masked(noisy, plan)
    assert small[1].statistics.loc_mean.shape == (1, 2)
    exact = batchnorm.Empirical in type(law).__mro__  # the others draw one number for each channel that is there
    samples = [dither.predict(n, x, 4, generator=torch.Generator().manual_seed(1)).probs for n in (small, whole)]
    assert not exact or torch.allclose(*samples, rtol=0, atol=1e-5)
    dither.save(small, tmp_path / "net.safetensors")
    again = dither.load(batchnorm.convert(normed()), tmp_path / "net.safetensors")
    assert torch.equal(dither.predict(again, x, 4, generator=torch.Generator().manual_seed(1)).probs, samples[0])


def test_a_fitted_network_in_another_dtype_comes_back(tmp_path: Path) -> None:
    net = batchnorm.convert(normed())
    batchnorm.fit(net, batches())
    net.double()
    dither.save(net, tmp_path / "net.safetensors")
    again = dither.load(batchnorm.convert(normed()), tmp_path / "net.safetensors")
    other = copy.deepcopy(net)
    other.load_state_dict(net.state_dict())
    for made in (again, other):
        assert {n: t.dtype for n, t in made.state_dict().items()} == {n: t.dtype for n, t in net.state_dict().items()}


def test_a_shrunk_network_with_noise_again_that_shrinks_while_it_trains_comes_back(tmp_path: Path) -> None:
    x, noisy = torch.randn(4, 2, 4, 4), nn.Module()
    small = normed()
    for step in range(2):
        noisy = pruning.attach(small, x)
        with torch.no_grad():
            pruning.gates(noisy)["0"].log_scale[0] = 3.0
        plan = pruning.plan(noisy, x)
        if step == 0:
            small = pruning.shrink(noisy, plan, x)
            dither.save(small, tmp_path / "small.safetensors")
        else:
            noisy, _ = pruning.shrink(noisy, plan, x, optimizer=torch.optim.SGD(noisy.parameters(), 0.1))
    dither.save(noisy, tmp_path / "noisy.safetensors")
    fresh = pruning.attach(dither.load(normed(), tmp_path / "small.safetensors"), x)
    again = dither.load(fresh, tmp_path / "noisy.safetensors")
    assert again[0].weight.shape[0] == 2
    assert torch.equal(again.eval()(x), noisy.eval()(x))


def test_cost_inside_inference_mode() -> None:
    net = nn.Sequential(weight_norm(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 3))
    with torch.inference_mode():
        inside = dither.cost(net, torch.zeros(1, 5), batch_sizes=(1,), repeats=1)
        assert torch.is_inference_mode_enabled()
    assert inside.macs == dither.cost(net, torch.zeros(1, 5), batch_sizes=(1,), repeats=1).macs == 48
