"""masked: carry a plan out at full size, with zeros; and the proof that a smaller network is the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..._inputs import Inputs, evaluating, tensors, varied, with_batch
from ..._processes import unwrapped
from ..cutting._cut import Kept, ShrinkError, difference, run
from ..cutting._plain import FixedScale, replace_module
from ..noise._gates import find_bank, gated_weights, gates, ungate
from ..planning._decision import check
from ..planning._plan import Plan


def masked(net: nn.Module, plan: Plan) -> nn.Module:
    """The network that ``plan`` means, at full size: Eθ where it keeps, zeros where it drops.

    What `shrink` must equal. Plain layers: the means are multiplied into the weights that read the channels.

    Args:
        net: The network that the plan was made for.
        plan: What `plan` returned.

    Returns:
        A new module without noise.

    Raises:
        ValueError: If the plan was made for another network, or was edited to keep or remove what it cannot.
    """
    net = unwrapped(net)
    return baked(net, means(net, plan))


def means(net: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """For each layer of noise, by its name in `gates`: Eθ where the plan keeps, zeros where it drops.

    Raises:
        ValueError: If the plan was made for another network, or was edited to keep or remove what it cannot.
    """
    check(net, plan)
    kept = {**{c.name: c.kept for c in (*plan.spaces, *plan.columns)}, **plan.sites}
    return {name: mean_theta(layer, kept[name]) for name, layer in gates(net).items()}


def baked(net: nn.Module, theta: Mapping[str, Tensor]) -> nn.Module:
    """A copy without noise: each layer of noise, by its name in `gates`, at the given values."""
    plain = fixed(copy.deepcopy(net), theta)
    bank = find_bank(plain)
    return plain if bank is None else ungate(plain, bank.fixed)


def fixed(net: nn.Module, theta: Mapping[str, Tensor]) -> nn.Module:
    """``net``, in place, with each layer of noise at the given values; gates multiply wherever a weight is read.

    Of a `twin`, this is a network at full size that computes what the copy of `baked` computes and takes no memory.
    """
    bank = find_bank(net)
    if bank is not None:
        values = [theta[name] for name in bank.layers]
        bank.fixed = torch.cat([*values, values[0].new_ones(1)])
    for name, layer in gates(net).items():
        if bank is None or name not in bank.layers:
            replace_module(net, layer, FixedScale(theta[name], layer.dim))
    return net


@torch.no_grad()
def fold_gates(small: nn.Module, net: nn.Module, kept: Kept, theta: Mapping[str, Tensor]) -> None:
    """Multiply the gates of ``net`` into the weights of ``small``, in place, which is ``net`` after the cut."""
    bank = find_bank(net)
    if bank is None:
        return
    values = [theta[name] for name in bank.layers]
    every = torch.cat([*values, values[0].new_ones(1)])
    paths = {id(module): path for path, module in net.named_modules()}
    done: set[int] = set()
    for module, name, gate in gated_weights(net):
        path = paths[id(module)]
        weight = getattr(small.get_submodule(path), name)
        if id(weight) not in done:  # a tied weight has a gate for each holder
            dims = kept.get(f"{path}.{name}".lstrip("."), {})
            weight.mul_(gate.factor(every, dims.get(gate.shape.index(-1))).to(weight.dtype))
            done.add(id(weight))


@torch.no_grad()
def mean_theta(layer: Any, kept: tuple[int, ...]) -> Tensor:
    """Eθ at the indices ``kept`` and 0 elsewhere."""
    mean = layer.distribution.mean
    index = torch.tensor(kept, dtype=torch.int64, device=mean.device)
    return torch.zeros_like(mean).index_copy_(0, index, mean[index])


@dataclass(frozen=True)
class Answers:
    """What a network returns, for another one to be compared with.

    Where they are asked for before the other one is made, the work of the two is never in memory at once.
    """

    net: nn.Module
    batches: list[Inputs]
    outputs: list[Any]

    @classmethod
    def of(cls, net: nn.Module, example_inputs: Inputs) -> Answers:
        """On the example inputs and, where the network runs on it, on another batch size."""
        rows = next((len(t) for t in tensors(example_inputs) if t.ndim), 0)
        batches, outputs = [example_inputs], list[Any]()
        with evaluating(net):
            outputs.append(run(net, example_inputs))
            for batch in (varied(example_inputs), with_batch(varied(example_inputs), rows + 1)):
                with suppress(Exception):  # it is the user's code that runs: a mask may fit one batch size only
                    outputs.append(run(net, batch))
                    batches.append(batch)
        return cls(net, batches, outputs)


def verify(answers: Answers, small: nn.Module) -> None:
    """Compare a network with the answers of another one.

    Raises:
        ShrinkError: If their outputs differ by more than the tolerance of the dtype.
    """
    worst = difference(answers.net, small, answers.batches, answers.outputs)
    if not worst <= 1:
        raise ShrinkError(
            f"the shrunk network differs from the masked one by {worst:.3g} times the tolerance; nothing was returned. "
            "Leave the layers of the plan out one by one with attach(skip=[...]) to find the one to blame."
        )
