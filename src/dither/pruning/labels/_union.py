"""Union-find over integer labels, whole tensors at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NEUTRAL = 0
"""The label of numbers that are all alike, as ``torch.zeros`` makes them: there may be any number of them."""

CONSTANT = 1
"""The label of everything else that no writer of the network owns: its inputs, and constants with a value for each
position. As many must stay as there are."""


class Labels:
    """Classes of channels that can only be kept or removed together.

    A label is an integer. `NEUTRAL` and `CONSTANT` are never united with another label; meeting a constant *pins* the
    other one, meeting a neutral number does nothing.

    Uniting two labels is always safe: it can only forbid to remove one without the other.
    """

    def __init__(self) -> None:
        self.parent = torch.arange(CONSTANT + 1)
        self.held = torch.zeros(CONSTANT + 1, dtype=torch.bool)  # at its root: whether a class is pinned
        self.pinned: list[tuple[Tensor, str]] = []
        self.joined: list[tuple[Tensor, str]] = []

    def new(self, count: int) -> Tensor:
        """``count`` fresh labels."""
        fresh = torch.arange(len(self.parent), len(self.parent) + count)
        self.parent = torch.cat([self.parent, fresh])
        self.held = torch.cat([self.held, torch.zeros(count, dtype=torch.bool)])
        return fresh

    def find(self, labels: Tensor) -> Tensor:
        """The smallest label of each label's class."""
        root = self.parent[labels]
        while not torch.equal(root, above := self.parent[root]):
            root = above
        return root

    def unite(self, a: Tensor, b: Tensor, why: str) -> None:
        """Put ``a[i]`` and ``b[i]`` into one class, for all i of two tensors that broadcast.

        Hooks every larger root below the smallest root that it meets, and repeats until nothing moves: a few vectorised
        rounds instead of a Python loop over pairs.
        """
        a, b = (t.reshape(-1) for t in torch.broadcast_tensors(core(a), core(b)))
        self.pin(torch.cat([b[a == CONSTANT], a[b == CONSTANT]]), why)
        both = (a > CONSTANT) & (b > CONSTANT)
        before = self.find(torch.cat([a[both], b[both]]))
        a, b = before.chunk(2)
        while bool((differ := a != b).any()):
            a, b = a[differ], b[differ]
            self.parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
            a, b = self.find(a), self.find(b)
        self.held[self.find(before[self.held[before]])] = True

    def pin(self, labels: Tensor, why: str) -> None:
        """Forbid to remove ``labels``; the first reason that a class gets is the one that is told."""
        labels = torch.unique(core(labels))
        labels = labels[labels > CONSTANT]
        if len(labels):
            self.pinned.append((labels, why))
            self.held[self.find(labels)] = True

    def together(self, labels: Tensor, dims: Iterable[int], why: str) -> Tensor:
        """Make one channel of all indices of ``dims``: what is combined along them can only go as a whole.

        Where nothing else varies that would be all channels at once, so they are pinned instead.

        Returns:
            The labels, constant along ``dims``; as they were if they are pinned.
        """
        small, varies = core(labels), self.varies(labels)
        first = small
        for d in (over := {d % labels.ndim for d in dims}):
            first = first.narrow(d, 0, 1)
        if any(varies[d] for d in over):
            if all(d in over for d, v in enumerate(varies) if v):
                self.pin(small, why)
                return labels
            self.unite(small, first, why)
            self.joined.append((first, why))
        return first.expand(labels.shape)

    def along(self, labels: Tensor, dim: int, why: str) -> Tensor:
        """One label for each index of ``dim``: all positions of the other dimensions are united first."""
        together = self.together(labels, (d for d in range(labels.ndim) if d != dim % labels.ndim), why)
        for d in range(labels.ndim - 1, -1, -1):
            together = together if d == dim % labels.ndim else together.select(d, 0)
        return together

    def varies(self, labels: Tensor) -> list[bool]:
        """For each dimension: do the classes change along it?"""
        roots = self.find(core(labels))
        return [n > 1 and bool((roots != roots.narrow(d, 0, 1)).any()) for d, n in enumerate(roots.shape)]

    def free(self, labels: Tensor) -> bool:
        """Whether some of these channels belong to a writer and may still go."""
        roots = self.find(torch.unique(core(labels)))
        return not bool(self.held[roots[roots > CONSTANT]].all())

    def reasons(self) -> dict[int, str]:
        """The first reason of each pinned class, by its root."""
        return self._told(self.pinned)

    def joints(self) -> dict[int, str]:
        """What first made one channel of several, for each class that something did, by its root."""
        return self._told(self.joined)

    def _told(self, entries: list[tuple[Tensor, str]]) -> dict[int, str]:
        told: dict[int, str] = {}
        for labels, why in entries:
            for root in torch.unique(self.find(core(labels))).tolist():
                told.setdefault(root, why)
        return told


def core(labels: Tensor) -> Tensor:
    """``labels`` without the repetitions of expanded (stride 0) dimensions, which stay as dimensions of size 1."""
    index = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in labels.stride())
    return labels[index] if index else labels


def compress(labels: Tensor) -> Tensor:
    """The same values with stride 0 along every dimension where they are constant: labels stay small."""
    small, shape = core(labels), labels.shape
    for dim, size in enumerate(small.shape):
        if size > 1 and torch.equal(small, (first := small.narrow(dim, 0, 1)).expand_as(small)):
            small = first
    return small.expand(shape)


def owned(labels: Tensor) -> bool:
    """Whether any element was written by the network."""
    return bool((core(labels) > CONSTANT).any())


def pure(labels: Tensor, label: int) -> bool:
    """Whether every element carries ``label``."""
    return bool((core(labels) == label).all())
