"""How a metric depends on the number of samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._classification import nll


def nll_by_samples(
    probs: Tensor, target: Tensor, num_samples: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""NLL of the mean of s samples, for several s, from one prediction with many samples.

    The S samples are cut into ⌊S/s⌋ groups of s that share nothing; each group is one prediction.

    Args:
        probs: probabilities, (S, N, K), as ``dither.predict(...).probs``.
        target: class numbers, (N,).
        num_samples: the s, each from 1 to S; default: the powers of two up to S.

    Returns:
        The numbers of samples; the mean NLL over the groups, nats; its standard deviation between groups (0 where
        there is one group): (L,) each. The mean's own error is the deviation divided by √⌊S/s⌋.

    Raises:
        ValueError: If ``probs`` is not (S, N, K), or an s is below 1 or above S.

    Example:
        >>> probs = torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]])          # two samples of one example
        >>> numbers, mean, spread = nll_by_samples(probs, torch.tensor([0]))
        >>> numbers.tolist(), [round(v, 3) for v in mean.tolist()], [round(v, 3) for v in spread.tolist()]
        ([1, 2], [0.399, 0.357], [0.416, 0.0])
    """
    if probs.ndim != 3 or not len(probs):
        raise ValueError(f"probs has shape {tuple(probs.shape)}, expected (S, N, K): samples first, at least one")
    total = len(probs)
    numbers = [2**i for i in range(total.bit_length())] if num_samples is None else list(num_samples)
    if not numbers or min(numbers) < 1 or max(numbers) > total:
        raise ValueError(f"num_samples is {numbers}, expected numbers from 1 to the {total} samples of probs")
    means: list[Tensor] = []
    spreads: list[Tensor] = []
    for size in numbers:
        groups = [probs[begin : begin + size].mean(0) for begin in range(0, total - size + 1, size)]
        values = torch.tensor([nll(group, target) for group in groups], dtype=torch.float64)
        means.append(values.mean())
        spreads.append(values.std() if len(values) > 1 else torch.zeros((), dtype=torch.float64))
    return torch.tensor(numbers), torch.stack(means), torch.stack(spreads)
