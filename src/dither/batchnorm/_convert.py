"""From a network with BatchNorm to one whose BatchNorm can doubt, and back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.parameter import UninitializedBuffer

from ._layer import StochasticBatchNorm, stochastic_class
from ._source import StatisticsSource

_Lazy: Any = UninitializedBuffer  # torch's stubs have the signature of another class


def convert(model: nn.Module, layers: Sequence[str] | None = None) -> nn.Module:
    """A copy of ``model`` in which BatchNorm layers are `StochasticBatchNorm`.

    In ``train()`` and ``eval()`` the copy does what the model does, bit for bit; parameters, buffers and the keys of
    ``state_dict`` are the same. After `fit`, `dither.predict` (or `dither.sampling`) draws the statistics.
    All of ``nn.BatchNorm1d``, ``2d``, ``3d``, ``nn.SyncBatchNorm``, their lazy variants and subclasses count.

    Args:
        model: Any network with BatchNorm; left as it is.
        layers: Names of the layers to convert, or of modules that contain them (``"layer4"``). None converts all.
            With late layers only, what comes before them is computed once for all samples.

    Returns:
        The copy, in the mode that the model is in.

    Raises:
        ValueError: If there is no BatchNorm (in the modules that were named), a name is unknown, or the model is
            converted already.

    Example:
        >>> net = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
        >>> isinstance(net[1], StochasticBatchNorm), isinstance(net[1], nn.BatchNorm2d)
        (True, True)
    """
    modules = dict(model.named_modules())
    if any(isinstance(module, StochasticBatchNorm) for module in modules.values()):
        raise ValueError(f"{type(model).__name__} is converted already; batchnorm.revert gives the original back")
    names = [name for name, module in modules.items() if isinstance(module, _BatchNorm)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no BatchNorm layer, so there are no batch statistics to draw")
    if layers is not None:
        names = _chosen(names, modules, [layers] if isinstance(layers, str) else layers)
    net = _copied(model)
    copies = dict(net.named_modules())
    made: dict[str, StochasticBatchNorm] = {}
    source = StatisticsSource(made)
    for number, name in enumerate(names):
        layer: Any = copies[name]
        layer.__class__ = stochastic_class(type(layer))
        layer.name, layer.number, layer.source, layer.statistics = name, number, source, None
        made[name] = layer
    net.register_forward_pre_hook(source.begin)
    return net


def revert(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with the layers that it had before `convert`; parameters and buffers as they are now.

    Args:
        net: A network that `convert` returned; left as it is.

    Returns:
        The copy. Without training in between, it is the model that was converted, bit for bit.

    Raises:
        ValueError: If the network has no converted layer.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8))
        >>> type(revert(convert(model))[1]).__name__
        'BatchNorm1d'
    """
    model = _copied(net)
    layers = [module for module in model.modules() if isinstance(module, StochasticBatchNorm)]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no StochasticBatchNorm, there is nothing to revert")
    for layer in layers:
        original = layer.original
        del layer.statistics
        for name in ("name", "number", "source", "sampling"):
            vars(layer).pop(name, None)
        layer.__class__ = original  # pyright: ignore[reportAttributeAccessIssue]
    for module in model.modules():
        hooks = module._forward_pre_hooks  # pyright: ignore[reportPrivateUsage]
        for handle in [h for h, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), StatisticsSource)]:
            del hooks[handle]
    return model


def _copied(net: nn.Module) -> nn.Module:
    """A deep copy; torch refuses that for the buffers of lazy layers that have not seen an input."""
    lazy = [buffer for buffer in net.buffers() if isinstance(buffer, UninitializedBuffer)]
    return copy.deepcopy(net, {id(b): _Lazy(device=b.device, dtype=b.dtype) for b in lazy})


def _chosen(names: list[str], modules: dict[str, nn.Module], layers: Sequence[str]) -> list[str]:
    """The BatchNorm layers that are named, or stand in a module that is named."""
    chosen: set[str] = set()
    for wanted in layers:
        if wanted not in modules:
            raise ValueError(f"there is no module {wanted!r}; the BatchNorm layers are {', '.join(names)}")
        inside = [name for name in names if name == wanted or name.startswith(f"{wanted}.") or not wanted]
        if not inside:
            raise ValueError(f"module {wanted!r} has no BatchNorm; the BatchNorm layers are {', '.join(names)}")
        chosen.update(inside)
    if not chosen:
        raise ValueError("layers names no module; leave it out to convert all BatchNorm layers")
    return [name for name in names if name in chosen]
