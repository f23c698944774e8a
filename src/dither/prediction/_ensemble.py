"""Several networks as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class Ensemble(nn.Module):
    """A deep ensemble: networks that were trained apart and are asked together.

    `predict` samples each member ``num_samples`` times, so S is that number times the number of members, and every
    member has the same weight. A member without anything stochastic runs once; beside members that are sampled, its
    answer counts ``num_samples`` times. If no member is stochastic, S is the number of members.

    Args:
        members: The networks. They may be of different classes if their outputs have one shape.

    Raises:
        ValueError: If there are no members, or one is an ensemble itself.
        TypeError: If a member is no module.

    Source: Lakshminarayanan et al. 2017.

    Example:
        >>> import torch, dither
        >>> net = Ensemble(nn.Linear(4, 3).eval() for _ in range(5))
        >>> dither.predict(net, torch.ones(2, 4)).probs.shape
        torch.Size([5, 2, 3])
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        found = list(members)
        if not found:
            raise ValueError("an ensemble needs at least one network")
        for member in found:
            if isinstance(member, Ensemble):
                raise ValueError("a member is an ensemble itself; pass all networks in one list, they weigh the same")
            if not isinstance(member, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a member is a {type(member).__name__}, expected a torch.nn.Module")
        self.members = nn.ModuleList(found)
        self.training = self.members.training = any(member.training for member in found)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each member returns."""
        return tuple(member(*args, **kwargs) for member in self.members)

    def __len__(self) -> int:
        return len(self.members)
