"""The KL term of the objective, and what to train with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ...distributions import LogUniform
from ._gates import gates
from ._noise import posterior


def kl(net: nn.Module, weights: Mapping[str, float] | None = None) -> Tensor:
    r"""KL divergence of all noise in ``net`` from its log-uniform prior, **summed** over units.

    .. math:: \sum_g w_g \sum_{i \in g} KL\big(q(\theta_{g,i}) \,\|\, \mathrm{LogUniform}[a, b]\big)

    The objective for one example is ``F.cross_entropy(net(x), y) + kl(net) / num_data``; divide by the size of the data
    set and by nothing else. One vectorised call for the whole network.

    Source: Neklyudov et al. 2017, equation 9 and section 3.

    Args:
        net: A network with noise; wrappers such as DistributedDataParallel are looked through.
        weights: Factor for each gate by its name in `gates`; 1 for those that are not named. See `mac_weights`,
            `latency_weights`, `sbpa_weights`.

    Returns:
        A scalar in nats, differentiable in the parameters of the noise.

    Raises:
        ValueError: If the network carries no noise or ``weights`` names a gate that is not there.

    Example:
        >>> from dither.pruning import LogNormalNoise
        >>> round(kl(nn.Sequential(LogNormalNoise(1))).item(), 3)
        7.27
    """
    named = gates(net)
    if not named:
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) first.")
    if unknown := set(weights or ()) - named.keys():
        raise ValueError(f"weights names {sorted(unknown)}, but the gates are {sorted(named)}.")
    layers = list(named.values())
    q = posterior(layers)
    terms = kl_divergence(q, LogUniform(q.log_low, q.log_high, validate_args=False))
    if not weights:
        return terms.sum()
    factors = torch.tensor([float(weights.get(name, 1.0)) for name in named], dtype=terms.dtype, device=terms.device)
    sizes = torch.tensor([layer.num_features for layer in layers], device=terms.device)
    return (terms * factors.repeat_interleave(sizes)).sum()  # no product of vectors: autocast would round it


def param_groups(
    net: nn.Module, lr: float, gate_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Two parameter groups for any `torch.optim` optimizer: the weights, and the noise, which learns faster.

    Args:
        net: A network with noise.
        lr: Learning rate of the weights.
        gate_lr: Learning rate of the noise; ``10 * lr``, the authors' choice, if None.
        weight_decay: Of the weights. Noise never decays: its prior is the KL term.

    Returns:
        ``[{"params": weights, ...}, {"params": noise, ...}]``; parameters that need no gradient are left out.

    Raises:
        ValueError: If the network carries no noise.

    Example:
        >>> from dither.pruning import LogNormalNoise
        >>> net = nn.Sequential(nn.Linear(2, 4), LogNormalNoise(4), nn.Linear(4, 2))
        >>> [group["lr"] for group in param_groups(net, lr=1e-3)]
        [0.001, 0.01]
    """
    layers = gates(net).values()
    if not layers:
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) first.")
    noise = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    known = {id(p) for p in noise}
    rest = [p for p in net.parameters() if p.requires_grad and id(p) not in known]
    return [
        {"params": rest, "lr": lr, "weight_decay": weight_decay},
        {"params": noise, "lr": 10 * lr if gate_lr is None else gate_lr, "weight_decay": 0.0},
    ]
