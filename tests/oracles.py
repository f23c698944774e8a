"""Independent answers for the tests: mpmath with as many digits as the cancellation needs. Never imports dither."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from mpmath import mp, mpf

Number = float | mpf


def upper_tail(t: mpf) -> mpf:
    """1 - Φ(t)."""
    return mpmath.erfc(t / mpmath.sqrt(2)) / 2


def density(t: mpf) -> mpf:
    """φ(t)."""
    return mpmath.exp(-t * t / 2) / mpmath.sqrt(2 * mpmath.pi)


class TruncatedNormal:
    """z normal(loc, scale²) truncated to [low, high], and θ = e^z: the textbook formulas, with enough digits.

    ``digits`` covers the fifth power of how narrow, how wide or how far away the law is. The arguments are taken as
    the exact binary numbers that they are.
    """

    def __init__(self, loc: Number, scale: Number, low: Number, high: Number) -> None:
        far = max(abs(loc - low), abs(loc - high), high - low)
        near = min((bound for bound in (abs(loc - low), abs(loc - high)) if bound > 0), default=1.0)
        ratios = (far / scale, scale / (high - low), scale / near)
        self.digits = 60 + 5 * int(mpmath.log10(max(1.0, *ratios)))
        self.arguments = (loc, scale, low, high)

    def _parameters(self) -> tuple[mpf, mpf, mpf, mpf]:
        loc, scale, low, high = (mpf(argument) for argument in self.arguments)
        return loc, scale, low, high

    def kl_to_log_uniform(self) -> mpf:
        return self._evaluate(_kl)

    def kl_gradients(self) -> tuple[mpf, mpf]:
        """Derivatives by loc and by log scale."""
        return self._differentiate(_kl)

    def entropy(self) -> mpf:
        """Entropy of θ in nats."""

        def formula(*p: mpf) -> mpf:
            loc, scale, low, high = p
            alpha, beta = (low - loc) / scale, (high - loc) / scale
            mean = loc + scale * (density(alpha) - density(beta)) / _mass(alpha, beta)
            return mpmath.log(high - low) - _kl(*p) + mean

        return self._evaluate(formula)

    def moment(self, k: int) -> mpf:
        """E θ^k."""
        return self._evaluate(lambda *p: _moment(*p, k))

    def mean_gradients(self) -> tuple[mpf, mpf]:
        """Derivatives of E θ by loc and by log scale."""
        return self._differentiate(lambda *p: _moment(*p, 1))

    def snr(self) -> mpf:
        """E θ / sd θ."""

        def formula(*p: mpf) -> mpf:
            mean = _moment(*p, 1)
            return mean / mpmath.sqrt(_moment(*p, 2) - mean * mean)

        return self._evaluate(formula)

    def log_prob(self, theta: Number) -> mpf:
        """Log-density of θ."""

        def formula(loc: mpf, scale: mpf, low: mpf, high: mpf) -> mpf:
            z = mpmath.log(mpf(theta))
            mass = _mass((low - loc) / scale, (high - loc) / scale)
            t = (z - loc) / scale
            return -t * t / 2 - mpmath.log(scale * mass * mpmath.sqrt(2 * mpmath.pi)) - z

        return self._evaluate(formula)

    def cdf(self, z: Number) -> mpf:
        """P(Z ≤ z)."""
        return self._evaluate(lambda *p: _cdf(*p, mpf(z)))

    def quantile(self, u: Number) -> mpf:
        """The z with P(Z ≤ z) = u, by bisection on its distance from the bound next to the mode, then Newton."""

        def formula(loc: mpf, scale: mpf, low: mpf, high: mpf) -> mpf:
            # Look at the law from its left: the mode is left of the middle.
            flip = loc > (low + high) / 2
            if flip:
                loc, low, high = -loc, -high, -low
            survival = mpf(u) if flip else 1 - mpf(u)
            alpha, beta = (low - loc) / scale, (high - loc) / scale
            target = mpmath.log(upper_tail(beta) + survival * _mass(alpha, beta))
            start, stop = max(alpha, mpf(-100)), min(beta, max(alpha, mpf(0)) + 100)
            left, right = mpf(0), stop - start
            # In a far tail the scale of the answer is 1/α.
            while right - left > 1e-3 / (1 + abs(start + left)):
                middle = (left + right) / 2
                if mpmath.log(upper_tail(start + middle)) > target:
                    left = middle
                else:
                    right = middle
            t = start + left
            for _ in range(12):
                tail = upper_tail(t)
                t += tail / density(t) * (mpmath.log(tail) - target)
            z = loc + scale * t
            return -z if flip else z

        return self._evaluate(formula)

    def sample_gradients(self, u: Number) -> tuple[mpf, mpf]:
        """Derivatives of the quantile by loc and by log scale: implicit, from differences of the cdf."""
        z = self.quantile(u)
        d_loc, d_log_scale = self._differentiate(lambda *p: _cdf(*p, z))

        def slope(loc: mpf, scale: mpf, low: mpf, high: mpf) -> mpf:
            return density((z - loc) / scale) / _mass((low - loc) / scale, (high - loc) / scale) / scale

        p = self._evaluate(slope)
        return -d_loc / p, -d_log_scale / p

    def _evaluate(self, formula: Callable[..., mpf]) -> mpf:
        with mp.workdps(self.digits):
            return formula(*self._parameters())

    def _differentiate(self, formula: Callable[..., mpf]) -> tuple[mpf, mpf]:
        """Central differences; the error is the square of a relative step of 1e-15, on the law's own scale."""
        with mp.workdps(2 * self.digits):
            loc, scale, low, high = self._parameters()
            far = max(abs(loc - low), abs(loc - high), scale) / scale
            step = mpf(10) ** -15 / far**2
            by_loc = formula(loc + step * scale, scale, low, high) - formula(loc - step * scale, scale, low, high)
            up, down = scale * mpmath.exp(step), scale * mpmath.exp(-step)
            by_scale = formula(loc, up, low, high) - formula(loc, down, low, high)
            return by_loc / (2 * step * scale), by_scale / (2 * step)


def log_uniform_moments(low: Number, high: Number) -> tuple[mpf, mpf]:
    """Mean and variance of e^z, z uniform on [low, high]."""
    with mp.workdps(100):
        low, high = mpf(low), mpf(high)
        mean = (mpmath.exp(high) - mpmath.exp(low)) / (high - low)
        return mean, (mpmath.exp(2 * high) - mpmath.exp(2 * low)) / (2 * (high - low)) - mean**2


def _mass(alpha: mpf, beta: mpf) -> mpf:
    """Φ(β) - Φ(α), from the tails on the side where they are small."""
    return upper_tail(alpha) - upper_tail(beta) if alpha + beta > 0 else upper_tail(-beta) - upper_tail(-alpha)


def _kl(loc: mpf, scale: mpf, low: mpf, high: mpf) -> mpf:
    alpha, beta = (low - loc) / scale, (high - loc) / scale
    mass = _mass(alpha, beta)
    edges = (alpha * density(alpha) - beta * density(beta)) / (2 * mass)
    return mpmath.log((high - low) / scale) - mpmath.log(2 * mpmath.pi * mpmath.e) / 2 - mpmath.log(mass) - edges


def _moment(loc: mpf, scale: mpf, low: mpf, high: mpf, k: int) -> mpf:
    alpha, beta = (low - loc) / scale, (high - loc) / scale
    shift = mpmath.exp(k * loc + (k * scale) ** 2 / 2)
    return shift * _mass(alpha - k * scale, beta - k * scale) / _mass(alpha, beta)


def _cdf(loc: mpf, scale: mpf, low: mpf, high: mpf, z: mpf) -> mpf:
    alpha, beta = (low - loc) / scale, (high - loc) / scale
    return _mass(alpha, (z - loc) / scale) / _mass(alpha, beta)


def evidence_change(
    q: tuple[Number, Number],
    bounds: tuple[Number, Number],
    reduced: tuple[Number, Number] | None,
    inside: tuple[Number, Number],
) -> mpf:
    """log E_q[p̃ / p] by numerical integration over z = log θ, in log space.

    q is normal with (loc, scale) truncated to ``bounds``, p uniform there. p̃ lives on ``inside``: normal with the
    (loc, scale) of ``reduced``, or uniform if None.
    """
    numbers = [abs(float(n)) for n in (*q, *bounds, *(reduced or ()), *inside) if n]
    with mp.workdps(50 + 4 * int(mpmath.log10(max(numbers) / min(numbers)))):
        low, high = map(mpf, bounds)
        start, end = map(mpf, inside)

        def log_q(z: mpf) -> mpf:
            return -(((z - mpf(q[0])) / mpf(q[1])) ** 2) / 2

        def log_p(z: mpf) -> mpf:
            return mpf(0) if reduced is None else -(((z - mpf(reduced[0])) / mpf(reduced[1])) ** 2) / 2

        both = _log_integral(lambda z: log_q(z) + log_p(z), start, end)
        return mpmath.log(high - low) + both - _log_integral(log_q, low, high) - _log_integral(log_p, start, end)


def _log_integral(log_density: Callable[[mpf], mpf], low: mpf, high: mpf) -> mpf:
    """log ∫ exp(log_density) for a concave one: from its largest value to where it has lost 80 nats."""
    left, right = low, high
    while right - left > mpf(10) ** (8 - mp.dps) * (high - low):
        third = (right - left) / 3
        if log_density(left + third) < log_density(right - third):
            left += third
        else:
            right -= third
    mode = max((low, (left + right) / 2, high), key=log_density)
    top = log_density(mode)

    def reach(bound: mpf) -> mpf:
        """How far from the mode all but the last 80 nats are lost, within a factor of two, or the bound."""
        far = bound - mode
        while far and top - log_density(mode + far / 2) > 80:
            far /= 2
        return far

    digits, total = mp.dps, mpf(0)
    for length in (reach(low), reach(high)):

        def relative(part: mpf, length: mpf = length) -> mpf:
            with mp.workdps(digits):  # the differences of densities need them, their integral does not
                return mpmath.exp(log_density(mode + length * part) - top)

        with mp.workdps(25):
            total += abs(length) * mpmath.quad(relative, [mpf(k) / 8 for k in range(9)], method="gauss-legendre")
    return top + mpmath.log(total)
