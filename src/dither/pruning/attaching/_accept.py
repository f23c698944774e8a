"""What attach does before anything else: refuse what it cannot take, by name, and make plain what it can."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..noise._gates import restore

QUANTISED = "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized"


def accepted(model: nn.Module) -> nn.Module:
    """``model`` itself, or the module inside what `torch.compile` returned.

    Raises:
        ValueError: If the model is scripted or quantised, sharded, on the meta device, lazy, or has complex or integer
            parameters, or layers with the old kind of weight norm.

    Example:
        >>> accepted(torch.nn.Linear(2, 1).to("meta"))
        Traceback (most recent call last):
        ...
        ValueError: "weight" is on the meta device, without values; give the model its values first (model.to_empty).
    """
    inner = getattr(model, "_orig_mod", None)
    model = inner if isinstance(inner, nn.Module) else model
    for name, module in model.named_modules():
        at = f'"{name}"' if name else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{at} is scripted or traced; give the Python module that it was made from.")
        if (
            type(module).__module__.startswith(QUANTISED)
            and "dynamically_quantizable" not in type(module).__module__.lower()
        ):
            raise ValueError(f"{at} is quantised, a {type(module).__name__}; remove channels first and quantise then.")
        hooks = module._forward_pre_hooks.values()  # pyright: ignore[reportPrivateUsage]
        if any(type(hook).__name__ == "WeightNorm" for hook in hooks):
            raise ValueError(
                f"{at} has the old weight norm of torch.nn.utils, which cannot be copied; "
                "use torch.nn.utils.parametrizations.weight_norm."
            )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(f'"{name}" has no shape yet; run the model once on real inputs first.')
        if hasattr(tensor, "full_tensor"):
            raise ValueError(f'"{name}" is sharded over processes; call pruning.attach first and fully_shard after it.')
        if tensor.is_meta:
            raise ValueError(
                f'"{name}" is on the meta device, without values; give the model its values first (model.to_empty).'
            )
        if isinstance(tensor, nn.Parameter) and not tensor.is_floating_point():
            raise ValueError(f'"{name}" holds {tensor.dtype}; noise needs parameters of real floating-point numbers.')
    return model


def parametrized(model: nn.Module) -> list[str]:
    """The tensors of a model that are computed from others: weight norm, spectral norm, any parametrization."""
    chains: list[tuple[str, Any]] = [
        (name, module.parametrizations) for name, module in model.named_modules() if parametrize.is_parametrized(module)
    ]
    return [f"{name}.{tensor}".lstrip(".") for name, own in chains for tensor in own]


def bake(model: nn.Module, names: Iterable[str]) -> None:
    """Make parametrized tensors plain parameters with the values that they have in eval mode, in place."""
    for full in set(names) & set(parametrized(model)):
        path, _, name = full.rpartition(".")
        module = model.get_submodule(path)
        own = module.get_submodule(f"parametrizations.{name}").parameters()
        training, trained = module.training, any(p.requires_grad for p in own)
        with torch.no_grad():
            value = getattr(module.eval(), name).clone()
        module.train(training)
        restore(module, name, nn.Parameter(value, requires_grad=trained))


def signature(model: nn.Module) -> str:
    """How the model is called, for messages: ``Model.forward(input_ids, attention_mask=None)``."""
    try:
        return f"{type(model).__name__}.forward{inspect.signature(model.forward)}"
    except (TypeError, ValueError):
        return f"{type(model).__name__}.forward"
