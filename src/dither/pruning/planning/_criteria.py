"""What makes a unit stay: a score for each unit, from the law of its noise alone."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...distributions import LogUniform, TruncatedLogNormal, evidence_change

# Thresholds of 0 and of infinity keep all units or none, but never lose their order.
SMALLEST, LARGEST = 5e-324, 1.7976931348623157e308


class Criterion(ABC):
    """Which units stay. Subclass it with a method ``score`` and give an instance to `plan`; ``repr`` goes on record."""

    @abstractmethod
    def score(self, law: TruncatedLogNormal) -> Tensor:
        """How well each unit earns its place: it stays where the score is positive.

        The order counts too: where a layer would be emptied its best unit stays, and rounding keeps the next-best.

        Args:
            law: The posterior of θ of each unit, shape (units,).

        Returns:
            The scores, (units,), in float64.
        """


@dataclass(frozen=True)
class SNR(Criterion):
    r"""The paper's criterion, and that of eval mode: the signal-to-noise ratio must be above ``threshold``.

    .. math:: \text{score} = \log \frac{E\theta}{\mathrm{sd}\,\theta} - \log \text{threshold}

    A law that is nothing but the prior has an SNR of 1/3, so 1 is between noise and signal.
    Source: Neklyudov et al. 2017, section 3.

    Args:
        threshold: At least 0, dimensionless.

    Raises:
        ValueError: If ``threshold`` is negative or not a number.

    Example:
        >>> law = TruncatedLogNormal(torch.tensor([0.0, -3.0]), torch.tensor([0.1, 4.0]))
        >>> SNR().score(law) > 0
        tensor([ True, False])
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise ValueError(f"threshold is {self.threshold}; give threshold >= 0.")

    def score(self, law: TruncatedLogNormal) -> Tensor:
        limit = min(max(self.threshold, SMALLEST), LARGEST)
        # Of the SNR as the law answers it, in its own dtype: so the plan keeps exactly what eval mode keeps.
        return law.snr.detach().double().log() - math.log(limit)


@dataclass(frozen=True)
class BMRSUniform(Criterion):
    r"""Bayesian model reduction to a log-uniform prior of small θ: a unit stays where that lowers the evidence.

    .. math:: \text{score} = -\Delta F - \text{log\_odds}, \qquad
        \Delta F = \log \frac{b - a}{b' - a} + \log P_q(\log\theta \le b')

    ΔF is at most log((b - a) / (b' - a)), 0.32 nats for the default, however surely θ is small. A unit that has become
    the prior itself has ΔF = 0, and one that comes close has either sign: ``docs/criteria.md`` says when.

    Source: Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", NeurIPS 2024,
    arXiv:2406.01345; derived and evaluated as in `dither.distributions.evidence_change`.

    Args:
        log_high: b', the largest log θ that still counts as zero. The paper's values are those of 8 and of 4 bits,
            log 2⁻⁸ and log 2⁻⁴.
        log_odds: Log prior odds of removal, in nats. A unit stays only when the data prefer it by more than this; 0
            is the paper's criterion.

    Raises:
        ValueError: If an argument is not finite.

    Example:
        >>> law = TruncatedLogNormal(torch.tensor([0.0, -12.0]), torch.tensor([0.1, 3.0]))
        >>> BMRSUniform().score(law) > 0
        tensor([ True, False])
    """

    log_high: float = -8 * math.log(2)
    log_odds: float = 0.0

    def __post_init__(self) -> None:
        _check_finite(log_high=self.log_high, log_odds=self.log_odds)

    def score(self, law: TruncatedLogNormal) -> Tensor:
        """Minus ΔF and the odds, in nats.

        Raises:
            ValueError: If ``log_high`` is outside the interval of the law.
        """
        if not bool(((law.log_low < self.log_high) & (self.log_high < law.log_high)).all()):
            raise ValueError(
                f"log_high is {self.log_high:g}, but the noise lives on log θ from {float(law.log_low.max()):g} to "
                f"{float(law.log_high.min()):g}; give a value between them."
            )
        reduced = LogUniform(law.log_low, torch.full_like(law.log_low, self.log_high), validate_args=False)
        return -evidence_change(law, reduced) - self.log_odds


@dataclass(frozen=True)
class BMRSNormal(Criterion):
    r"""Bayesian model reduction to a prior that is all but a point at the smallest θ.

    .. math:: \text{score} = -\Delta F - \text{log\_odds}, \qquad
        \Delta F = \log E_q \frac{\tilde p(\theta)}{p(\theta)}, \quad
        \tilde p(\log\theta) = \mathcal{N}(a, \text{scale}^2) \text{ on } [a, b]

    For a small scale ΔF → log((b - a) q(a)): a unit goes when the posterior density of log θ at a is not below that of
    the prior. A unit that has become the prior itself has ΔF = 0, and one that comes close has either sign:
    ``docs/criteria.md`` says when.

    Source: Wright, Igel and Selvan, "BMRS: Bayesian Model Reduction for Structured Pruning", NeurIPS 2024,
    arXiv:2406.01345; derived and evaluated as in `dither.distributions.evidence_change`.

    Args:
        scale: Standard deviation of log θ under the reduced prior, before truncation; the paper takes 1e-6.
        log_odds: Log prior odds of removal, in nats. A unit stays only when the data prefer it by more than this; 0
            is the paper's criterion.

    Raises:
        ValueError: If ``scale <= 0`` or an argument is not finite.

    Example:
        >>> law = TruncatedLogNormal(torch.tensor([0.0, -18.0]), torch.tensor([0.1, 3.0]))
        >>> BMRSNormal().score(law) > 0
        tensor([ True, False])
    """

    scale: float = 1e-6
    log_odds: float = 0.0

    def __post_init__(self) -> None:
        _check_finite(scale=self.scale, log_odds=self.log_odds)
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}; give scale > 0.")

    def score(self, law: TruncatedLogNormal) -> Tensor:
        """Minus ΔF and the odds, in nats."""
        scale = torch.full_like(law.log_low, self.scale)
        reduced = TruncatedLogNormal(law.log_low, scale, law.log_low, law.log_high, validate_args=False)
        return -evidence_change(law, reduced) - self.log_odds


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; give a finite number.")
