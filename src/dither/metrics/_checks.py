"""What the metrics accept, checked once, with errors that say how to repair."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

# How far a row of probabilities may be from 1: rounding of a softmax over many classes, by dtype.
_ROW_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
_ROW_TOLERANCE_DEFAULT = 1e-3


def float64(name: str, values: Tensor) -> Tensor:
    """``values`` in float64 on the CPU (some devices have no float64); finite and not empty.

    Raises:
        TypeError: If it is no tensor of real numbers.
        ValueError: If it is empty, or has NaN or infinite entries.
    """
    given: Any = values
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} is a {type(given).__name__}, expected a torch.Tensor: torch.as_tensor({name})")
    if given.is_complex():
        raise TypeError(f"{name} has dtype {given.dtype}, expected real numbers")
    if not given.numel():
        raise ValueError(f"{name} is empty, shape {tuple(given.shape)}; a metric needs at least one example")
    values = given.detach().cpu().double()
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{name} has {bad} NaN or infinite entries of {values.numel()}; leave those examples out")
    return values


def vector(name: str, values: Tensor) -> Tensor:
    """One number per example, (N,), in float64 on the CPU.

    Raises:
        ValueError: If the shape is another one.
    """
    values = float64(name, values)
    if values.ndim != 1:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected (N,): one number per example")
    return values


def probabilities(name: str, probs: Tensor) -> Tensor:
    """Probabilities (N, K) in float64 on the CPU, rows as they were given.

    Raises:
        ValueError: If the shape is another one, an entry is negative, or a row does not sum to 1.
    """
    values = float64(name, probs)
    if values.ndim != 2:
        hint = {
            1: "for two classes: torch.stack((1 - p, p), 1)",
            3: "of a prediction with samples pass its mean",
        }.get(values.ndim, "of a segmentation: probs.movedim(1, -1).flatten(0, -2)")
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected (N, K); {hint}")
    tolerance = _ROW_TOLERANCE.get(probs.dtype, _ROW_TOLERANCE_DEFAULT)
    low, sums = values.min().item(), values.sum(1)
    off = int(((sums - 1).abs() > tolerance).sum())
    if low < 0 or off:
        raise ValueError(
            f"{name} are no probabilities: {off} of {len(sums)} rows do not sum to 1 (sums {sums.min():.4g} to "
            f"{sums.max():.4g}, smallest entry {low:.4g}); of logits pass logits.softmax(1)"
        )
    return values


def labels(name: str, target: Tensor, shape: tuple[int, int]) -> Tensor:
    """Class numbers (N,) as int64 on the CPU, for probabilities of the given shape.

    Raises:
        ValueError: If the shape or dtype does not fit, or a label is not in [0, K).
    """
    values = vector(name, target)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {target.dtype}, expected class numbers: integers from 0 to K - 1")
    if len(values) != shape[0]:
        raise ValueError(f"{name} has {len(values)} labels for {shape[0]} rows of probabilities, expected one each")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= shape[1]:
        raise ValueError(f"{name} has labels from {low} to {high}, expected 0 to {shape[1] - 1}: one per column")
    return values.long()


def classified(probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities in float64 and their labels, both checked."""
    values = probabilities("probs", probs)
    return values, labels("target", target, (values.shape[0], values.shape[1]))


def group_means(keys: Tensor, values: Tensor) -> Tensor:
    """Each value replaced by the mean over all examples with the same key.

    What is sorted by ``keys`` afterwards does not depend on the order in which ties were given.
    """
    _, group = keys.unique(return_inverse=True)
    count = torch.bincount(group)
    return (torch.bincount(group, weights=values) / count)[group]


def torchmetrics() -> ModuleType:
    """The module ``torchmetrics.functional.classification``, imported when it is needed: it takes seconds.

    Raises:
        ModuleNotFoundError: If torchmetrics is not installed; says how to.
    """
    try:
        import torchmetrics.functional.classification as functional
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this metric needs {error.name}: pip install 'dither[train]'") from error
    return functional
