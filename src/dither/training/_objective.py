"""The KL term of a run: by the factors of the recipe, or steered to a target."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .. import pruning
from ._engine import Penalty
from ._recipe import Noise


def make_penalty(net: nn.Module, noise: Noise, example: Tensor, num_data: int, steps: int) -> Penalty:
    """What the training under noise adds to the negative log-likelihood of an image.

    Args:
        net: the network with noise.
        noise: settings.
        example: images; a time is measured on as many.
        num_data: size N of the training set.
        steps: of the whole stretch.

    Returns:
        KL / N, weighted or steered.

    Raises:
        ValueError: If the settings name a gate that is not there, or the target is out of reach.
    """
    if noise.target is not None:
        target = pruning.Target(**noise.target)
        control = target.control(net, example, steps=steps, threshold=noise.threshold)
        return Penalty(lambda gated: control.kl(gated) / num_data, control=control)
    weights = _kl_weights(net, example, noise.kl_weights)
    scale = noise.kl_weight / num_data
    return Penalty(lambda gated: pruning.kl(gated, weights) * scale, noise.kl_warmup)


def _kl_weights(net: nn.Module, example: Tensor, weights: Mapping[str, float] | str | None) -> dict[str, float] | None:
    if weights == "macs":
        return pruning.mac_weights(net, example)
    if weights == "latency":
        return pruning.latency_weights(net, example)
    if weights == "sbpa":
        return pruning.sbpa_weights(net)
    if weights is None or isinstance(weights, str):
        return None
    names = pruning.gates(net)
    if unknown := sorted(set(weights) - names.keys()):
        raise ValueError(f"recipe: kl_weights names the gate {unknown[0]!r}; the gates are {', '.join(sorted(names))}")
    return dict(weights)
