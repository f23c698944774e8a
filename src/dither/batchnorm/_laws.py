r"""The laws of mini-batch statistics: what :math:`(\mu_B, \sigma^2_B)` of all layers is drawn from.

A law is an object. It draws for all layers at once, on their channels side by side (T in all), so a law may couple
channels and layers. Means are Normal and variances LogNormal where the law is not made of stored batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ._fitted import Draws, Fitted


class Law(ABC):
    """What mini-batch statistics are drawn from."""

    needs_records: bool = False  # whether it is made of the statistics of single batches
    looks_at_input: bool = False  # whether what a layer normalises with depends on its input

    @abstractmethod
    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        """S samples for all layers, (S, T)."""

    def statistics(self, fitted: Fitted, draws: Draws, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ² for the layer at ``part`` whose input is ``x``."""
        return draws.mean[part], draws.var[part]


class Gaussian(Law):
    """A law that is a function of standard normal numbers: a `bank` can choose them with care."""

    @abstractmethod
    def noise_size(self, fitted: Fitted) -> int:
        """How many standard normal numbers one sample takes."""

    @abstractmethod
    def transform(self, fitted: Fitted, noise: Tensor) -> Draws:
        """Samples from standard normal numbers (S, `noise_size`)."""

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        return self.transform(fitted, normal(fitted, (num_samples, self.noise_size(fitted)), generator))


@dataclass(frozen=True)
class Factorized(Gaussian):
    r"""The law of the paper: every channel of every layer on its own.

    .. math:: \mu \sim \mathcal{N}(m_\mu, s_\mu^2), \qquad \sigma^2 \sim \mathrm{LogNormal}(m_l, s_l^2)

    with the moments of :math:`\mu_B` and :math:`\log \sigma^2_B` over training mini-batches.
    Source: Atanov et al. 2018, section 3.

    Example:
        >>> Factorized()
        Factorized()
    """

    def noise_size(self, fitted: Fitted) -> int:
        return 2 * len(fitted.loc_mean)

    def transform(self, fitted: Fitted, noise: Tensor) -> Draws:
        return from_standard(fitted, noise)


@dataclass(frozen=True)
class Empirical(Law):
    """The statistics of single training batches, as they were.

    Args:
        joint: Whether all layers use the same batch: that is MC BatchNorm (Teye et al. 2018). Otherwise each layer
            draws a batch of its own.

    Example:
        >>> Empirical(joint=False)
        Empirical(joint=False)
    """

    joint: bool = True
    needs_records = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        size, records = fitted.num_records, fitted.records
        if self.joint:
            chosen = _choices(fitted, size, (num_samples,), generator)
            return Draws(records.mean[chosen], records.var[chosen])
        chosen = _choices(fitted, size, (num_samples, len(fitted.blocks)), generator)
        widths = torch.tensor([block.stop - block.start for block in fitted.blocks], device=chosen.device)
        rows = chosen.repeat_interleave(widths, 1)
        return Draws(*(t.gather(0, rows) for t in records))


@dataclass(frozen=True)
class Cached(Law):
    r"""The sums of M - 1 training examples and those of the test example itself.

    .. math:: \mu = \frac{(M-1)\,\mu_k + \mu_x}{M}, \qquad
              \sigma^2 = \frac{(M-1)\,\sigma_k^2 + \sigma_x^2}{M} + \frac{M-1}{M^2} (\mu_x - \mu_k)^2

    for a stored batch k of M - 1 examples (the batch size of `fit`), the same in all layers. What it leaves out of
    `exact_predict`: behind the first layer, the training examples would have been seen beside x too. That influence
    goes with 1/M.
    """

    needs_records = True
    looks_at_input = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        if fitted.ratio != 1:
            raise ValueError("Cached uses stored sums of whole batches and cannot be rescaled: fit at that batch size")
        return Empirical(joint=True).draw(fitted, num_samples, generator)

    def statistics(self, fitted: Fitted, draws: Draws, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        others, mean, var = fitted.batch_size, draws.mean[part], draws.var[part]
        values = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        own_var, own_mean = torch.var_mean(values.to(mean.dtype), 2, correction=0)
        total = others + 1
        combined = (others * var + own_var) / total + others / total**2 * (own_mean - mean).square()
        return (others * mean + own_mean) / total, combined


@dataclass(frozen=True)
class Bank(Law):
    """Stored statistics, one after the other: sample s is always the same. `bank` makes networks with this law."""

    needs_records = True

    def draw(self, fitted: Fitted, num_samples: int, generator: torch.Generator | None = None) -> Draws:
        size = fitted.num_records
        if num_samples > size:
            raise ValueError(f"the bank holds {size} samples, {num_samples} were asked for: make a bank of that many")
        return Draws(*(t[:num_samples] for t in fitted.records))


def normal(fitted: Fitted, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers where the statistics are; a generator of another device draws on its own."""
    like = fitted.loc_mean
    device = like.device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _choices(fitted: Fitted, size: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    device = fitted.loc_mean.device
    where = device if generator is None else generator.device
    return torch.randint(size, shape, generator=generator, device=where).to(device)


def from_standard(fitted: Fitted, z: Tensor) -> Draws:
    mean, log_var = z.chunk(2, -1)
    return Draws(
        fitted.loc_mean + fitted.scale_mean * mean, (fitted.loc_log_var + fitted.scale_log_var * log_var).exp()
    )
