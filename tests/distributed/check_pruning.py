"""What each process does with a network under noise: train, plan, shrink, go on. Also run alone, on all the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import dither
from dither import pruning

ROWS, STEPS = 12, 6  # rows of a whole batch: a multiple of every number of processes
X = torch.linspace(-1, 1, STEPS * ROWS * 6, dtype=torch.float64).sin().view(STEPS, ROWS, 1, 6)
Y = torch.arange(STEPS * ROWS).view(STEPS, ROWS) % 3
EXAMPLE = X[0, :1]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mid, self.out = nn.Conv1d(1, 8, 3), nn.Linear(32, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.mid(F.relu(self.conv(x)).flatten(1))))


def make_net() -> nn.Module:
    """Attached, in float64, with some units that are about to drown; the same in every process."""
    generator = torch.Generator().manual_seed(3)
    net = Net().double()
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.4, generator)
    net = pruning.attach(net, EXAMPLE).train()
    for gate in pruning.gates(net).values():
        nn.init.constant_(gate.log_scale, -2.0)
        nn.init.constant_(gate.log_scale[:3], 2.0)
    return net


def make_optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(pruning.param_groups(net, lr=1e-3, gate_lr=1e-2), betas=(0.95, 0.999))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int, rank: int, world: int) -> None:
    """On every ``world``-th row of a batch."""
    x, y = X[number, rank::world], Y[number, rank::world]
    loss = F.cross_entropy(net(x), y) + pruning.kl(net) / (STEPS * ROWS)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def parallel(net: nn.Module, world: int) -> nn.Module:
    return DistributedDataParallel(net) if world > 1 else net


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def trained(rank: int, world: int, seed: int = 0, steps: int = STEPS) -> nn.Module:
    """Under noise; with the same seed in every process the draw is shared."""
    net = make_net()
    wrapped, optimizer = parallel(net, world), make_optimizer(net)
    torch.manual_seed(seed)
    for number in range(steps):
        step(wrapped, optimizer, number, rank, world)
    return net


def train(rank: int, world: int) -> dict[str, Tensor]:
    return state(trained(rank, world))


def own_noise(rank: int, world: int) -> dict[str, Any]:
    net = trained(rank, world, seed=rank)
    return {"state": state(net), "draw": torch.rand(3)}


def plan(rank: int, world: int) -> str:
    """The first process decides, whatever threshold the others ask for."""
    net = trained(rank, world)
    return repr(pruning.plan(parallel(net, world), EXAMPLE, threshold=1.0 + rank).to_dict())


def target_plan(rank: int, world: int) -> str:
    return repr(pruning.Target(macs=0.5).plan(trained(rank, world), EXAMPLE, threshold=1.0 + rank).to_dict())


def control(rank: int, world: int) -> dict[str, Any]:
    """Measured times differ from process to process; what steers is what the first measured."""
    # Wide: whatever else the machine does, one unit in each layer takes far less time than all.
    x = torch.randn(64, 256)
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 2))
    steering = pruning.Target(latency=0.5).control(pruning.attach(model, x), x, steps=4)
    return {"full": steering.price.full, "weights": steering.weights}


def shrink_and_go_on(rank: int, world: int) -> dict[str, Any]:
    net = make_net()
    wrapped, optimizer = parallel(net, world), make_optimizer(net)
    for number in range(3):
        step(wrapped, optimizer, number, rank, world)
    decided = pruning.plan(wrapped, EXAMPLE)
    net, optimizer = pruning.shrink(wrapped, decided, EXAMPLE, optimizer=optimizer)
    wrapped = parallel(net, world)
    for number in range(3, STEPS):
        step(wrapped, optimizer, number, rank, world)
    small = pruning.shrink(wrapped, pruning.plan(wrapped, EXAMPLE), EXAMPLE)
    return {"widths": repr(decided.widths), "gated": state(net), "small": state(small), "out": small(X[0]).detach()}


def differs(rank: int, world: int) -> str:
    net = make_net()
    if rank == world - 1:
        with torch.no_grad():
            pruning.gates(net)["mid"].loc[2] += 1e-9
    return repr(pruning.plan(net, EXAMPLE))


def first_fails(rank: int, world: int) -> str:
    return repr(pruning.plan(make_net(), EXAMPLE if rank else EXAMPLE[..., :2]))


def alone(rank: int, world: int) -> str:
    """Only the first process plans; in the end all meet again."""
    found = ""
    if rank == 0:
        with dither.alone():
            found = repr(pruning.plan(trained(rank, 1, steps=1), EXAMPLE).widths)
    distributed.barrier()
    return found


CHECKS: dict[str, Callable[[int, int], Any]] = {
    "train": train,
    "own noise": own_noise,
    "plan": plan,
    "target plan": target_plan,
    "control": control,
    "shrink and go on": shrink_and_go_on,
    "differs": differs,
    "first fails": first_fails,
    "alone": alone,
}
