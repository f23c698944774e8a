"""Union-find over integer labels, whole tensors at a time."""

from __future__ import annotations

import torch
from torch import Tensor


class Labels:
    """Classes of channels that can only be kept or removed together.

    A label is an integer. Label 0 belongs to everything that no writer of the network owns: its inputs and the
    constants made in its forward pass. It is never united with another label; meeting it *pins* the other one.

    Uniting two labels is always safe: it can only forbid to remove one without the other.
    """

    def __init__(self) -> None:
        self.parent = torch.zeros(1, dtype=torch.int64)
        self.pinned: list[tuple[Tensor, str]] = []

    def new(self, count: int) -> Tensor:
        """``count`` fresh labels."""
        fresh = torch.arange(len(self.parent), len(self.parent) + count)
        self.parent = torch.cat([self.parent, fresh])
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
        self.pin(torch.cat([b[a == 0], a[b == 0]]), why)
        both = (a != 0) & (b != 0)
        a, b = a[both], b[both]
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            self.parent.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")

    def pin(self, labels: Tensor, why: str) -> None:
        """Forbid to remove ``labels``; the first reason that a class gets is the one that is told."""
        labels = torch.unique(core(labels))
        labels = labels[labels != 0]
        if len(labels):
            self.pinned.append((labels, why))

    def reasons(self) -> dict[int, str]:
        """The first reason of each pinned class, by its root."""
        told: dict[int, str] = {}
        for labels, why in self.pinned:
            for root in torch.unique(self.find(labels)).tolist():
                told.setdefault(root, why)
        return told

    def varies(self, labels: Tensor) -> list[bool]:
        """For each dimension: do the classes change along it?"""
        roots = self.find(core(labels))
        return [n > 1 and bool((roots != roots.narrow(d, 0, 1)).any()) for d, n in enumerate(roots.shape)]

    def along(self, labels: Tensor, dim: int, why: str) -> Tensor:
        """One label for each index of ``dim``: all positions of the other dimensions are united first."""
        size = labels.shape[dim]
        small = core(labels).movedim(dim, 0).flatten(1)
        self.unite(small, small[:, :1], why)
        return small[:, 0].expand(size) if small.shape[0] == 1 else small[:, 0]


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
