"""Words and steps in time: embeddings, recurrent layers, convolutions along time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases._case import Case, Net


def words() -> torch.Tensor:
    return torch.randint(0, 10, (3, 6))


SEQUENCES = [
    Case(
        "an embedding",
        lambda: Net(lambda m, x: m.b(F.relu(m.a(m.e(x)))), e=nn.Embedding(10, 6), a=nn.Linear(6, 8), b=nn.Linear(8, 3)),
        words,
        {"e": 6, "a": 8},
        {"b": "returns"},
    ),
    Case(
        "words and their positions",
        lambda: Net(
            lambda m, x: m.out(F.relu(m.e(x) + m.p(torch.arange(x.shape[1])))),
            e=nn.Embedding(10, 6),
            p=nn.Embedding(6, 6),
            out=nn.Linear(6, 3),
        ),
        words,
        {"e": 6},
        {"out": "returns"},
    ),
    Case(
        "an embedding whose rows are the output layer",
        lambda: Net(
            lambda m, x: F.linear(m.b(F.relu(m.a(m.e(x)))), m.e.weight),
            e=nn.Embedding(10, 6),
            a=nn.Linear(6, 8),
            b=nn.Linear(8, 6),
        ),
        words,
        {"a": 8},
        {"e": "both writes and reads"},
    ),
    Case(
        "gated convolutions along time",
        lambda: Net(
            lambda m, x: m.out(F.glu(m.b(F.pad(F.glu(m.a(x), 1), (2, 0))), 1)),
            a=nn.Conv1d(5, 12, 3, padding=1),
            b=nn.Conv1d(6, 16, 3),
            out=nn.Conv1d(8, 3, 1),
        ),
        (2, 5, 9),
        {"a": 6, "b": 8},
        {"out": "returns"},
    ),
]
