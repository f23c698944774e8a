"""In place, the network and the optimizer are what shrink returns, and stay the objects that they are."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from dither import pruning
from dither.integrations import restructure_, shrink_

X = torch.zeros(2, 6)


class Bare(nn.Module):
    """A root with parameters of its own: its class changes with the gates."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(torch.relu(self.first(x)), self.weight)


def drowned(model: nn.Module) -> nn.Module:
    net = pruning.attach(model, X)
    with torch.no_grad():
        for gate in pruning.gates(net).values():
            gate.log_scale[::3] = 3.0
    return net


def train(net: nn.Module, optimizer: Optimizer, steps: int, seed: int = 0) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(torch.randn(4, 6)).square().mean() + pruning.kl(net) / 100).backward()
        optimizer.step()


def models() -> list[nn.Module]:
    chain = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 9), nn.Tanh(), nn.Linear(9, 4))
    return [chain, Bare()]


@pytest.mark.parametrize("which", [0, 1], ids=["chain", "bare"])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_it_is_what_shrink_returns(which: int, kind: type[Optimizer]) -> None:
    net = drowned(models()[which])
    optimizer = kind(pruning.param_groups(net, lr=1e-2), lr=1e-2)
    train(net, optimizer, 3)
    other, theirs = copy.deepcopy((net, optimizer))
    plan = pruning.plan(other, X)
    other, theirs = pruning.shrink(other, plan, X, optimizer=theirs)
    weight, root = net.get_parameter("first.weight" if which else "0.weight"), net
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.1)
    assert shrink_(net, X, optimizer).widths == plan.widths
    assert net is root
    assert scheduler.optimizer is optimizer
    assert net.get_parameter("first.weight" if which else "0.weight") is not weight
    train(net, optimizer, 3, seed=1)
    train(other, theirs, 3, seed=1)
    for (name, a), b in zip(net.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
    scheduler.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-2])
    again = pruning.shrink(net, pruning.plan(net, X), X)  # what became of it is an attached network like any other
    assert not pruning.gates(again)
    assert json.loads(json.dumps(again.dither_shrunk))["before"]


def test_nothing_is_touched_where_nothing_goes() -> None:
    net = pruning.attach(models()[0], X)
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer, 1)
    before = list(net.parameters())
    plan = shrink_(net, X, optimizer)
    assert all(kept == total for kept, total in plan.widths.values())
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))


def test_nothing_is_touched_after_an_error() -> None:
    net = drowned(models()[0])
    before = list(net.parameters())
    with pytest.raises(ValueError, match="trains no parameter"):
        shrink_(net, X, torch.optim.Adam(models()[0].parameters()))
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))


def test_what_wraps_the_forward_pass_stays() -> None:
    """Accelerate's autocast is a ``forward`` on the object; the removal is verified without it."""
    net = drowned(models()[0])
    calls: list[int] = []
    bare = net.forward
    net._original_forward = bare

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        with torch.autocast("cpu", torch.bfloat16):
            return bare(x).float()

    net.forward = forward
    shrink_(net, X, torch.optim.Adam(net.parameters()))
    assert not calls
    assert net.forward is forward
    assert net(X).shape == (2, 4)
    assert len(calls) == 1
    assert net[0].out_features == 10


def test_a_checkpoint_after_a_removal_loads_into_a_fresh_network() -> None:
    net = drowned(models()[0])
    fresh = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    restructure_(fresh, None)  # from before a removal: nothing to do
    for seed in (0, 1):
        train(net, optimizer, 2, seed)
        shrink_(net, X, optimizer)
        with torch.no_grad():
            pruning.gates(net)["0"].log_scale[0] = 3.0
    record = json.loads(json.dumps(net.dither_shrunk))
    assert record["before"]
    restructure_(fresh, record)
    fresh.load_state_dict(net.state_dict())
    assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in net.named_parameters()]
    again = torch.optim.Adam(fresh.parameters(), lr=1e-2)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # state dicts share tensors
    train(net, optimizer, 2)
    train(fresh, again, 2)
    for (name, a), b in zip(net.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
    restructure_(fresh, record)  # it has this structure: nothing to do
    for other in (None, {**record, "before": None}):
        with pytest.raises(ValueError, match="has lost other channels"):
            restructure_(fresh, other)
