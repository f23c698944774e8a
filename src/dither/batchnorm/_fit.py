"""fit: find the law of the mini-batch statistics."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._inputs import call, evaluating
from .._processes import unwrapped
from .._sampling import sampling
from ._laws import Law
from ._loading import EqualBatches, checked_loader
from ._moments import Moments
from ._observe import Observed, Observer, dead_channels
from ._processes import together
from ._report import FitReport, LayerFit, describe
from ._source import find_source, set_law
from ._statistics import Statistics
from ._synchronised import find_batch

if TYPE_CHECKING:
    from ._layer import StochasticBatchNorm
    from ._source import StatisticsSource

DEFAULT_RECORDS = 512  # for laws that are made of single batches


def fit(
    net: nn.Module,
    loader: Iterable[Any],
    *,
    law: Law | None = None,
    num_batches: int | None = None,
    records: int | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> FitReport:
    r"""Mutates ``net``: finds and stores the law of the statistics of its mini-batches.

    .. math:: m_\mu = \overline{\mu_B}, \quad s_\mu^2 = \mathrm{Var}\,\mu_B, \quad
              m_l = \overline{\log\sigma_B^2}, \quad s_l^2 = \mathrm{Var}\,\log\sigma_B^2

    over training mini-batches B, for each channel; :math:`\sigma_B^2` is the biased variance with which BatchNorm
    normalises. Every converted layer normalises with its batch, and dropout and gates draw, as in training; everything
    else is in eval mode. Running statistics, parameters and modes stay as they are. If something fails, the net keeps
    the law that it had.

    The moments are central from the first batch on and merged in float64, also across the processes of
    ``torch.distributed``: every process calls ``fit`` with its own part of the data, and all end with the same law. The
    batch of SyncBatchNorm is that of all processes, so they go through their batches in step until one has no more.

    A channel whose variance falls below ε² in some batch is dead: its :math:`\sigma^2` is the constant mean of
    :math:`\sigma_B^2`, not less than ε², and a warning tells how many there are.

    Source: Atanov et al. 2018, section 3. Oracle: ``tests/batchnorm/oracles.py::law``.

    Args:
        net: What `convert` returned, trained.
        loader: Batches of training data, shuffled and augmented as in training, and **of the batch size of
            training**: the noise is that of this size (`rescale` changes it afterwards). Batches are tensors, tuples
            that begin with the input, or dicts. A smaller last batch is left out.
        law: What to draw from, see `Law`; None keeps the law of ``net``, at first `Factorized`.
        num_batches: How many batches to look at, in each process; None is the whole loader. The standard deviations
            are known to about :math:`1/\sqrt{2n}`: 5 % from 200 batches.
        records: Of how many batches, the first ones, to keep the statistics themselves. None: of up to 512 if the law
            is made of them, otherwise of none.
        progress: Called as ``progress(done, total)`` after every batch; the total is None if it is not known.

    Returns:
        What was found; print it.

    Raises:
        TypeError: If the loader is a tensor or not iterable, or ``law`` is no law.
        ValueError: If the net has no converted layer or calls none of them; if the loader is empty, has one batch,
            batches of one example or of unequal sizes, or yields what cannot be understood or is not finite; if an
            argument is out of range; if SyncBatchNorm stands beside BatchNorm, or has several process groups.
        RuntimeError: If another process failed.

    Example:
        >>> from dither import batchnorm
        >>> net = batchnorm.convert(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)))
        >>> report = batchnorm.fit(net, torch.randn(3200, 3).split(32))
        >>> report.num_batches, report.batch_size, report.layers[0].name
        (100, 32, '1')
    """
    started = time.perf_counter()
    source = find_source(net)
    num_records = _checked_arguments(source.law if law is None else law, num_batches, records)
    batches = checked_loader(loader)
    observed = together(lambda: _observe(net, source, batches, num_batches, num_records, progress), num_records)
    moments = _checked_moments(observed)
    dead = dead_channels(moments)
    found = _statistics(source.layers, observed, moments, dead)
    for name, layer in source.layers.items():
        layer.statistics = found[name].train(layer.training)
    if law is not None:
        set_law(net, law)
    layers = describe(observed, moments)
    unused = tuple(name for name in source.layers if name not in observed.columns)
    _warn(layers, unused)
    seconds = time.perf_counter() - started
    return FitReport(moments.count, observed.batch_size, seconds, layers, unused, observed.left_out)


def _checked_arguments(law: Any, num_batches: int | None, records: int | None) -> int:
    """How many records to keep."""
    if not isinstance(law, Law):
        raise TypeError(f"law is {law!r}; expected a law such as batchnorm.Factorized()")
    if num_batches is not None and num_batches < 2:
        raise ValueError(f"num_batches is {num_batches}; a law needs 2 batches at least, and hundreds to be exact")
    if records is None:
        return DEFAULT_RECORDS if law.needs_records else 0
    if records < 0 or (law.needs_records and records < 2):
        least = f"2 or more for {law}" if law.needs_records else "0 or more"
        raise ValueError(f"records is {records}; expected {least}")
    return records


def _observe(
    net: nn.Module,
    source: StatisticsSource,
    loader: Iterable[Any],
    num_batches: int | None,
    num_records: int,
    progress: Callable[[int, int | None], object] | None,
) -> Observed:
    """One pass over the data."""
    net = unwrapped(net)  # DistributedDataParallel sends buffers from process 0, which may have no batch
    total = len(loader) if hasattr(loader, "__len__") else None  # pyright: ignore[reportArgumentType]
    total = total if num_batches is None else min(num_batches, total or num_batches)
    shared = find_batch(source.layers)
    observer = Observer(source.layers, num_records, shared)
    batches = EqualBatches(net, loader, num_batches)
    with evaluating(net), sampling(net), source.observing(observer):
        for done, inputs in enumerate(batches if shared is None else shared.in_step(batches), 1):
            call(net, inputs)
            observer.end_of_pass()
            if progress is not None:
                progress(done, total)
    observed = observer.observed
    observed.batch_size, observed.left_out = batches.size, batches.left_out
    if shared is not None:
        observed.batch_size, observed.ranks = shared.size(batches.size), shared.ranks
    return observed


def _checked_moments(observed: Observed) -> Moments:
    if observed.moments is None:
        raise ValueError("the loader is empty: it yields no batch")
    if observed.moments.count < 2:
        smaller = f" (and one of {observed.left_out}, which was left out)" if observed.left_out else ""
        raise ValueError(
            f"the loader yields one batch of {observed.batch_size} examples{smaller}; a law of batch statistics needs "
            "2 batches at least, and hundreds to be exact"
        )
    return observed.moments


def _statistics(
    layers: dict[str, StochasticBatchNorm], observed: Observed, moments: Moments, dead: Tensor
) -> dict[str, Statistics]:
    """The statistics of every layer, on its device; without a site for layers that were not called."""
    mean, log_var, var, _ = moments.mean.view(4, -1)
    scale_mean, scale_log_var, _, _ = moments.std.view(4, -1)
    rows = (mean, scale_mean, torch.where(dead, var.log(), log_var), scale_log_var.where(~dead, 0.0))
    records = _records(observed, rows[2], dead)
    columns, sites = observed.columns, observed.sites
    double = {place.layer for place in observed.places if place.double}
    found: dict[str, Statistics] = {}
    for name, layer in layers.items():
        part, shape = columns.get(name, slice(0, 0)), (sites.get(name, 0), layer.num_features)
        device = next((t.device for t in (*layer.parameters(False), *layer.buffers(False))), mean.device)
        dtype = torch.float64 if name in double else torch.float32
        found[name] = Statistics(
            *(row[part].view(shape).to(device, dtype) for row in rows),
            num_batches=moments.count,
            batch_size=observed.batch_size,
            records_mean=records[:, 0, part].reshape(len(records), *shape).to(device, dtype),
            records_log_var=records[:, 1, part].reshape(len(records), *shape).to(device, dtype),
        )
    return found


def _records(observed: Observed, loc_log_var: Tensor, dead: Tensor) -> Tensor:
    """(K, 2, T); the variance of dead channels is the same in all."""
    if not observed.records:
        return torch.empty(0, 2, len(dead))
    records = torch.stack(observed.records).view(len(observed.records), 2, -1)
    records[:, 1] = torch.where(dead.cpu(), loc_log_var.to("cpu", records.dtype), records[:, 1])
    return records


def _warn(layers: tuple[LayerFit, ...], unused: tuple[str, ...]) -> None:
    """Tell about channels and layers from which no noise will come."""
    if dead := [f"{layer.dead} of {layer.num_features} in {layer.name!r}" for layer in layers if layer.dead]:
        warnings.warn(
            f"dead channels, with a variance below ε² in some batch: {', '.join(dead)}. Their variance gets no noise.",
            stacklevel=3,
        )
    if unused:
        warnings.warn(
            f"converted layers that no forward pass calls: {', '.join(unused)}. They have no law.", stacklevel=3
        )
