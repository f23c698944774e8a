"""tune: choose the size of the noise on held-out data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import Inputs, call, evaluating
from .._processes import decided, gathered, unwrapped
from ..prediction import predict
from ..prediction._link import softmax
from ._loading import checked_batch, checked_loader
from ._rescale import rescale, sizes

GRID = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # times the batch size of the fit


@dataclass(frozen=True)
class TuneReport:
    """NLL of every batch size that `tune` tried. ``print(report)`` is a table.

    Attributes:
        batch_sizes: What was tried, ascending.
        nll: Mean negative log-likelihood of each, nats per example.
        nll_se: Its standard error from the choice of the examples.
        above: NLL above that of the best.
        above_se: Standard error of `above`: the examples and the draws are the same for all sizes, so differences are
            known much better than the NLL.
        monte_carlo_se: Standard error of `nll` from the finite number of samples.
        best: The size with the lowest NLL, which the network has now.
        fitted: The size at which it was fitted.
        single: NLL of a single pass in ``eval()``, without any draw.
        num_examples: Examples, or pixels where the network labels pixels.
        num_samples: S.
    """

    batch_sizes: tuple[float, ...]
    nll: tuple[float, ...]
    nll_se: tuple[float, ...]
    above: tuple[float, ...]
    above_se: tuple[float, ...]
    monte_carlo_se: tuple[float, ...]
    best: float
    fitted: float
    single: float
    num_examples: int
    num_samples: int

    def __str__(self) -> str:
        lines = [f"NLL of {self.num_examples:,} held-out examples, {self.num_samples} samples"]
        lines.append("batch size       NLL        ±   above the best        ±   Monte Carlo ±")
        columns = zip(
            self.batch_sizes, self.nll, self.nll_se, self.above, self.above_se, self.monte_carlo_se, strict=True
        )
        for size, nll, nll_se, above, above_se, monte_carlo in columns:
            mark = " best" * (size == self.best) + " fitted" * (size == self.fitted)
            numbers = f"{size:10g}  {nll:8.5f}  {nll_se:7.5f}   {above:14.5f}  {above_se:7.5f}   {monte_carlo:13.5f}"
            lines.append(numbers + mark)
        lines.append(f"without sampling, eval(): {self.single:.5f}")
        edges = [size for size in (self.batch_sizes[0], self.batch_sizes[-1]) if size == self.best]
        if edges and len(self.batch_sizes) > 1:
            lines.append(f"the best is at the edge of what was tried; give batch_sizes beyond {edges[0]:g}")
        return "\n".join(lines)


def tune(
    net: nn.Module,
    loader: Iterable[Any],
    *,
    batch_sizes: Sequence[float] | None = None,
    num_samples: int = 16,
    generator: torch.Generator | None = None,
) -> TuneReport:
    r"""Mutates ``net``: `rescale` to the batch size whose predictions have the lowest NLL on held-out data.

    .. math:: \mathrm{NLL}(B) = -\frac{1}{N} \sum_n \log \frac{1}{S} \sum_s p(y_n \mid x_n, \mu_s, \sigma_s^2; B)

    A larger batch size is less noise. Every size is asked about the same examples with the same draws. One pass over
    the loader. In a job of several processes (`torch.distributed`) each calls this with its own part of the examples;
    all draw what the first draws, and all end with the size that is best for all examples.

    Args:
        net: A fitted network that classifies; its modes stay as they are.
        loader: Labelled batches (inputs, target) or dicts **that were not trained on, and are not what you report
            on**: on training data too little noise looks best, and a choice made on test data flatters the test.
        batch_sizes: What to try. None: powers of two, from a quarter of the size of the fit to 64 times it.
        num_samples: S for each size.
        generator: Where draws come from; None takes a seed from torch's global generator.

    Returns:
        The table; print it.

    Raises:
        TypeError: If the loader is a tensor or not iterable.
        ValueError: If ``net`` is not fitted, the loader is empty, has no labels or yields what cannot be understood, a
            size is not positive and finite, or ``num_samples`` is below 1.
        RuntimeError: If another process failed.

    Example:
        >>> from dither import batchnorm
        >>> net = batchnorm.convert(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)))
        >>> report = batchnorm.fit(net, torch.randn(640, 3).split(32))
        >>> held_out = [(torch.randn(100, 3), torch.randint(2, (100,)))]
        >>> batchnorm.tune(net, held_out, batch_sizes=[8, 32, 128], num_samples=4).batch_sizes
        (8.0, 32.0, 128.0)
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected at least 1")
    net = unwrapped(net)
    fitted = sizes(net)[1]
    tried = _checked_sizes([factor * fitted for factor in GRID] if batch_sizes is None else batch_sizes)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()))) if generator is None else generator
    tried, state = decided(lambda: (tried, generator.get_state()))
    generator.set_state(state)
    found = _Losses.cat(gathered(lambda: _ask(net, checked_loader(loader), tried, num_samples, generator)))
    if not len(found.single):
        raise ValueError("the loader is empty: it yields no batch")
    report = _report(tried, found, fitted, num_samples)
    rescale(net, batch_size=report.best)
    return report


@dataclass(frozen=True)
class _Losses:
    """Losses of examples, (sizes, N), weights of samples in their sum, (sizes, S), and losses without a draw, (N,)."""

    sampled: Tensor
    weights: Tensor
    single: Tensor

    @classmethod
    def cat(cls, parts: Sequence[_Losses]) -> _Losses:
        """Of all the examples."""
        weights = torch.stack([part.weights for part in parts]).sum(0)
        return cls(torch.cat([p.sampled for p in parts], 1), weights, torch.cat([p.single for p in parts]))


def _ask(
    net: nn.Module, loader: Iterable[Any], tried: Sequence[float], num_samples: int, generator: torch.Generator
) -> _Losses:
    """What each size loses on the examples of this process; the network is left as it was."""
    before, draws = sizes(net)[0], generator.get_state()
    none = torch.empty(0, dtype=torch.float64)
    parts = [_Losses(none.expand(len(tried), 0), none.new_zeros(len(tried), num_samples), none)]
    try:
        with evaluating(net):
            for number, batch in enumerate(loader):
                inputs, target = _labelled(net, batch, number)
                single = -_chosen(softmax(call(net, inputs)), target).log()
                asked: list[tuple[Tensor, Tensor]] = []
                for size in tried:
                    rescale(net, batch_size=size)
                    generator.set_state(draws)
                    asked.append(_losses(net, inputs, target, num_samples, generator))
                losses, weights = (torch.stack(values) for values in zip(*asked, strict=True))
                parts.append(_Losses(losses, weights, single))
    finally:
        rescale(net, batch_size=before)
    return _Losses.cat(parts)


def _checked_sizes(sizes: Sequence[float]) -> list[float]:
    if not sizes:
        raise ValueError("batch_sizes is empty; give at least one batch size, or None for a grid")
    if bad := [size for size in sizes if not (math.isfinite(size) and size > 0)]:
        raise ValueError(f"batch_sizes holds {bad[0]}; expected positive, finite numbers of examples")
    return sorted({float(size) for size in sizes})


def _labelled(net: nn.Module, batch: Any, number: int) -> tuple[Inputs, Tensor]:
    inputs, target, _ = checked_batch(net, batch, number)
    if target is None:
        raise ValueError(
            f"batch {number} of the loader has no labels; tune needs (inputs, target) or a dict with a label"
        )
    if target.is_floating_point() or target.is_complex():
        raise ValueError(f"the labels in batch {number} are {target.dtype}; tune needs class numbers (integers)")
    return inputs, target


def _chosen(probs: Tensor, target: Tensor) -> Tensor:
    """Probability of every label, (N,), from (B, K, *) and (B, *); float64 and never 0."""
    if (probs.shape[0], *probs.shape[2:]) != tuple(target.shape):
        got, expected = tuple(target.shape), (probs.shape[0], *probs.shape[2:])
        raise ValueError(f"the labels have shape {got}; for probabilities {tuple(probs.shape)} they need {expected}")
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= probs.shape[1]:
        raise ValueError(f"the labels go from {low} to {high}; the network has the classes 0 to {probs.shape[1] - 1}")
    chosen = probs.gather(1, target.long().unsqueeze(1)).flatten()
    return chosen.cpu().double().clamp_min(torch.finfo(torch.float32).tiny)


def _losses(
    net: nn.Module, inputs: Inputs, target: Tensor, num_samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Loss of every example, (N,), and the weight of every sample in their sum, (S,)."""
    probs = predict(net, inputs, num_samples, generator=generator).probs
    chosen = torch.stack([_chosen(p, target) for p in probs])
    mean = chosen.mean(0)
    return -mean.log(), (chosen / mean).sum(1)


def _report(sizes: Sequence[float], found: _Losses, fitted: float, num_samples: int) -> TuneReport:
    count = len(found.single)
    means = found.sampled.mean(1).tolist()
    best = min(range(len(sizes)), key=means.__getitem__)
    differences = found.sampled - found.sampled[best]
    return TuneReport(
        batch_sizes=tuple(sizes),
        nll=tuple(means),
        nll_se=tuple(_standard_error(loss) for loss in found.sampled),
        above=tuple(differences.mean(1).tolist()),
        above_se=tuple(_standard_error(difference) for difference in differences),
        # dNLL = -Σ_s dp_s / (N p): by the delta method the error of the mean of these weights over samples.
        monte_carlo_se=tuple(_standard_error(weight / count) for weight in found.weights),
        best=sizes[best],
        fitted=fitted,
        single=float(found.single.mean()),
        num_examples=count,
        num_samples=num_samples,
    )


def _standard_error(values: Tensor) -> float:
    """Of the mean; 0 for a single value."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0
