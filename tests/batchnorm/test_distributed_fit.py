"""Two Gloo processes with unequal numbers of batches against one process that sees everything."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from dither import batchnorm

SIZE = 8
SPLITS = {"unequal": (5, 11), "one has none": (0, 16), "one has one": (15, 1)}
FAILURES = {
    "broken": ("RuntimeError: process 1 failed: ValueError: batch 4 of the loader holds NaN", "ValueError: batch 4"),
    "other sizes": ("ValueError: processes see batches of 6 and 8 examples",) * 2,
    "empty": ("ValueError: the loader is empty",) * 2,
}
NAMES = ("loc_mean", "scale_mean", "loc_log_var", "scale_log_var", "records_mean", "records_log_var")


def make_net() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    net = batchnorm.convert(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.BatchNorm1d(6)))
    with torch.no_grad():
        for p in net[0].parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net.double()


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return list((torch.randn(count * SIZE, 4, generator=generator, dtype=torch.float64).exp() + 1e3).split(SIZE))


def part_of(rank: int, split: tuple[int, int]) -> list[Tensor]:
    every = batches(sum(split))
    return every[: split[0]] if rank == 0 else every[split[0] :]


def work(rank: int, folder: str) -> None:
    """What each process does: every case in turn; what it found, or its error, goes into a file."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # gloo talks about host names
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {case: outcome(rank, case) for case in (*SPLITS, *FAILURES)}
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def outcome(rank: int, case: str) -> Any:
    net: Any = make_net()
    loader = part_of(rank, SPLITS.get(case, (5, 11)))
    if case == "other sizes" and rank == 1:
        loader = [batch[:6] for batch in loader]
    if case == "broken" and rank == 1:
        loader[4] = loader[4] * float("nan")
    if case == "empty":
        loader = []
    wrapped = DistributedDataParallel(net) if case in SPLITS else net
    try:
        report = batchnorm.fit(wrapped, loader, records=9)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    tensors = {f"{i}.{name}": getattr(net[i].statistics, name) for i in (1, 3) for name in NAMES}
    return {"count": report.num_batches, "sample": report.layers[1].mean_sample, **tensors}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of both processes, by case."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("case", SPLITS)
def test_two_processes_find_what_one_finds(case: str, outcomes: list[dict[str, Any]]) -> None:
    found = [outcome[case] for outcome in outcomes]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0] if key != "count")
    every = batches(16)
    ranks = [part_of(rank, SPLITS[case]) for rank in range(2)]
    in_turn = [rank[i] for i in range(16) for rank in ranks if i < len(rank)]
    net: Any = make_net()
    report = batchnorm.fit(net, in_turn, records=9)
    assert found[0]["count"] == found[1]["count"] == len(every)
    torch.testing.assert_close(found[0]["sample"], report.layers[1].mean_sample)
    for i in (1, 3):
        for name in NAMES:
            expected = getattr(net[i].statistics, name)
            torch.testing.assert_close(found[0][f"{i}.{name}"], expected, rtol=1e-9, atol=1e-12, msg=f"{i}.{name}")


@pytest.mark.parametrize("case", FAILURES)
def test_an_error_ends_both_processes(case: str, outcomes: list[dict[str, Any]]) -> None:
    for outcome, message in zip(outcomes, FAILURES[case], strict=True):
        assert outcome[case].startswith(message)
