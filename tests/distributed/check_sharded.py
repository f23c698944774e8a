"""What each process does with a network under noise that FSDP2 has sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from dither import pruning
from tests.distributed.check_pruning import EXAMPLE, STEPS, Net, X, make_net, make_optimizer, step


def shard(net: Any) -> nn.Module:
    """A unit for each layer, as usual: the gates of a layer's channels are in the unit of its reader."""
    for name in ("conv", "mid", "out"):
        fully_shard(getattr(net, name))
    return fully_shard(net)


def whole_state(net: nn.Module) -> dict[str, Tensor]:
    return get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))


def trained(rank: int, world: int) -> nn.Module:
    net = shard(make_net())
    optimizer = make_optimizer(net)
    torch.manual_seed(0)
    for number in range(STEPS):
        step(net, optimizer, number, rank, world)
    return net


def train(rank: int, world: int) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in whole_state(trained(rank, world)).items()}


def train_root_only(rank: int, world: int) -> dict[str, Tensor]:
    """One unit: the gates are whole while the draw is made."""
    net: Any = fully_shard(make_net())
    optimizer = make_optimizer(net)
    torch.manual_seed(0)
    for number in range(STEPS):
        step(net, optimizer, number, rank, world)
    return {name: tensor.clone() for name, tensor in whole_state(net).items()}


def shards(rank: int, world: int) -> dict[str, int]:
    """Rows of a gate in each process."""
    gate: Any = pruning.gates(shard(make_net()))["mid"].loc
    return {"own": len(gate.to_local()), "all": len(gate)}


def evaluate(rank: int, world: int) -> Tensor:
    return trained(rank, world).eval()(X[0]).detach()


def plan_sharded(rank: int, world: int) -> str:
    return repr(pruning.plan(shard(make_net()), EXAMPLE))


def shrink_sharded(rank: int, world: int) -> str:
    net = make_net()
    return repr(pruning.shrink(shard(make_net()), pruning.plan(net, EXAMPLE), EXAMPLE))


def attach_sharded(rank: int, world: int) -> str:
    return repr(pruning.attach(fully_shard(Net().double()), EXAMPLE))


def plan_whole(rank: int, world: int) -> dict[str, Any]:
    """The way that the error names."""
    net = make_net()
    net.load_state_dict(whole_state(trained(rank, world)))
    plan = pruning.plan(net, EXAMPLE)
    return {"widths": repr(plan.widths), "out": pruning.shrink(net, plan, EXAMPLE)(X[0]).detach()}


CHECKS: dict[str, Callable[[int, int], Any]] = {
    "sharded, train": train,
    "sharded, root only": train_root_only,
    "sharded, shards": shards,
    "sharded, evaluate": evaluate,
    "sharded, plan": plan_sharded,
    "sharded, shrink": shrink_sharded,
    "sharded, attach": attach_sharded,
    "sharded, plan whole": plan_whole,
}
