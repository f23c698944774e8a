"""Which forward pass of the root a draw belongs to: checkpointed blocks, passes that wait, replicas, wrappers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dither import pruning


class Blocks(nn.Module):
    """Two blocks, checkpointed or not; what the second one gave stays behind as ``seen``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 5))
        self.again = self.side = False
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.again:
            self.seen = self.b(self.a(x))
        else:
            self.seen = checkpoint(self.b, checkpoint(self.a, x, use_reentrant=False), use_reentrant=False)
        return self.seen.detach() if self.side else self.seen


X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(4, 5)


def noisy() -> Blocks:
    net = pruning.attach(Blocks().double(), X).train()
    for gate in pruning.gates(net).values():
        nn.init.constant_(gate.log_scale, -1.0)
    assert isinstance(net, Blocks)
    return net


def joint(net: Blocks) -> None:
    (net(X).square().sum() + net(2 * X).sum()).backward()


def in_order(net: Blocks) -> None:
    first, second = net(X).square().sum(), net(2 * X).sum()
    first.backward()
    second.backward()


def in_reverse(net: Blocks) -> None:
    first, second = net(X).square().sum(), net(2 * X).sum()
    second.backward()
    first.backward()


def chained(net: Blocks) -> None:
    net(net(X)).square().sum().backward()


def measured_between(net: Blocks) -> None:
    loss = net(X).square().sum()
    with torch.no_grad():
        net.eval()(X)
    net.train()
    loss.backward()


@pytest.mark.parametrize("steps", [joint, in_order, in_reverse, chained, measured_between])
def test_a_checkpointed_block_is_computed_again_with_the_noise_of_its_own_pass(steps: Callable[[Blocks], None]) -> None:
    net = noisy()
    found: list[dict[str, Tensor]] = []
    for net.again in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        steps(net)
        found.append({name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None})
    assert found[0].keys() == dict(net.named_parameters()).keys()
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_loss_beside_the_output_works_for_one_pass_at_a_time() -> None:
    net = noisy()
    net.side = True
    found: list[list[Tensor]] = []
    for net.again in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        for x in (X, 2 * X):
            net(x)
            net.seen.square().sum().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_pass_that_cannot_be_told_is_an_error() -> None:
    net = noisy()
    net.side = net.again = True
    net(X)
    loss = net.seen.sum()
    net(2 * X)
    with pytest.raises(RuntimeError, match="2 forward passes wait for their backward pass"):
        loss.backward()


def test_an_input_that_is_returned_collects_no_hooks() -> None:
    class Passes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, self.body(x)

    net = pruning.attach(Passes(), X.float()).train()
    x = X.float().requires_grad_()
    net(x)
    assert not x._backward_hooks


def test_replicas_of_dataparallel_are_refused() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), X.float())
    replica = net._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match=r"use torch\.nn\.parallel\.DistributedDataParallel"):
        replica(X.float())


def test_a_wrapper_is_looked_through() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), X.float())
    nn.init.constant_(pruning.gates(net)["0"].log_scale[:3], 3.0)
    wrapped = nn.DataParallel(net)
    assert list(pruning.gates(wrapped)) == ["0"]
    plan = pruning.plan(wrapped, X.float())
    assert plan == pruning.plan(net, X.float())
    assert plan.widths["0"] == (5, 8)
    small = pruning.shrink(wrapped, plan, X.float())
    assert isinstance(small, nn.Sequential)
    torch.testing.assert_close(small(X.float()), pruning.masked(wrapped, plan)(X.float()))
