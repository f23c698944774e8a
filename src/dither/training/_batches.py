"""Batches of one epoch: the order and the augmentation are functions of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ._data import Images
from ._recipe import Fit


class Batches:
    """Shuffled, augmented batches of images in memory.

    Everything random about an epoch is drawn at its start from a generator seeded with (seed, epoch). A run that
    was stopped inside an epoch therefore needs nothing but its position to go on with the same batches.

    With several processes, process r of n gets rows r, r + n, r + 2n, ... of every batch; all see the same order.

    Args:
        images: the training images, on the device where they are used.
        fit: batch size and augmentation.
        seed: of order and augmentation.
        multiple: the number of steps per epoch is a multiple of this (gradient accumulation).
        rank: this process.
        world: number of processes.

    Raises:
        ValueError: If one epoch has less than ``multiple`` batches, or a batch cannot be shared evenly.
    """

    def __init__(
        self, images: Images, fit: Fit, seed: int, *, multiple: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.images, self.fit, self.seed, self.rank, self.world = images, fit, seed, rank, world
        self.steps = len(images) // fit.batch_size // multiple * multiple
        if self.steps == 0:
            needed = fit.batch_size * multiple
            raise ValueError(f"{images.name} has {len(images)} images, one epoch needs {needed}: lower the batch_size")
        if fit.batch_size % world:
            raise ValueError(f"a batch_size of {fit.batch_size} cannot be shared by {world} processes evenly")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``start``, ``start + 1``, ... of an epoch: float32 images in [0, 1] and labels."""
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        count = self.steps * self.fit.batch_size
        order = torch.randperm(len(self.images), generator=generator)[:count]
        moves = torch.randint(0, 2 * self.fit.shift + 1, (count, 2), generator=generator)
        mirror = torch.rand(count, generator=generator) < 0.5
        device = self.images.pixels.device
        order, moves, mirror = order.to(device), moves.to(device), mirror.to(device)
        for step in range(start, self.steps):
            begin = step * self.fit.batch_size
            part = slice(begin + self.rank, begin + self.fit.batch_size, self.world)
            rows = order[part]
            x = self.images.float_batch(rows)
            if self.fit.shift:
                x = shift_images(x, moves[part], self.fit.shift)
            if self.fit.flip:
                x = torch.where(mirror[part, None, None, None], x.flip(-1), x)
            yield x, self.images.labels[rows]


def shift_images(x: Tensor, moves: Tensor, limit: int) -> Tensor:
    """Every image of a batch moved by its own whole number of pixels; zeros move in.

    Args:
        x: images, (B, C, H, W).
        moves: int64, (B, 2): row and column of the window, 0 to 2 * limit; ``limit`` is no move.
        limit: pixels of zeros around the image that the window is cut from.

    Returns:
        The moved images, (B, C, H, W).

    Example:
        >>> shift_images(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[1, 0]]), 1)
        tensor([[[[0., 1.]]]])
    """
    height, width = x.shape[-2:]
    padded = torch.nn.functional.pad(x, (limit, limit, limit, limit)).movedim(1, -1)
    rows = moves[:, 0, None] + torch.arange(height, device=x.device)
    columns = moves[:, 1, None] + torch.arange(width, device=x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
