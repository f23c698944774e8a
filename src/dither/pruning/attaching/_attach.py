"""attach: put learned noise on every channel of a network that exists."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..._inputs import Inputs
from ..cutting._cut import ShrinkError, holders, twin
from ..labels import Analysis, Slot, Space, analyse
from ..noise._gates import Bank, GatedWeight, find_bank, forget, gates, hang, refresh
from ..noise._noise import LogNormalNoise
from ._accept import accepted, bake, parametrized, signature
from ._trial import fixed_by_code

ADVICE = "Where the code fixes a size, write one that follows the tensor, such as x.flatten(1) or x.view(len(x), -1)."


def attach(
    model: nn.Module, example_inputs: Inputs, *, skip: Collection[str] = (), features: bool | Collection[str] = False
) -> nn.Module:
    r"""A copy of ``model`` with learned log-normal noise on every channel that can be removed.

    Noise that a batch shares and that multiplies the input of a layer is noise on the columns of its weight,

    .. math:: W (\theta \circ x) = (W \operatorname{diag} \theta)\, x ,

    so every layer that reads a channel gets a `torch.nn.utils.parametrize` parametrization. Class, forward pass and
    module names stay the user's. Train the result with ``loss + pruning.kl(net) / num_data``.

    Parametrized tensors (weight norm, spectral norm) become plain parameters with the values that they have in eval
    mode. What `torch.compile` returned is unwrapped; compile the result again.

    A width that the code of the model holds on to is found by a trial: such channels stay whole, get no noise, and the
    plan names the module and the line.

    Source: Neklyudov et al. 2017; the noise of all gates is drawn in one call before each forward pass.

    Args:
        model: Any module. It is not changed.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments. The network is run on
            them to see which channels belong together; one example is enough, real shapes and dtypes matter.
        skip: Layers whose output channels get no noise, by module name (or the name of a parameter that is used
            without a layer). Channels that several layers write, a residual stream, are named by any of these.
        features: Noise on single input columns too: True for all linear layers that read network inputs or flattened
            channels (as in the paper's LeNets), or the names of linear layers.

    Returns:
        A new module of the same class, in the same mode, on the same device.

    Raises:
        ValueError: If the model is scripted, quantised, lazy or on the meta device, has complex or integer parameters
            or the old weight norm, carries noise already, does not run on the example inputs, or if ``skip`` or
            ``features`` names a layer that is not there.
        ShrinkError: If no channel can be removed (with the reason for each layer), or if two runs of the model differ,
            so that no removal could be verified.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> net = attach(model, torch.zeros(1, 8))
        >>> gates(net)
        {'0': LogNormalNoise(16, dim=1, threshold=1.0, bounds=(-20.0, 0.0))}
    """
    model = accepted(model)
    if found := gates(model):
        raise ValueError(
            f"the model carries noise already ({', '.join(found)}); attach to the model without it, or go on training."
        )
    names = {**dict(model.named_modules()), **dict(model.named_parameters())}
    for name in (*skip, *(features if not isinstance(features, bool) else ())):
        if name not in names:
            raise ValueError(f'the model has no layer "{name}"; it has {", ".join(n for n in names if n)}.')
    net = twin(model)  # a copy with parameters of its own comes last, when the memory of the trial is free again
    bake(net, baked := parametrized(net))
    try:
        analysis = analyse(net, example_inputs)
    except ValueError as error:
        raise ValueError(f"{error} The model is called as {signature(net)}.") from error
    chosen = [s for s in analysis.spaces if s.reason is None and not s.written_by(skip)]
    columns = column_layers(net, analysis, features)
    whole = fixed_by_code(net, chosen, example_inputs)
    if len(whole) == len(chosen) and not columns:
        spaces = tuple(replace(s, reason=s.reason or whole.get(s.name)) for s in analysis.spaces)
        advice = f"\n{ADVICE}" if whole else ""
        raise ShrinkError(f"no channel of this model can be removed:\n{replace(analysis, spaces=spaces)}{advice}")
    gated = _gate(copy.deepcopy(net), [s for s in chosen if s.name not in whole], columns, whole)
    cast(Bank, find_bank(gated)).baked = baked
    return gated


def column_layers(net: nn.Module, analysis: Analysis, features: bool | Collection[str]) -> list[str]:
    """The linear layers whose single input columns get noise."""
    if isinstance(features, bool):
        return list(analysis.columns) if features else []
    for name in features:
        layer = net.get_submodule(name)
        if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
            raise ValueError(f'features names "{name}", a {type(layer).__name__}; it can name nn.Linear layers only.')
    return list(features)


def _gate(net: nn.Module, spaces: list[Space], columns: list[str], whole: dict[str, str]) -> nn.Module:
    """Register the gates of ``spaces`` and ``columns`` on the weights that read them."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    make = {s.name: (s.size, tensors[s.readers[0][0]]) for s in spaces}
    weights = {name: tensors[f"{name}.weight"] for name in columns}
    make |= {f"{name}[in]": (weight.shape[1], weight) for name, weight in weights.items()}
    layers = {
        name: LogNormalNoise(size, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        for name, (size, like) in make.items()
    }
    bank = Bank(layers, whole)
    offsets = bank.offsets()
    last = sum(size for size, _ in make.values())
    factors: dict[Slot, dict[str, Tensor]] = {}
    for space in spaces:
        for slot in space.readers:
            at = space.slots[slot]
            factors.setdefault(slot, {})[space.name] = torch.where(at >= 0, at + offsets[space.name], last)
    for name in columns:
        own = f"{name}[in]"
        at = torch.arange(layers[own].num_features) + offsets[own]
        factors.setdefault((f"{name}.weight", 1), {})[own] = at

    placed: set[str] = set()
    held_by = holders(net)
    order = {m: [*m._parameters, *m._buffers] for m in net.modules()}  # pyright: ignore[reportPrivateUsage]
    for (name, dim), parts in factors.items():
        index = _merge(list(parts.values()), last).to(tensors[name].device)
        owned = {gate: layers[gate] for gate in parts if gate not in placed}
        placed |= owned.keys()
        for owner, attribute in held_by[id(tensors[name])]:
            weight = GatedWeight(bank, index, dim, tensors[name].ndim, owned, order[owner])
            hang(owner, attribute, weight)
            owner.get_submodule("parametrizations").train(owner.training)
            owned = {}
    for layer in [m for m in net.modules() if isinstance(m, nn.RNNBase) and parametrize.is_parametrized(m)]:
        layer.register_forward_pre_hook(refresh)
        layer.register_forward_hook(forget, always_call=True)
    net.register_forward_pre_hook(bank.enter)  # pyright: ignore[reportAttributeAccessIssue]
    net.register_forward_hook(bank.leave, always_call=True)  # pyright: ignore[reportAttributeAccessIssue]
    return net


def _merge(parts: list[Tensor], last: int) -> Tensor:
    """Factors of the same columns as few rows: parts that touch different columns share one (a concat)."""
    rows: list[Tensor] = []
    for part in parts:
        for i, row in enumerate(rows):
            if bool(((row == last) | (part == last)).all()):
                rows[i] = torch.minimum(row, part)
                break
        else:
            rows.append(part)
    return torch.stack(rows)
