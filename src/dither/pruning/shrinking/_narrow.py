"""Cut channels out of a network whose gates stay."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..cutting._cut import Kept, cut
from ..noise._gates import Bank, GatedWeight, find_bank, gated_weights, hang, restore


@contextmanager
def gates_aside(net: nn.Module, kept: Kept, units: Mapping[str, Sequence[int]] | None) -> Generator[None]:
    """While the context is open the weights are plain; afterwards the gates are back, as narrow as the weights.

    A network without gates passes through.

    Args:
        net: The network, changed in place.
        kept: What is cut out of the plain tensors meanwhile.
        units: The units that stay, for each gate that loses some.

    Raises:
        ValueError: If ``units`` names a gate or a unit that is not there, or is missing.
    """
    bank = find_bank(net)
    if bank is None:
        yield
        return
    if units is None:
        raise ValueError("the record is of a network without noise; give the model without pruning.attach.")
    for name, index in units.items():
        if name not in bank.layers or not 0 <= min(index, default=-1) <= max(index) < bank.layers[name].num_features:
            raise ValueError(f'the record keeps units of the gate "{name}" that the model does not have.')
    paths = {id(module): path for path, module in net.named_modules()}
    aside: list[tuple[str, str, GatedWeight, Tensor]] = []
    for module, attribute, gated in gated_weights(net):
        chains: Any = module.parametrizations
        if len(chains[attribute]) > 1:
            raise ValueError(
                f"{attribute} of {module} carries another parametrization beside its gate; remove that first."
            )
        aside.append((paths[id(module)], attribute, gated, chains[attribute].original))
        restore(module, attribute, chains[attribute].original)
    names = {id(tensor): name for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    yield
    place = _places(bank, units)
    for path, attribute, gated, original in aside:
        columns = kept.get(names[id(original)], {}).get(gated.shape.index(-1))
        here = gated.index if columns is None else gated.index[:, columns.to(gated.index.device)]
        gated.index = place.to(here.device)[here]
        if bool((gated.index < 0).any()):
            raise ValueError(f'the record drops noise of columns of "{path}.{attribute}" that it keeps.')
        module = net.get_submodule(path)
        modes = [(part, part.training) for part in gated.modules()]
        hang(module, attribute, gated)
        chains = module.parametrizations
        chains.training = module.training
        for part, mode in modes:  # a gate may be frozen
            part.training = mode


def _places(bank: Bank, units: Mapping[str, Sequence[int]]) -> Tensor:
    """Narrow the gates of ``bank``, in place; where each position of the old θ is in the new one."""
    places: list[Tensor] = []
    begin = 0
    for name, layer in bank.layers.items():
        stays = torch.tensor(units.get(name, range(layer.num_features)), dtype=torch.int64)
        place = torch.full((layer.num_features,), -1)
        place[stays] = begin + torch.arange(len(stays))
        places.append(place)
        begin += len(stays)
        if name in units:
            cut(layer, {"loc": {0: stays}, "log_scale": {0: stays}})
    return torch.cat([*places, torch.tensor([begin])])
