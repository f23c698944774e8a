"""BatchNorm whose statistics can be drawn."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from .._sampling import Stochastic
from ._statistics import Statistics

if TYPE_CHECKING:
    from ._source import StatisticsSource


class StochasticBatchNorm(Stochastic):
    r"""BatchNorm, plus the law of its mini-batch statistics.

    .. math:: y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta

    In ``train()`` and in ``eval()`` this is the layer that it was made from, bit for bit: that layer's own ``forward``
    runs. Inside `dither.sampling`, in eval mode, μ and σ² are a draw from the law of the statistics of a training
    mini-batch, one draw per channel and pass. `convert` makes these layers; as with torch's own parametrizations, each
    is of a subclass of the class that it was before, so ``isinstance(layer, nn.BatchNorm2d)`` still holds.

    Attributes:
        statistics: What `fit` found; None before.
        source: Where draws come from, one for all layers of a network.
        name: The layer's name in its network.
        number: Its place among the converted layers.

    Source: Atanov et al. 2018. Oracle: `exact_predict`.
    """

    statistics: Statistics | None
    source: StatisticsSource
    name: str
    number: int
    # Those of the class that it was made from:
    num_features: int
    eps: float
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    @property
    def original(self) -> type[_BatchNorm]:
        """The class that the layer had before."""
        return next(
            c for c in type(self).__mro__ if issubclass(c, _BatchNorm) and not issubclass(c, StochasticBatchNorm)
        )

    @property
    def plain(self) -> bool:
        """Whether the class that it had before does BatchNorm and nothing else."""
        return self.original.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)

    @property
    def fitted(self) -> bool:
        """Whether the layer knows its law."""
        return self.statistics is not None

    def forward(self, x: Tensor) -> Tensor:
        """What the class docstring says, for the mode that the layer is in.

        Raises:
            RuntimeError: If the law gives each example its own statistics, and the class that the layer had before
                does more than BatchNorm.
        """
        observer = self.source.observer
        if observer is not None:
            self._check_input(x)
            found = observer(self.name, self.source.site(self), x)
            if found is not None:
                wide = x.dtype if x.dtype.itemsize > 2 else torch.float32
                return self._normalised(x, *(t.to(x.device, wide) for t in found))
            return F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if self.training or not self.sampling:
            return self._deterministic(x)
        mean, var = self.source.statistics(self, x)
        if mean.ndim > 1 and not self.plain:
            raise RuntimeError(
                f"{self.name!r} is a {self.original.__name__} with a forward of its own, which takes one mean and "
                f"variance for the batch; {self.source.law} gives each example its own. Use another law."
            )
        mixed = self.weight is not None and self.weight.dtype != mean.dtype  # statistics of a layer in half precision
        if self.source.given or mean.ndim > 1 or (mixed and self.plain):
            return self._normalised(x, mean, var)
        return self._with_running(x, mean, var)

    def _deterministic(self, x: Tensor) -> Tensor:
        return cast(Any, super()).forward(x)

    def _with_running(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """The layer's own ``forward`` with other running statistics: right for subclasses that do more, too."""
        buffers = self._buffers
        before = buffers["running_mean"], buffers["running_var"]
        dtype = mean.dtype if self.weight is None else self.weight.dtype
        buffers["running_mean"], buffers["running_var"] = mean.to(dtype), var.to(dtype)
        try:
            return self._deterministic(x)
        finally:
            buffers["running_mean"], buffers["running_var"] = before

    def _normalised(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """One multiplication and one addition for each value.

        ``mean`` and ``var`` are (C,), or (B, C) for laws that look at the example; batched by vmap or not.
        """
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        shape = (*scale.shape[:-1], -1, *([1] * (x.ndim - 2)))
        return torch.addcmul(shift.view(shape), x, scale.view(shape)).to(x.dtype)

    def _check_input(self, x: Tensor) -> None:
        cast(Any, self)._check_input_dim(x)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        """Makes room for stored statistics, so that a fitted network can be loaded into a freshly converted one."""
        begin = f"{prefix}statistics."
        stored = {key[len(begin) :]: value for key, value in state_dict.items() if key.startswith(begin)}
        if stored:
            device = next((t.device for t in (*self.parameters(False), *self.buffers(False))), torch.device("cpu"))
            self.statistics = Statistics.like(stored, device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __reduce__(self) -> Any:  # the class is made at run time: say how to make it again
        return _rebuild, (self.original,), self.__dict__


@cache
def stochastic_class(original: type[_BatchNorm]) -> type[StochasticBatchNorm]:
    """The subclass of ``StochasticBatchNorm`` and of a class of BatchNorm layers; always the same one for a class."""
    members: dict[str, Any] = {"__module__": StochasticBatchNorm.__module__}
    becomes = getattr(original, "cls_to_become", None)
    if becomes is not None:  # a lazy layer turns into this class when it sees its first input
        members["cls_to_become"] = stochastic_class(becomes)
    made = type(f"Stochastic{original.__name__}", (StochasticBatchNorm, original), members)
    return cast("type[StochasticBatchNorm]", made)


def _rebuild(original: type[_BatchNorm]) -> StochasticBatchNorm:
    made = stochastic_class(original)
    return made.__new__(made)
