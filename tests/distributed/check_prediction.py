"""What each process does to predict a part of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import dither
from dither import batchnorm
from dither.training._launch import make_accelerator

EXAMPLES = 23


def make_net() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)).double()
    for p in net.parameters():
        nn.init.normal_(p, generator=generator)
    net = batchnorm.convert(net).eval()
    with dither.alone():
        batchnorm.fit(net, [data() * scale for scale in (1.0, 1.1, 0.9, 1.2)])
    return net


def data() -> Tensor:
    return torch.randn(EXAMPLES, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def predict(net: nn.Module, loader: Any, seed: int = 0) -> dither.Prediction:
    return dither.predict(net, loader, 8, generator=torch.Generator().manual_seed(seed))


def told(prediction: dither.Prediction) -> dict[str, Tensor]:
    names = ("mean", "variance", "entropy", "mutual_information", "entropy_se")
    return {name: getattr(prediction, name) for name in names}


def without_dropout() -> nn.Module:
    net = make_net()
    net[3] = nn.Identity()  # pyright: ignore[reportIndexIssue]
    return net


def sampler(rank: int, world: int) -> dict[str, Tensor]:
    """Rows in turn; the sampler gives some twice, so that all have as many."""
    mine = DistributedSampler(range(EXAMPLES), world, rank, shuffle=False)
    loader = DataLoader(data(), 5, sampler=mine)  # pyright: ignore[reportArgumentType]
    net = without_dropout()
    wrapped = DistributedDataParallel(net) if world > 1 else net
    return told(dither.gather(predict(wrapped, loader), list(mine)))


def accelerated(rank: int, world: int) -> dict[str, Tensor]:
    """Whole batches in turn: dropout, whose masks depend on the batch, is the same, too."""
    whole: Any = DataLoader(data(), 5)  # pyright: ignore[reportArgumentType]
    loader: Any = make_accelerator().prepare(whole) if world > 1 else whole
    index = [i for batch in loader.batch_sampler for i in batch]
    return told(dither.gather(predict(make_net(), loader), index))


def uneven(rank: int, world: int) -> dict[str, Tensor]:
    """The first process has no example, the last has the first ones."""
    index = torch.arange(EXAMPLES).flip(0).tensor_split(world - 1)[rank - 1] if rank else torch.empty(0)
    net = without_dropout()
    part = predict(net, list(data()[index.long()].split(4))) if rank else None
    return told(dither.gather(part, index))


def with_samples(rank: int, world: int) -> Tensor:
    index = torch.arange(EXAMPLES)[rank::world]
    return dither.gather(predict(without_dropout(), data()[index]), index).probs


def other_networks(rank: int, world: int) -> Tensor:
    index = torch.arange(EXAMPLES)[rank::world]
    return dither.gather(predict(make_net(), data()[index], seed=rank), index).mean


def other_count(rank: int, world: int) -> Tensor:
    return dither.gather(predict(make_net(), data()), range(EXAMPLES - (rank == 1))).mean


def nothing(rank: int, world: int) -> Tensor:
    return dither.gather(None, []).mean


CHECKS: dict[str, Callable[[int, int], Any]] = {
    "predict, sampler": sampler,
    "predict, accelerated": accelerated,
    "predict, uneven": uneven,
    "predict, with samples": with_samples,
    "predict, other networks": other_networks,
    "predict, other count": other_count,
    "predict, nothing": nothing,
}
