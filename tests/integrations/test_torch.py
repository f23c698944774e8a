"""What torch itself offers around a loop: closures, averaged weights, clipping."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import swa_utils

from dither import pruning

X, Y = torch.linspace(-1, 1, 32 * 6).reshape(32, 6).sin(), torch.arange(32) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 4)]
    return pruning.attach(nn.Sequential(*layers), X)


def objective(net: nn.Module) -> Tensor:
    return F.cross_entropy(net(X), Y) + pruning.kl(net) / 1000


def train(net: nn.Module, steps: int = 5) -> nn.Module:
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=1e-2))
    for _ in range(steps):
        optimizer.zero_grad()
        objective(net).backward()
        optimizer.step()
    return net


def noise(net: nn.Module) -> list[nn.Parameter]:
    return [p for gate in pruning.gates(net).values() for p in gate.parameters()]


def test_a_closure_takes_the_step_of_a_loop() -> None:
    one, other = network(), network()
    first, second = (torch.optim.SGD(pruning.param_groups(net, lr=0.05), momentum=0.9) for net in (one, other))

    def closure() -> float:
        first.zero_grad()
        loss = objective(one)
        loss.backward()
        return float(loss.detach())

    torch.manual_seed(1)
    for _ in range(4):
        first.step(closure)
    torch.manual_seed(1)
    for _ in range(4):
        second.zero_grad()
        objective(other).backward()
        second.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_with_one_draw_for_all_calls_of_a_step(search: str | None) -> None:
    """A line search compares values: the closure seeds the noise, so that one step sees one function."""
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=5, line_search_fn=search)
    before = [p.detach().clone() for p in noise(net)]
    losses: list[list[float]] = []
    for step in range(3):
        losses.append([])

        def closure(step: int = step) -> Tensor:
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = objective(net)
            loss.backward()
            losses[-1].append(float(loss.detach()))
            return loss

        optimizer.step(closure)
    assert all(min(step[1:]) < step[0] for step in losses)
    assert all(not torch.equal(a, b) for a, b in zip(noise(net), before, strict=True))
    with torch.no_grad():
        pruning.gates(net)["3"].log_scale[:8] = 3.0
    plan = pruning.plan(net, X)
    with pytest.raises(ValueError, match=r"cannot be cut along.*clear it"):
        pruning.shrink(net, plan, X, optimizer=optimizer)
    small, fresh = pruning.shrink(net, plan, X, optimizer=torch.optim.LBFGS(net.parameters(), lr=0.5))
    fresh.step(lambda: objective(small))
    assert small[3].out_features == 8


@pytest.mark.parametrize("buffers", [False, True], ids=["parameters", "buffers too"])
@pytest.mark.parametrize("average", ["mean", 0.9, 0.9999])
def test_an_average_is_a_network_with_noise_of_its_own(average: str | float, buffers: bool) -> None:
    net = network()
    weights = {"avg_fn": None} if average == "mean" else {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(average)}
    ema = swa_utils.AveragedModel(net, use_buffers=buffers, **weights)
    kept: list[list[Tensor]] = []
    for _ in range(3):
        train(net)
        ema.update_parameters(net)
        kept.append([p.detach().clone() for p in net.parameters()])
    share = [1 / 3] * 3 if average == "mean" else [average**2, (1 - average) * average, 1 - average]
    expected = [sum(w * p for w, p in zip(share, ps, strict=True)) for ps in zip(*kept, strict=True)]
    for (name, p), value in zip(ema.module.named_parameters(), expected, strict=True):
        torch.testing.assert_close(p, value, rtol=1e-5, atol=1e-6, msg=name)  # loc and log_scale too
    theirs, ours = pruning.gates(ema.module), pruning.gates(net)
    assert theirs.keys() == ours.keys()
    assert not {id(p) for p in noise(ema)} & {id(p) for p in noise(net)}
    torch.manual_seed(2)
    expected_draw = copy.deepcopy(ema.module)(X)
    net.train()(X)  # a draw of the trained network changes nothing for the average
    torch.manual_seed(2)
    assert torch.equal(ema(X), expected_draw)


def test_indices_that_an_average_has_rounded_are_put_back() -> None:
    """What docs/integrations.md says: torch truncates the averages of integers, and the columns that are read move."""
    net = pruning.attach(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)), X, features=["0"])
    with torch.no_grad():
        pruning.gates(net)["0[in]"].log_scale[:3] = 3.0
    small = pruning.shrink(net, pruning.plan(net, X), X)
    assert isinstance(small[0], pruning.SelectedLinear)
    assert small[0].index.tolist() == [3, 4, 5]
    ema = swa_utils.AveragedModel(small, use_buffers=True, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        ema.update_parameters(small)
    assert not torch.equal(ema.module[0].index, small[0].index)
    for a, b in zip(ema.module.buffers(), small.buffers(), strict=True):
        a.is_floating_point() or a.copy_(b)
    assert torch.equal(ema.module[0].index, small[0].index)
    torch.testing.assert_close(ema(X), small(X))


def test_an_average_is_planned_and_shrunk() -> None:
    net = network()
    ema = swa_utils.AveragedModel(net, use_buffers=True, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        with torch.no_grad():
            for gate in pruning.gates(net).values():
                gate.log_scale[::2] = 3.0
        train(net)
        ema.update_parameters(net)
    plan = pruning.plan(ema.module, X)
    small = pruning.shrink(ema.module, plan, X)
    assert [small[i].out_features for i in (0, 3)] == [12, 8]
    torch.testing.assert_close(small.eval()(X), pruning.masked(ema.module, plan).eval()(X))
    net, _ = pruning.shrink(net, pruning.plan(net, X), X, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    again = swa_utils.AveragedModel(net)  # the one from before has other shapes
    train(net)
    again.update_parameters(net)
    assert pruning.plan(again.module, X).widths["0"] == (12, 12)


def test_update_bn_sees_the_noise_and_belongs_behind_the_removal() -> None:
    """It runs in train mode: with gates it measures the noisy network, on the shrunk one the network that is used."""
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16, bias=False), nn.BatchNorm1d(16), nn.Linear(16, 4)]
    net = train(pruning.attach(nn.Sequential(*layers), X), 20)
    with torch.no_grad():
        pruning.gates(net)["0"].log_scale[::2] = 3.0
    ema = swa_utils.AveragedModel(net)
    loader, bn = [X[:16], X[16:]], ema.module[3]
    swa_utils.update_bn(loader, ema.eval())
    small = pruning.shrink(ema.module, pruning.plan(ema.module, X), X)
    noisy = small[3].running_mean.clone()
    swa_utils.update_bn(loader, small)
    means = torch.stack([small[2](small[1](small[0](batch))).mean(0) for batch in loader]).mean(0).detach()
    torch.testing.assert_close(small[3].running_mean, means, rtol=1e-4, atol=1e-5)
    assert float((noisy - means).abs().max()) > 0.02
    assert bn.momentum == small[3].momentum == 0.1
    assert not ema.training


@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipping_reaches_the_noise(clip: object) -> None:
    net = network()
    (objective(net) * 1e3).backward()
    before = [p.grad.clone() for p in net.parameters()]
    norm = torch.stack([g.norm() for g in before]).norm()
    assert float(torch.stack([p.grad.norm() for p in noise(net)]).norm()) > 1
    clip(net.parameters(), 0.5)
    for p, was in zip(net.parameters(), before, strict=True):
        expected = was * (0.5 / norm) if clip is nn.utils.clip_grad_norm_ else was.clamp(-0.5, 0.5)
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-8)
