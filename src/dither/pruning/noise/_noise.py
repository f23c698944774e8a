"""Multiplicative log-normal noise, one unit for each channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..._sampling import Stochastic
from ...distributions import TruncatedLogNormal

if TYPE_CHECKING:
    from typing_extensions import Self


class LogNormalNoise(Stochastic):
    r"""Multiply every channel by learned log-normal noise.

    .. math:: y_i = \theta_i x_i, \qquad \log \theta_i \sim \mathcal{N}(\mu_i, \sigma_i^2) \text{ on } [a, b]

    In ``train()``, and inside `dither.sampling`, θ is drawn once a call and shared by the batch, as in the authors'
    code. In ``eval()`` it is the paper's test network: Eθ where the signal-to-noise ratio Eθ/sd(θ) is above
    ``threshold``, 0 elsewhere.

    Put it anywhere between the layer that writes the channels and those that read them, before BatchNorm or behind it;
    `dither.pruning.shrink` can remove them where a dropped channel then is a constant for every reader. For a
    network that exists, `dither.pruning.attach` does it without a change of the code. The KL divergence is asked for
    by `dither.pruning.kl`.

    ``net.half()`` and ``net.to(torch.bfloat16)`` leave ``loc`` and ``log_scale`` as they are; θ is rounded to the dtype
    of what it multiplies.

    Source: Neklyudov et al. 2017, section 3. Shapes: any tensor with ``num_features`` along ``dim``, in and out.

    Args:
        num_features: Number of channels C.
        dim: The channel dimension: 1 for (B, C), (B, C, L) and (B, C, H, W), -1 for (B, T, C).
        threshold: Units with a smaller signal-to-noise ratio are 0 in eval mode.
        log_low: a, lower bound of log θ.
        log_high: b, upper bound of log θ.
        init_loc: Initial μ. With b = 0, μ = 0 leaves trained weights almost as they are.
        init_log_scale: Initial log σ (the authors' -5).

    Raises:
        ValueError: If ``num_features < 1`` or ``log_low >= log_high``.

    Example:
        >>> noise = LogNormalNoise(3)
        >>> noise.eval()(torch.ones(2, 3)).shape
        torch.Size([2, 3])
        >>> bool((noise.snr > 1).all())
        True
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 1,
        threshold: float = 1.0,
        log_low: float = -20.0,
        log_high: float = 0.0,
        init_loc: float = 0.0,
        init_log_scale: float = -5.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features is {num_features}; a noise layer needs at least 1 channel.")
        if not log_low < log_high:
            raise ValueError(f"log_low is {log_low} and log_high {log_high}; give log_low < log_high.")
        self.num_features, self.dim, self.threshold = num_features, dim, threshold
        self.log_low, self.log_high = log_low, log_high
        self.init_loc, self.init_log_scale = init_loc, init_log_scale
        self.loc = nn.Parameter(torch.full((num_features,), init_loc, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.full((num_features,), init_log_scale, device=device, dtype=dtype))

    @property
    def distribution(self) -> TruncatedLogNormal:
        """The posterior of θ, shape (C,). Differentiable in ``loc`` and ``log_scale``.

        Raises:
            ValueError: If a parameter is not finite.
        """
        if not bool(torch.isfinite(self.loc).all() & torch.isfinite(self.log_scale).all()):
            raise ValueError(f"the noise has parameters that are not finite: {self}; go back to a good checkpoint.")
        return posterior([self])

    @property
    @torch.no_grad()
    def snr(self) -> Tensor:
        """Signal-to-noise ratio Eθ/sd(θ) of each channel, shape (C,), dimensionless; no gradient."""
        return self.distribution.snr

    @property
    def trained(self) -> bool:
        """Whether any parameter has left its initial value."""
        return not bool((self.loc == self.init_loc).all() & (self.log_scale == self.init_log_scale).all())

    def theta(self) -> Tensor:
        """θ of the next call, shape (C,): a draw, or the mean where the noise leaves a signal."""
        return thetas([self])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``net.to``, ``net.half`` and ``net.bfloat16`` do to each tensor, but the noise stays in float32.

        In bfloat16 log σ = -5 moves in steps of 0.03: learning would stop. A few numbers a channel cost nothing.
        """

        def applied(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return tensor.to(new.device) if new.dtype in (torch.float16, torch.bfloat16) else new

        return super()._apply(applied, recurse)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[self.dim] != self.num_features:
            raise ValueError(
                f"the input has {x.shape[self.dim]} channels along dimension {self.dim} (shape {tuple(x.shape)}), "
                f"but the noise was made for {self.num_features}; set num_features or dim."
            )
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return x * self.theta().view(shape).to(x.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, dim={self.dim}, threshold={self.threshold}, bounds=({self.log_low}, {self.log_high})"
        )


def posterior(layers: list[LogNormalNoise]) -> TruncatedLogNormal:
    """The posteriors of several layers as one distribution over all their units, in order."""
    first, sizes = layers[0], [layer.num_features for layer in layers]
    loc = torch.cat([unsharded(layer.loc) for layer in layers])
    log_scale = torch.cat([unsharded(layer.log_scale) for layer in layers])
    bounds = {(layer.log_low, layer.log_high) for layer in layers}
    low, high = first.log_low, first.log_high
    if len(bounds) > 1:
        repeats = torch.tensor(sizes, device=loc.device)
        pairs = torch.tensor(
            [(layer.log_low, layer.log_high) for layer in layers], device=loc.device, dtype=torch.float64
        )
        low, high = pairs.repeat_interleave(repeats, 0).unbind(1)
    return TruncatedLogNormal(loc, log_scale.exp(), low, high, validate_args=False)


def unsharded(parameter: Tensor) -> Tensor:
    """All of a parameter that FSDP2 (`torch.distributed.fsdp.fully_shard`) has sharded; others as they are.

    Every process has the same gates, so what each adds to their gradient is averaged, as FSDP2 does with weights.
    """
    if not hasattr(parameter, "full_tensor"):
        return parameter
    from torch.distributed.tensor import Partial  # not in every build

    shard: Any = parameter
    mesh = shard.device_mesh
    whole: Tensor = shard.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if whole.requires_grad:
        whole.register_hook(lambda gradient: gradient / mesh.size())
    return whole


def thetas(layers: list[LogNormalNoise]) -> Tensor:
    """θ of several layers, one vectorised call: drawn where a layer draws, else Eθ above the threshold and 0 below."""
    law = posterior(layers)
    drawing = [layer.draws for layer in layers]
    if all(drawing):
        return law.rsample()
    with torch.no_grad():
        limit = torch.cat([law.loc.new_full((layer.num_features,), layer.threshold) for layer in layers])
        mean = law.mean * (law.snr > limit)
    if not any(drawing):
        return mean
    mask = torch.cat([law.loc.new_full((layer.num_features,), float(layer.draws)) for layer in layers]).bool()
    return torch.where(mask, law.rsample(), mean)
