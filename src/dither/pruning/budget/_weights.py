"""Factors on the KL of each gate: what a unit costs is what it has to be worth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..._inputs import Inputs
from ..._processes import decided, unwrapped
from ..cutting._cut import twin
from ..cutting._plain import replace_module
from ..labels import analyse
from ..measuring._latency import seconds_by_width, seconds_of_tensors
from ..noise._gates import gates, ungate
from ._price import price
from ._units import Units

RESOLUTION = 0.01  # of the dearest unit: time differences below it are noise of the measurement


def sbpa_weights(net: nn.Module) -> dict[str, float]:
    """KL weights of the paper's SBPa, "for speed": 10, 10, 5, 5, then 1, in the order of the forward pass.

    Source: the authors' CIFAR-10 settings. `mac_weights` measures what these guess.

    Example:
        >>> from dither.pruning import LogNormalNoise
        >>> sbpa_weights(nn.Sequential(LogNormalNoise(4), nn.Linear(4, 2)))
        {'0': 10.0}
    """
    return {name: (10.0, 10.0, 5.0, 5.0)[i] if i < 4 else 1.0 for i, name in enumerate(gates(net))}


def mac_weights(net: nn.Module, example_inputs: Inputs) -> dict[str, float]:
    """KL weights proportional to the multiply-accumulates that one channel costs; the cheapest unit has weight 1.

    A channel costs its share of every convolution and linear layer that writes or reads it.

    Args:
        net: What `attach` returned.
        example_inputs: As for `attach`.

    Returns:
        One factor for each gate, by name, for `kl`.

    Raises:
        ValueError: If the network carries no gates.

    Example:
        >>> from dither.pruning import attach
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> mac_weights(net, torch.zeros(1, 8))
        {'0': 1.0}
    """
    costs = price(net, example_inputs, "macs").per_unit()
    return relative({name: max(costs.get(name, 0.0), 1.0) for name in gates(net)})


def latency_weights(net: nn.Module, example_inputs: Inputs) -> dict[str, float]:
    r"""KL weights proportional to the time that one channel costs, as measured here; the cheapest unit has weight 1.

    .. math:: w_g \propto \frac{t_g(n_g) - t_g(n_g / 2)}{n_g / 2}

    t_g(n) are the seconds that the layers around the channels of gate g take when n of them are there. SBPa, "for
    speed", in the paper sets such factors by hand. What takes no measurable time gets 1 % of the dearest unit's weight.

    Args:
        net: What `attach` returned, on the device where it is to be fast.
        example_inputs: Inputs with the batch size at which it is to be fast.

    Returns:
        One factor for each gate, by name, for `kl`. Measured, so no two calls agree to the last digit; of several
        processes, which all call this, the first one measures.

    Raises:
        ValueError: If the network carries no noise.
        RuntimeError: If the first of several processes failed.

    Example:
        >>> from dither.pruning import attach
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> latency_weights(net, torch.zeros(64, 8))
        {'0': 1.0}
    """
    if not gates(net):
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) first.")
    return decided(lambda: _latency_weights(unwrapped(net), example_inputs))


def _latency_weights(net: nn.Module, example_inputs: Inputs) -> dict[str, float]:
    plain = ungate(twin(net))
    analysis = analyse(plain, example_inputs)
    units = Units.of(net, analysis)
    for noise in gates(plain).values():
        replace_module(plain, noise, nn.Identity())
    costs = dict.fromkeys(gates(net), 0.0)
    for space in (s for s in analysis.spaces if s.name in units.parts):
        half = max(space.size // 2, 1)
        alone = {space.name: (space, torch.arange(space.size))}
        narrow, wide = seconds_by_width(plain, example_inputs, alone, space.name, [half, space.size])
        for gate in units.gates[space.name]:
            costs[gate] += (wide - narrow) / (space.size - half)
    columns = [name for name in units.parts if name.endswith("[in]")]
    if columns:
        spent, _ = seconds_of_tensors(plain, example_inputs)
        for name in columns:
            costs[name] = spent.get(f"{name.removesuffix('[in]')}.weight", 0.0) / len(units.gates[name][name])
    return relative({name: max(cost, RESOLUTION * max(costs.values()), 1e-12) for name, cost in costs.items()})


def relative(costs: Mapping[str, float]) -> dict[str, float]:
    """Costs as multiples of the smallest.

    Example:
        >>> relative({"conv": 6.0, "fc": 2.0})
        {'conv': 3.0, 'fc': 1.0}
    """
    cheapest = min(costs.values())
    return {name: cost / cheapest for name, cost in costs.items()}
