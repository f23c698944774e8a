"""What each process does with BatchNorm: fit on unequal parts of the data, with SyncBatchNorm, with errors; tune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dither
from dither import batchnorm

SIZE, BATCHES = 8, 18
# Batches of each process, the last takes what is left; a law needs no balance.
SPLITS = {"unequal": (5, 2), "the first has none": (0, 7), "the last has one": (17, 0)}
NAMES = ("loc_mean", "scale_mean", "loc_log_var", "scale_log_var", "records_mean", "records_log_var")
LAYERS = (0, 2, 4)


def make_net(sync: bool = False) -> Any:
    """BatchNorm stands first, too: what it sees is known without the library."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.BatchNorm1d(6))
    for p in net[1].parameters():
        nn.init.normal_(p, generator=generator)
    if sync:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return batchnorm.convert(net).double()


def batches(count: int = BATCHES, size: int = SIZE) -> list[Tensor]:
    """Skewed, and with a mean that is large beside the standard deviation."""
    generator = torch.Generator().manual_seed(7)
    return list((torch.randn(count * size, 4, generator=generator, dtype=torch.float64).exp() + 1e3).split(size))


def part_of(split: tuple[int, ...], rank: int, world: int) -> list[Tensor]:
    """The batches of a process."""
    ends = [sum(split[: i + 1]) for i in range(world - 1)]
    begin = ends[rank - 1] if rank else 0
    return batches()[begin : ends[rank] if rank < world - 1 else BATCHES]


def told(net: Any, report: batchnorm.FitReport) -> dict[str, Any]:
    tensors = {f"{i}.{name}": getattr(net[i].statistics, name) for i in LAYERS for name in NAMES}
    sizes = {"count": report.num_batches, "size": report.batch_size, "left_out": report.left_out}
    return {**sizes, "sample": report.layers[2].mean_sample, **tensors}


def fit(case: str, rank: int, world: int) -> dict[str, Any]:
    net = make_net()
    report = batchnorm.fit(DistributedDataParallel(net), part_of(SPLITS[case], rank, world), records=9)
    return told(net, report)


def broken(rank: int, world: int) -> dict[str, Any]:
    loader = part_of((5, 6), rank, world)
    if rank == 1:
        loader[4] = loader[4] * float("nan")
    return told(net := make_net(), batchnorm.fit(net, loader))


def other_sizes(rank: int, world: int) -> dict[str, Any]:
    loader = [batch[: 6 if rank == 1 else None] for batch in part_of((5, 6), rank, world)]
    return told(net := make_net(), batchnorm.fit(net, loader))


def empty(rank: int, world: int) -> dict[str, Any]:
    return told(net := make_net(), batchnorm.fit(net, []))


def rows(rank: int, world: int) -> list[Tensor]:
    """Of batches that all share: rows in turn, so one may hold more. The last process has a batch more than others."""
    return [batch[rank::world] for batch in batches(BATCHES + 1)][: BATCHES + (rank == world - 1)]


def sync(rank: int, world: int) -> dict[str, Any]:
    net = make_net(sync=True)
    return told(net, batchnorm.fit(net, rows(rank, world), records=9))


def sync_broken(rank: int, world: int) -> dict[str, Any]:
    loader = rows(rank, world)
    if rank == 1:
        loader[4] = loader[4] * float("nan")
    return told(net := make_net(sync=True), batchnorm.fit(net, loader))


def sync_mixed(rank: int, world: int) -> dict[str, Any]:
    net = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm1d(4)).double()
    return told(net := batchnorm.convert(net), batchnorm.fit(net, rows(rank, world)))


def sync_groups(rank: int, world: int) -> dict[str, Any]:
    """The first two processes share a batch; a third has batches of its own."""
    groups = [torch.distributed.new_group(ranks) for ranks in ([0, 1], [2])[: world - 1]]
    net = make_net(sync=True)
    for i in LAYERS:
        net[i].process_group = groups[rank // 2]
    loader = [batch[rank::2] for batch in batches(BATCHES)] if rank < 2 else batches(BATCHES + 2)[BATCHES:]
    return told(net, batchnorm.fit(net, loader, records=9))


def classifier() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).double()
    generator = torch.Generator().manual_seed(3)
    for p in net.parameters():
        nn.init.normal_(p, generator=generator)
    net = batchnorm.convert(net)
    with dither.alone():
        batchnorm.fit(net, held_out_inputs().split(10))
    return net


def held_out_inputs() -> Tensor:
    return torch.randn(90, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def labelled() -> Iterator[tuple[Tensor, Tensor]]:
    """Nine batches with labels that the inputs say something about."""
    x = held_out_inputs()
    return zip(x.split(10), (x[:, 0] > 0).long().split(10), strict=True)


def tune(rank: int, world: int) -> dict[str, Any]:
    """Batches in turn; the second process has none, and every process another generator."""
    net = classifier()
    owners = [other for other in range(world) if other != 1]
    mine = [batch for i, batch in enumerate(labelled()) if owners[i % len(owners)] == rank]
    generator = torch.Generator().manual_seed(rank)
    report = batchnorm.tune(net, mine, batch_sizes=[2, 10, 50], num_samples=4, generator=generator)
    return {**vars(report), "now": float(net[1].statistics.batch_size)}  # pyright: ignore[reportIndexIssue]


CHECKS: dict[str, Callable[[int, int], Any]] = {
    **{f"fit, {case}": partial(fit, case) for case in SPLITS},
    "fit, broken": broken,
    "fit, other sizes": other_sizes,
    "fit, empty": empty,
    "fit, sync": sync,
    "fit, sync broken": sync_broken,
    "fit, sync mixed": sync_mixed,
    "fit, sync groups": sync_groups,
    "tune": tune,
}
