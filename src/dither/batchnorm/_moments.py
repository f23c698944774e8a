r"""Mean and central moments of vectors that come one at a time, in several processes, in any order.

With :math:`M_k = \sum_i (x_i - \bar x)^k`, two sets of observations are united by the formulas of Chan et al. 1979 for
the second moment and of Pébay 2008 (SAND2008-6212) for the third and fourth. Nothing large is subtracted from something
large, so a mean that is 1e6 times the standard deviation costs six digits of float64 and not twelve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The kurtosis test is poor with fewer observations (Anscombe and Glynn 1983).
MIN_TESTED = 20


@dataclass(frozen=True)
class Moments:
    """Count, mean and sums of powers of the deviations of a set of vectors, element by element, float64.

    Attributes:
        count: How many vectors.
        mean: Their mean.
        m2: Sum of squared deviations from the mean.
        m3: Sum of cubed deviations.
        m4: Sum of fourth powers of deviations.
    """

    count: int
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor

    @classmethod
    def of(cls, vector: Tensor) -> Moments:
        """Moments of a single observation."""
        mean = vector.double()
        zero = torch.zeros_like(mean)
        return cls(1, mean, zero, zero, zero)

    def merge(self, other: Moments) -> Moments:
        """Moments of the union of two disjoint sets."""
        if not self.count or not other.count:
            return self if self.count else other
        a, b = self.count, other.count
        n = a + b
        delta = other.mean - self.mean
        shift = delta / n
        between = delta * shift * (a * b)
        m2 = self.m2 + other.m2 + between
        m3 = self.m3 + other.m3 + between * shift * (a - b) + 3 * shift * (a * other.m2 - b * self.m2)
        m4 = self.m4 + other.m4 + between * shift.square() * (a * a - a * b + b * b)
        m4 = m4 + 6 * shift.square() * (a * a * other.m2 + b * b * self.m2) + 4 * shift * (a * other.m3 - b * self.m3)
        return Moments(n, self.mean + shift * b, m2, m3, m4)

    @property
    def variance(self) -> Tensor:
        """Unbiased; NaN for one observation."""
        return self.m2 / (self.count - 1) if self.count > 1 else torch.full_like(self.m2, math.nan)

    @property
    def std(self) -> Tensor:
        """Root of the unbiased variance."""
        return self.variance.sqrt()

    def stacked(self) -> Tensor:
        """The four sums in one tensor, (4, ...), to send it."""
        return torch.stack((self.mean, self.m2, self.m3, self.m4))

    @classmethod
    def unstacked(cls, count: int, sums: Tensor) -> Moments:
        """What `stacked` was made of."""
        return cls(count, *sums.unbind(0))


def normality_p_value(moments: Moments) -> Tensor:
    r"""p-value of D'Agostino and Pearson's K² test that the observations are normal.

    .. math:: K^2 = Z_1(\sqrt{b_1})^2 + Z_2(b_2)^2 \sim \chi^2_2, \qquad p = e^{-K^2 / 2}

    Z₁ makes the skewness normal (D'Agostino 1970), Z₂ the kurtosis (Anscombe and Glynn 1983). Only moments are needed,
    so no observation has to be stored. Oracle: ``scipy.stats.normaltest``.

    Returns:
        One p-value for each element; NaN where all observations are equal and with fewer than `MIN_TESTED`.
    """
    n = moments.count
    if n < MIN_TESTED:
        return torch.full_like(moments.mean, math.nan)
    spread = (moments.m2 / n).sqrt()
    skewness = moments.m3 / n / spread**3
    kurtosis = moments.m4 / n / spread**4
    k2 = _skewness_score(skewness, n).square() + _kurtosis_score(kurtosis, n).square()
    return torch.exp(-k2 / 2)


def _skewness_score(skewness: Tensor, n: int) -> Tensor:
    y = skewness * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n * n + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = math.sqrt(2 * (beta - 1)) - 1
    return torch.asinh(y * math.sqrt((w2 - 1) / 2)) / math.sqrt(math.log(w2) / 2)


def _kurtosis_score(kurtosis: Tensor, n: int) -> Tensor:
    expected = 3 * (n - 1) / (n + 1)
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis - expected) / math.sqrt(variance)
    root = 6 * (n * n - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / root * (2 / root + math.sqrt(1 + 4 / root**2))
    ratio = (1 - 2 / a) / (1 + x * math.sqrt(2 / (a - 4)))
    cube_root = ratio.sign() * ratio.abs() ** (1 / 3)
    return (1 - 2 / (9 * a) - cube_root) / math.sqrt(2 / (9 * a))
