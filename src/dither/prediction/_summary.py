"""What is kept of S samples: moments and entropies with their Monte-Carlo standard errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

# How far from one the probabilities of an example may sum and still count as such: in general, in half precision.
_TOLERANCE, _COARSE = 1e-4, 1e-2
# Values that are worked on at once in float64: large outputs (segmentation) are summarised some rows at a time.
_CHUNK = 1 << 23


@dataclass(frozen=True, eq=False)
class Summary:
    """Statistics over samples; the entropies are None where the samples are no probabilities."""

    mean: Tensor
    variance: Tensor
    mean_se: Tensor
    entropy: Tensor | None = None
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    entropy_se: Tensor | None = None
    expected_entropy_se: Tensor | None = None
    mutual_information_se: Tensor | None = None

    def map(self, fn: Callable[[Tensor], Tensor]) -> Summary:
        """The same with ``fn`` applied to every tensor."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {name: None if value is None else fn(value) for name, value in values.items()}
        return Summary(**mapped)

    @classmethod
    def cat(cls, parts: Sequence[Summary]) -> Summary:
        """Several batches as one; entropies stay if every part has them."""
        joined: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            values = [getattr(part, name) for part in parts]
            joined[name] = None if any(value is None for value in values) else torch.cat(values)
        return cls(**joined)


def are_probabilities(samples: Tensor) -> bool:
    """Whether (S, B, K, ...) holds classes along dimension 2: none negative, and they sum to one."""
    if samples.ndim < 3:
        return False
    tolerance = _COARSE if samples.dtype.itemsize == 2 else _TOLERANCE
    return all(bool((s >= -tolerance).all()) and bool(((s.sum(1) - 1).abs() <= tolerance).all()) for s in samples)


def summarise(samples: Tensor, members: int = 1) -> Summary:
    """Moments over samples (S, B, ...), and entropies over classes (dimension 2) if these are probabilities.

    Sums are taken in float64 and answered in the dtype of ``samples``. Of ``members`` networks, each gave the same
    number of samples, one after the other; standard errors are those of sampling, the members being given.
    """
    entropies = are_probabilities(samples)
    rows = max(1, _CHUNK // max(1, samples[:, :1].numel()))
    wide = torch.float32 if samples.device.type == "mps" else torch.float64  # MPS has no float64
    parts = [_summarise(part.to(wide), members, entropies) for part in samples.split(rows, 1)]
    return (parts[0] if len(parts) == 1 else Summary.cat(parts)).map(lambda t: t.to(samples.dtype))


def _summarise(p: Tensor, members: int, entropies: bool) -> Summary:
    r"""The statistics of one chunk.

    With the mean m and, for each sample,

    .. math:: c_s = -\sum_k p_{sk} \log m_k, \qquad h_s = -\sum_k p_{sk} \log p_{sk},

    the entropy of the mean is the mean of c, the expected entropy the mean of h. To first order, c, h and c - h also
    vary with the draw as entropy, expected entropy and mutual information do (the delta method: the gradient of the
    entropy at m is -log m - 1, and that p sums to one takes the 1 away).
    """
    mean = p.mean(0)
    variance = p.var(0) if len(p) > 1 else torch.zeros_like(mean)
    if not entropies:
        return Summary(mean, variance, _standard_error(p, members))
    p, mean = p.clamp_min(0), mean.clamp_min(0)
    inside = torch.special.entr(p).sum(2)
    cross = -torch.special.xlogy(p, mean).sum(2)
    entropy, expected = torch.special.entr(mean).sum(1), inside.mean(0)
    information = (entropy - expected).clamp_min(0)
    errors = (_standard_error(v, members) for v in (cross, inside, cross - inside))
    return Summary(mean, variance, _standard_error(p, members), entropy, expected, information, *errors)


def _standard_error(values: Tensor, members: int) -> Tensor:
    """Of the mean over dimension 0; 0 for single samples, which do not show how far they could have been."""
    each = values.unflatten(0, (members, -1))
    count = each.shape[1]
    if count == 1:
        return torch.zeros_like(values[0])
    return (each.var(1).sum(0) / count).sqrt() / members
