"""The batch of SyncBatchNorm: every process holds a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .._processes import gathered, num_processes

if TYPE_CHECKING:
    from ._layer import StochasticBatchNorm

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """The processes whose batches are one batch.

    Attributes:
        group: Their process group; None is all.
        ranks: Their ranks.
    """

    group: Any
    ranks: tuple[int, ...]

    def united(self, mean: Tensor, var: Tensor, count: int) -> tuple[Tensor, Tensor]:
        r"""Mean and biased variance of the whole batch from those of this process' part, (C,), float64.

        .. math:: \mu = \sum_r \frac{n_r}{n} \mu_r, \qquad
                  \sigma^2 = \sum_r \frac{n_r}{n} \big(\sigma_r^2 + (\mu_r - \mu)^2\big)

        Every process of the group calls this, also at the same place of the pass. The sums are in the order of the
        ranks, so that all get the same bits.

        Source: Chan et al. 1979.
        """
        own = torch.stack((mean, var, torch.full_like(mean, count)))
        parts = [torch.empty_like(own) for _ in self.ranks]
        distributed.all_gather(parts, own, self.group)
        means, variances, counts = torch.stack(parts, 1)
        share = counts / counts.sum(0)
        whole = (share * means).sum(0)
        return whole, (share * (variances + (means - whole).square())).sum(0)

    def in_step(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of this process for as long as every process has one.

        Raises:
            RuntimeError: If another process has none because of an error.
        """
        left, held = iter(batches), list[T]()

        def take() -> bool:
            held[:] = islice(left, 1)
            return bool(held)

        while all(gathered(take, self.group)):
            yield held[0]

    def size(self, own: int) -> int:
        """Examples in the whole batch, of ``own`` in this process."""
        return sum(gathered(lambda: own, self.group))


def find_batch(layers: Mapping[str, StochasticBatchNorm]) -> Batch | None:
    """Who holds parts of the batch of these layers; None if each process has a batch of its own.

    Raises:
        ValueError: If some of the layers are SyncBatchNorm and others not, or their process groups differ.
    """
    if num_processes() == 1:
        return None
    groups: dict[tuple[int, ...], Any] = {}
    for layer in layers.values():
        group = getattr(layer, "process_group", None)
        ranks = tuple(distributed.get_process_group_ranks(group)) if isinstance(layer, nn.SyncBatchNorm) else ()
        groups[ranks] = group
    if len(groups) > 1:
        kinds = "some are SyncBatchNorm" if () in groups else "they have several process groups"
        raise ValueError(
            f"the converted layers disagree about what a batch is: {kinds}. Before batchnorm.convert, call "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm(model), for all layers and with one group"
        )
    ((ranks, group),) = groups.items()
    return Batch(group, ranks) if len(ranks) > 1 else None
