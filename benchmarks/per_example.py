"""Noise as the paper has it: a draw of its own for every example and channel, behind the convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PerExampleNoise(nn.Module):
    r"""Multiply the output of a convolution by log-normal noise, one draw for every example and channel.

    .. math:: y_{bchw} = \theta_{bc} x_{bchw}, \qquad \log \theta_{bc} \sim \mathcal{N}(\mu_c, \sigma_c^2)
        \text{ on } [a, b]

    For training only, and only to be measured: these are the formulas as they are printed, in the dtype of the
    parameters, with the range of parameters clipped as the authors did. In float32 many of their values are wrong or
    not finite there (`dither.distributions` has the others). Source: Neklyudov et al. 2017, section 3.
    Oracle: `dither.distributions.TruncatedLogNormal`, in ``tests/test_benchmarks.py``.
    """

    BOUNDS = (-20.0, 0.0)  # a and b
    CLIP = (-20.0, 5.0)  # of μ and log σ

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(num_features))
        self.log_scale = nn.Parameter(torch.full((num_features,), -5.0))

    def law(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """μ, σ and the bounds α, β of the standardised law, each (C,)."""
        loc, scale = self.loc.clamp(*self.CLIP), self.log_scale.clamp(*self.CLIP).exp()
        alpha, beta = ((bound - loc) / scale for bound in self.BOUNDS)
        return loc, scale, alpha, beta

    def draw(self, batch: int) -> Tensor:
        """θ, (B, C)."""
        loc, scale, alpha, beta = self.law()
        u = torch.rand(batch, len(loc), dtype=loc.dtype, device=loc.device).clamp_min(torch.finfo(loc.dtype).tiny)
        below = torch.special.ndtr(alpha)
        z = loc + scale * torch.special.ndtri(below + u * (torch.special.ndtr(beta) - below))
        return z.clamp(*self.BOUNDS).exp()

    def kl(self) -> Tensor:
        """Divergence from the log-uniform prior, summed over the channels."""
        _, scale, alpha, beta = self.law()
        (low, at_low), (high, at_high) = ((t, torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)) for t in (alpha, beta))
        mass = torch.special.ndtr(high) - torch.special.ndtr(low)
        width = self.BOUNDS[1] - self.BOUNDS[0]
        constant = math.log(width) - 0.5 * math.log(2 * math.pi * math.e)
        return (constant - scale.log() - mass.log() - (low * at_low - high * at_high) / (2 * mass)).sum()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.draw(len(x))[:, :, None, None]


def behind_convolutions(net: nn.Module) -> nn.Module:
    """Changes ``net``: the noise stands between every convolution and what follows it, BatchNorm as a rule."""
    for parent in [*net.modules()]:
        for name, layer in [*parent.named_children()]:
            if isinstance(layer, nn.Conv2d):
                setattr(parent, name, nn.Sequential(layer, PerExampleNoise(layer.out_channels)))
    return net


def kl(net: nn.Module) -> Tensor:
    """The divergences of all layers of `PerExampleNoise`, summed."""
    return torch.stack([layer.kl() for layer in net.modules() if isinstance(layer, PerExampleNoise)]).sum()
