"""`torch.func.vmap` that computes what a plain pass computes, under autocast on a CPU too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
T = TypeVar("T")

# Operators that autocast on a CPU casts, and of whose parts it knows not all.
_CAST = {
    *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(torch.addmm, torch.addbmm, torch.baddbmm, Tensor.addmm, Tensor.addbmm, Tensor.baddbmm),
    *(F.linear, F.scaled_dot_product_attention, F.multi_head_attention_forward),
}


def vmap(fn: Callable[P, T]) -> Callable[P, T]:
    """``torch.func.vmap(fn)``, in the precision of autocast.

    vmap takes operators apart before autocast sees them, and on a CPU autocast does not know all of the parts: those of
    a convolution stay in float32, or fail where an operator before it was cast (torch 2.13). So these operators get
    here what autocast would give them.
    """
    mapped = torch.func.vmap(fn)

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with _Casting() if torch.is_autocast_enabled("cpu") else nullcontext():
            return mapped(*args, **kwargs)

    return run


class _Casting(TorchFunctionMode):
    """Casts the arguments of these operators as autocast on a CPU does: floating point, but not float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CAST and torch.is_autocast_enabled("cpu"):
            args = [_cast(value) for value in args]
            kwargs = {name: _cast(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)


def _cast(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.device.type != "cpu" or not value.is_floating_point():
        return value
    return value if value.dtype == torch.float64 else value.to(torch.get_autocast_dtype("cpu"))
