"""What `predict` returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ._summary import Summary, summarise


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    r"""S samples of a network's output for B examples, and what they say together.

    .. math::
        \underbrace{H\Big(\tfrac1S \sum_s p_s\Big)}_{\text{entropy}} =
        \underbrace{\tfrac1S \sum_s H(p_s)}_{\text{expected entropy}} + \text{mutual information}, \qquad
        H(p) = -\sum_k p_k \log p_k

    The expected entropy is what every sample doubts, the mutual information what they disagree about. Entropies are in
    nats, over the classes in dimension 1 of an example's output. Names that end in ``_se`` are Monte-Carlo standard
    errors: how far the number is from that of infinitely many samples (delta method for the entropies; the bias, of
    order 1/S, is not in them). With one sample, variance and standard errors are 0.

    Where a loader was streamed, or several predictions of that kind were joined, the samples are not kept.

    Args:
        samples: (S, B, K), (S, B, K, H, W) or any (S, B, ...); None if they were not kept.
        summary: Statistics of the samples; computed from them when first asked for.
        num_samples: S; taken from the samples.
        members: How many networks of an ensemble gave S / members samples each, one after the other. The standard
            errors are then those of sampling, with the members as they are.
        draw: Which networks were drawn: predictions with the same number have theirs from the same ones; None if that
            is not known.

    Raises:
        ValueError: If the samples have no dimensions S and B, or nothing is given.

    Source: Depeweg et al. 2018 (the decomposition). Oracle: ``tests/prediction/oracles.py``.

    Example:
        >>> two = Prediction(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))   # two samples that are sure of the opposite
        >>> two
        Prediction(2 samples of (1, 2))
        >>> two.entropy.item() == two.mutual_information.item(), two.expected_entropy.item()
        (True, 0.0)
    """

    samples: Tensor | None
    summary: Summary | None = None
    num_samples: int = 0
    members: int = 1
    draw: int | None = None

    def __post_init__(self) -> None:
        samples = self.samples
        if samples is None:
            if self.summary is None or self.num_samples < 1:
                raise ValueError("without samples, a summary and num_samples are needed")
            return
        if samples.ndim < 2 or not len(samples):
            raise ValueError(f"the samples have shape {tuple(samples.shape)}, expected (S, B, ...) with S >= 1")
        if len(samples) % self.members:
            raise ValueError(f"{len(samples)} samples cannot be shared by {self.members} members equally")
        object.__setattr__(self, "num_samples", len(samples))
        if not samples.is_floating_point():
            object.__setattr__(self, "samples", samples.to(torch.get_default_dtype()))

    @cached_property
    def _all(self) -> Summary:
        if self.summary is not None:
            return self.summary
        assert self.samples is not None
        return summarise(self.samples, self.members)

    @property
    def probs(self) -> Tensor:
        """The samples, (S, B, K): probabilities, or whatever the link gave."""
        if self.samples is None:
            raise ValueError(
                "the samples of a loader are not kept, they would take S times the memory of the data set; "
                "mean, variance and the entropies are here. Pass a tensor to predict to have the samples."
            )
        return self.samples

    @property
    def mean(self) -> Tensor:
        """Mean over samples, (B, K)."""
        return self._all.mean

    @property
    def mean_se(self) -> Tensor:
        """Standard error of `mean`, (B, K)."""
        return self._all.mean_se

    @property
    def variance(self) -> Tensor:
        """Unbiased variance over samples, (B, K); 0 for a single sample."""
        return self._all.variance

    @property
    def entropy(self) -> Tensor:
        """Entropy of the mean, (B,), nats."""
        return self._probabilistic("entropy")

    @property
    def entropy_se(self) -> Tensor:
        """Standard error of `entropy`, (B,), nats."""
        return self._probabilistic("entropy_se")

    @property
    def expected_entropy(self) -> Tensor:
        """Mean entropy of the samples, (B,), nats."""
        return self._probabilistic("expected_entropy")

    @property
    def expected_entropy_se(self) -> Tensor:
        """Standard error of `expected_entropy`, (B,), nats."""
        return self._probabilistic("expected_entropy_se")

    @property
    def mutual_information(self) -> Tensor:
        """Information that the draw has about the class: `entropy` - `expected_entropy` >= 0, (B,), nats."""
        return self._probabilistic("mutual_information")

    @property
    def mutual_information_se(self) -> Tensor:
        """Standard error of `mutual_information`, (B,), nats."""
        return self._probabilistic("mutual_information_se")

    def _probabilistic(self, name: str) -> Tensor:
        value = getattr(self._all, name)
        if value is None:
            raise ValueError(
                f"{name} is defined for probabilities only, and these outputs {tuple(self.mean.shape)} are none: along "
                "dimension 1 they are not >= 0 with sum 1. Use mean, variance and mean_se, or a link that gives "
                "probabilities."
            )
        return value

    def __len__(self) -> int:
        """B, the number of examples."""
        return self.samples.shape[1] if self.samples is not None else len(self._all.mean)

    def __repr__(self) -> str:
        shape = self.samples.shape[1:] if self.samples is not None else self._all.mean.shape
        return f"Prediction({self.num_samples} sample{'s' * (self.num_samples != 1)} of {tuple(shape)})"

    def summarised(self) -> Prediction:
        """The same without its samples."""
        return Prediction(None, self._all, self.num_samples, self.members, self.draw)

    def to(self, device: torch.device | str) -> Prediction:
        """The same on another device."""
        samples = None if self.samples is None else self.samples.to(device)
        known = self.__dict__.get("_all", self.summary)
        summary = None if known is None else known.map(lambda t: t.to(device))
        return Prediction(samples, summary, self.num_samples, self.members, self.draw)

    def rows(self, index: Tensor) -> Prediction:
        """Some of the examples, by their positions, in that order.

        Args:
            index: Positions, (n,), int64.
        """
        samples = None if self.samples is None else self.samples[:, index.to(self.samples.device)]
        known = self.__dict__.get("_all", self.summary)
        summary = None if known is None else known.map(lambda t: t[index.to(t.device)])
        return Prediction(samples, summary, self.num_samples, self.members, self.draw)

    @staticmethod
    def cat(parts: Sequence[Prediction]) -> Prediction:
        """Predictions for several batches as one; the samples are kept if every part has them.

        Raises:
            ValueError: If there are none, or they differ in the number of samples or members.
        """
        kinds = {(part.num_samples, part.members) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"expected predictions with one number of samples and members, got {sorted(kinds)}")
        ((num_samples, members),) = kinds
        draws = {part.draw for part in parts}
        draw = draws.pop() if len(draws) == 1 else None
        kept = [part.samples for part in parts if part.samples is not None]
        if len(kept) == len(parts):
            return Prediction(torch.cat(kept, 1), None, num_samples, members, draw)
        return Prediction(None, Summary.cat([part._all for part in parts]), num_samples, members, draw)
