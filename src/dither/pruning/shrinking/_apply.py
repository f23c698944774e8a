"""apply_shrunk: the structure of a shrunk network from its record alone, without data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..attaching._accept import bake
from ..cutting._cut import POSITIONS, cut
from ..cutting._known import tell
from ..cutting._plain import FixedScale, replace_module, select_columns
from ..noise._gates import find_bank
from ..planning._decision import from_json
from ._fold import give_bias
from ._narrow import gates_aside


def apply_shrunk(model: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """Give a fresh original model the structure of a shrunk one, in place; the values are not touched.

    Args:
        model: A fresh instance of the class that was shrunk; with gates (`attach`) if the smaller network has them.
        record: ``small.dither_shrunk``: kept indices per tensor and dimension, columns per layer, noise layers, layers
            that got a bias.

    Returns:
        ``model``.

    Raises:
        ValueError: If the record names a tensor, a layer or an index that the model does not have.
    """
    if record.get("before"):
        apply_shrunk(model, record["before"])
    if not find_bank(model):  # attach has done it
        bake(model, record.get("baked", ()))
    for name, folded in record["scales"].items():
        layer = _submodule(model, name)
        if not isinstance(layer, (FixedScale, nn.Identity)):
            size, dim = getattr(layer, "num_features", None), getattr(layer, "dim", None)
            if size is None or dim is None:
                raise ValueError(f'the record has noise at "{name}", where the model has a {type(layer).__name__}.')
            layer_scale = FixedScale(torch.ones(size), dim)
            replace_module(model, layer, nn.Identity() if folded else layer_scale)
    for name in record.get("biases", ()):
        give_bias(_submodule(model, name))
    kept = from_json(record["kept"])
    with gates_aside(model, kept, record.get("gates")):
        named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, dims in kept.items():
            for dim, index in dims.items():
                if name not in named or not _fits(named[name], dim, index):
                    raise ValueError(
                        f'the record keeps indices of "{name}", dimension {dim}, that the model does not have.'
                    )
        widths = {name: tensor.shape[-1] for name, tensor in named.items() if tensor.ndim > 1}
        cut(model, kept)
        for name, index in record["selects"].items():
            select_columns(model, name, _columns(model, name, index, widths.get(f"{name}.weight", 0)))
    for name in record.get("numbers", {}):
        _submodule(model, name)
    tell(model, record.get("numbers", {}))
    return model


def _fits(tensor: Tensor, dim: int, index: Tensor) -> bool:
    """Whether the indices are there."""
    if dim == POSITIONS:
        return tensor.ndim == 1 and not tensor.is_floating_point() and len(index) > 0
    return dim < tensor.ndim and bool(((index >= 0) & (index < tensor.shape[dim])).all())


def _columns(model: nn.Module, name: str, index: list[int], width: int) -> Tensor:
    """The input columns that a linear layer reads, of at most ``width``; its weight has one column for each.

    Raises:
        ValueError: If there are others, or the layer is not linear.
    """
    layer, columns = _submodule(model, name), torch.tensor(index, dtype=torch.int64)
    if columns.shape != (getattr(layer, "in_features", None),) or not bool(((columns >= 0) & (columns < width)).all()):
        raise ValueError(f'the record selects columns of "{name}" that this {type(layer).__name__} does not have.')
    return columns


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f'the record names a layer "{name}" that the model does not have.') from error
