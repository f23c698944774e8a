"""The classifier that the metrics are tried on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def classifier(count: int = 400, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities in float64 that are right about three times out of four, and labels of all classes."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % classes
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(count), target] += 4 * torch.rand(count, generator=generator, dtype=torch.float64)
    return logits.softmax(1), target


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return classifier()


@pytest.fixture
def held_out() -> tuple[Tensor, Tensor]:
    return classifier(300, seed=1)
