"""Bayesian model reduction: what another prior would do to the evidence, from the posterior alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ._interval import Interval, interval
from ._log_uniform import LogUniform
from ._truncated_log_normal import TruncatedLogNormal, home


@torch.no_grad()
def evidence_change(posterior: TruncatedLogNormal, reduced: LogUniform | TruncatedLogNormal) -> Tensor:
    r"""What log p(data) would gain if the prior p of θ, log-uniform on [a, b], were replaced by ``reduced``, p̃.

    .. math:: \Delta F = \log \int p(\text{data} \mid \theta)\, \tilde p(\theta)\, d\theta - \log p(\text{data})
        = \log E_{q} \frac{\tilde p(\theta)}{p(\theta)}
        = \log(b - a) + \log \int q(z)\, \tilde p(z)\, dz, \qquad z = \log\theta

    where q is the posterior: p(data | θ) = q(θ) p(data) / p(θ). For an approximate q, ΔF is approximate.
    The integrand is a normal density on the interval of p̃ once more, so its integral is a normaliser. It is divided by
    those of q and p̃, each measured from its own mode, and what remains of the exponents is a sum of two squares.
    So every digit counts also where q and p̃ share no mass that float64 could hold.

    Source: Friston and Penny 2011, "Post hoc Bayesian model selection", for the first line; the rest is derived here.
    Oracle: ``tests/oracles.py::evidence_change``, numerical integration.

    Args:
        posterior: q, on [a, b]. Its prior is log-uniform on the same interval, as that of `dither.pruning.kl`.
        reduced: p̃, on [a, b] or a part of it.

    Returns:
        ΔF in nats, float64, without gradient, of the shape that the two broadcast to. It is positive where the data
        prefer ``reduced``.

    Raises:
        ValueError: If ``reduced`` reaches beyond [a, b].

    Example:
        >>> q = TruncatedLogNormal(torch.tensor([-0.1, -12.0]), torch.tensor([0.1, 3.0]))
        >>> evidence_change(q, LogUniform(-20.0, -5.5))  # far from zero, and next to it
        tensor([-1.4624e+03,  3.0631e-01], dtype=torch.float64)
    """
    device = home(posterior.loc.device)
    low, high = reduced.log_low.to(device), reduced.log_high.to(device)
    if not bool(((low >= posterior.log_low) & (high <= posterior.log_high)).all()):
        raise ValueError(
            f"the reduced prior lies on [{float(low.min()):g}, {float(high.max()):g}], which reaches beyond the "
            f"posterior's [{float(posterior.log_low.max()):g}, {float(posterior.log_high.min()):g}]; both are bounds "
            "of log θ. Give one that lies within."
        )
    loc, scale = posterior.loc.to(device, torch.float64), posterior.scale.to(device, torch.float64)
    if isinstance(reduced, LogUniform):
        origin = loc.clamp(low, high)
        q = interval(loc - origin, scale, posterior.log_low - origin, posterior.log_high - origin)
        product = interval(loc - origin, scale, low - origin, high - origin)
        log_p = -torch.log(high - low)
    else:
        loc_p, scale_p = reduced.loc.to(device, torch.float64), reduced.scale.to(device, torch.float64)
        # Count from the mode of the narrower law, which decides where their product lies: every digit of that counts.
        narrower = scale <= scale_p
        origin = torch.where(narrower, loc, loc_p).clamp(low, high)
        q = interval(loc - origin, scale, posterior.log_low - origin, posterior.log_high - origin)
        p = interval(loc_p - origin, scale_p, low - origin, high - origin)
        ratio = scale / scale_p
        to_p, to_q = (loc_p - loc) / (1 + ratio**-2), (loc - loc_p) / (1 + ratio**2)
        both = torch.where(narrower, loc - origin + to_p, loc_p - origin + to_q)
        product = interval(both, scale / torch.hypot(ratio, torch.ones_like(ratio)), low - origin, high - origin)
        log_p = -_energy(p, product.mode) - torch.log(p.scale * p.total)
    log_q = -_energy(q, product.mode) - torch.log(q.scale * q.total)
    log_integral = log_q + log_p + torch.log(product.scale * product.total)
    return torch.log(posterior.log_high - posterior.log_low) + log_integral


def _energy(law: Interval, z: Tensor) -> Tensor:
    """-log of the density at z relative to that at the mode."""
    x = (z - law.mode) / law.scale
    return (law.pull + x / 2) * x
