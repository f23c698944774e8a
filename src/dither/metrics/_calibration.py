"""Whether a confidence of 90 % is right nine times out of ten."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import classified, group_means


def ece(probs: Tensor, target: Tensor, num_bins: int = 15, adaptive: bool = False) -> float:
    r"""Expected calibration error of the most probable class.

    .. math:: \sum_b \frac{n_b}{N} \, \Big| \mathrm{accuracy}_b - \mathrm{confidence}_b \Big|

    Bins have equal widths [0, 1/B), …, [(B-1)/B, 1], or with ``adaptive`` an equal number of examples; see
    `reliability`. Summed in float64: ``torchmetrics.functional.classification.multiclass_calibration_error`` gives the
    same on small data, but adds confidences in float32, where ten thousand confidences near 1 cost the fourth digit,
    and counts a confidence of exactly 1 in a bin of its own.
    Sources: Naeini et al. 2015; Nguyen and O'Connor 2015 (equal numbers).

    Args:
        probs: probabilities, (N, K).
        target: class numbers, (N,).
        num_bins: number of bins.
        adaptive: bins of equal numbers of examples, so that no bin is a handful of them.

    Returns:
        A share in [0, 1]; times 100 it is in percentage points.

    Raises:
        ValueError: If ``num_bins < 1``, or the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25]])
        >>> ece(probs, torch.tensor([0, 0, 0, 1])), ece(probs, torch.tensor([0, 0, 1, 1]))
        (0.0, 0.25)
    """
    confidence, right, share = reliability(probs, target, num_bins, adaptive)
    return (share * (right - confidence).abs()).sum().item()


def reliability(
    probs: Tensor, target: Tensor, num_bins: int = 15, adaptive: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Confidence and accuracy by bins of the confidence: the bars of a reliability diagram.

    The confidence is the largest probability of a row. Bins that hold nothing are left out. Examples of the same
    confidence that an adaptive bin divides count with their mean accuracy, so the order of the data does not matter.

    Args:
        probs: probabilities, (N, K).
        target: class numbers, (N,).
        num_bins: number of bins; adaptive ones are never more than examples.
        adaptive: bins of equal numbers of examples instead of equal widths.

    Returns:
        Mean confidence, accuracy and share of the examples of each bin, (B,) each, float64 on the CPU.

    Raises:
        ValueError: If ``num_bins < 1``, or the inputs are empty, no probabilities, or do not fit each other.

    Example:
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
        >>> confidence, right, share = reliability(probs, torch.tensor([0, 1, 0, 0]), num_bins=4)
        >>> confidence.tolist(), right.tolist(), share.tolist()     # 1.0 belongs to the last bin
        ([0.5, 0.8333333333333334], [0.0, 0.6666666666666666], [0.25, 0.75])
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}, expected at least 1")
    values, labels = classified(probs, target)
    confidence, predicted = values.max(1)
    confidence, right = confidence.clamp_max(1.0), predicted.eq(labels).double()
    count = len(confidence)
    if adaptive:
        right, (confidence, order) = group_means(confidence, right), confidence.sort()
        right, num_bins = right[order], min(num_bins, count)
        sizes = torch.tensor([len(part) for part in torch.arange(count).tensor_split(num_bins)])
        index = torch.arange(num_bins).repeat_interleave(sizes)
    else:
        edges = torch.arange(1, num_bins, dtype=torch.float64) / num_bins
        index = torch.bucketize(confidence, edges, right=True)
    number = torch.bincount(index, minlength=num_bins)
    filled = number > 0
    sums = [torch.bincount(index, weights=each, minlength=num_bins)[filled] for each in (confidence, right)]
    number = number[filled].double()
    return sums[0] / number, sums[1] / number, number / count
