"""Temperature scaling: one number, fitted on held-out data, that makes confidences honest on average."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ._checks import classified, probabilities
from ._classification import log_probs

# Where the search ends. 1000 makes a coin of the log-odds of a float32 that underflowed, 87.
COLDEST, HOTTEST = 0.05, 1000.0
_STEPS = 60


def fit_temperature(probs: Tensor, target: Tensor) -> float:
    r"""Temperature with the lowest NLL, for held-out data.

    .. math:: t^* = \operatorname{argmin}_t -\frac1N \sum_n \log p^{(t)}_{n y_n}, \; p^{(t)}_{nk} \propto p_{nk}^{1/t}

    The NLL is convex in 1/t, so its derivative, E[z] - z_y with z = log p, has at most one root; it is found by
    Newton steps that bisection keeps inside a bracket. Above 1: the network was too sure.
    Source: Guo et al. 2017; on averaged probabilities instead of logits as in Ashukha et al. 2020.

    Args:
        probs: probabilities, (N, K), of data that neither training nor the later score uses.
        target: class numbers, (N,).

    Returns:
        The temperature, between 0.05 and 1000. At an end there is no optimum, for example because every held-out answer
        was right; a warning says so.

    Raises:
        ValueError: If the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1]] * 4)              # 90 % sure, right three times out of four
        >>> t = fit_temperature(probs, torch.tensor([0, 0, 0, 1]))
        >>> apply_temperature(probs, t)[0]
        tensor([0.7500, 0.2500])
    """
    _, labels = classified(probs, target)
    z = log_probs(probs)
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    mean_of_truth = z.gather(1, labels[:, None]).mean().item()

    def derivatives(inverse: float) -> tuple[float, float]:
        q = (inverse * z).softmax(1)
        mean = (q * z).sum(1, keepdim=True)
        return mean.mean().item() - mean_of_truth, (q * (z - mean).square()).sum(1).mean().item()

    if not bool(z.var(1, correction=0).max() > 0):
        return 1.0  # every row is uniform, and stays so at every temperature
    for end, ended, what in ((low, derivatives(low)[0] >= 0, "more"), (high, derivatives(high)[0] <= 0, "less")):
        if ended:
            note = f"the held-out data have no best temperature, {what} doubt is always better; {1 / end:g} is used"
            warnings.warn(note, stacklevel=2)
            return 1 / end
    for _ in range(_STEPS):
        slope, curvature = derivatives(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        step = step if low < step < high else math.sqrt(low * high)
        if abs(step - inverse) <= 1e-12 * inverse:
            break
        inverse = step
    return 1 / inverse


def apply_temperature(probs: Tensor, t: float) -> Tensor:
    r"""Probabilities at another temperature.

    .. math:: p^{(t)}_{nk} = p_{nk}^{1/t} \Big/ \sum_j p_{nj}^{1/t}

    The order of the classes stays, so the accuracy does. A probability of 0 counts as the smallest normal number of
    its dtype, as in `nll`.

    Args:
        probs: probabilities, (N, K).
        t: temperature > 0; above 1 is less sure.

    Returns:
        (N, K), with dtype and device of ``probs``.

    Raises:
        ValueError: If ``t`` is not positive and finite, or ``probs`` is empty or no probabilities.

    Example:
        >>> apply_temperature(torch.tensor([[0.9, 0.1]]), 2.0)
        tensor([[0.7500, 0.2500]])
    """
    if not (math.isfinite(t) and t > 0):
        raise ValueError(f"the temperature is {t}, expected a positive number")
    probabilities("probs", probs)
    dtype = probs.dtype if probs.is_floating_point() else torch.get_default_dtype()
    return (log_probs(probs) / t).softmax(1).to(device=probs.device, dtype=dtype)


def calibrated_nll(probs: Tensor, target: Tensor, held_out_probs: Tensor, held_out_target: Tensor) -> float:
    """NLL after temperature scaling; the temperature comes from held-out data, never from the data that are scored.

    Args:
        probs: probabilities of the data to score, (N, K).
        target: their class numbers, (N,).
        held_out_probs: probabilities of the held-out data, (M, K), of the same predictor.
        held_out_target: their class numbers, (M,).

    Returns:
        Nats per example.

    Raises:
        ValueError: If the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> probs, target = torch.tensor([[0.9, 0.1]] * 4), torch.tensor([0, 0, 0, 1])
        >>> from dither.metrics import nll
        >>> round(nll(probs, target), 4), round(calibrated_nll(probs, target, probs, target), 4)
        (0.6547, 0.5623)
    """
    classified(probs, target)
    if probs.shape[1:] != held_out_probs.shape[1:]:
        got = tuple(probs.shape), tuple(held_out_probs.shape)
        raise ValueError(f"probs has shape {got[0]} and held_out_probs {got[1]}, expected the same classes")
    t = fit_temperature(held_out_probs, held_out_target)
    return nll_at(probs, target, t)


def nll_at(probs: Tensor, target: Tensor, t: float) -> float:
    """NLL of the probabilities at temperature ``t``, in float64 throughout."""
    _, labels = classified(probs, target)
    return torch.nn.functional.cross_entropy(log_probs(probs) / t, labels).item()
