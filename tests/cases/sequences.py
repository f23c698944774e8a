"""Words and steps in time: embeddings, recurrent layers, convolutions along time."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases._case import Case, Net


def words() -> torch.Tensor:
    return torch.randint(0, 10, (3, 6))


def recurrent(name: str, make: Callable[[], nn.Module], size: int, *parts: str) -> Case:
    """A recurrent layer and a linear one that reads its last step.

    Each of its ``parts`` has 6 hidden units, but torch's layer has one width for all of them.
    """
    units = {f"r.weight_ih_{part}": 6 for part in parts}
    removable, fixed = ({}, units) if len(parts) > 1 else (units, {})
    return Case(
        name,
        lambda: Net(lambda m, x: m.out(m.r(x)[0][:, -1]), r=make(), out=nn.Linear(size, 3)),
        (3, 7, 5),
        removable,
        {"out": "returns"},
        fixed,
    )


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
    recurrent("an LSTM", lambda: nn.LSTM(5, 6, batch_first=True), 6, "l0"),
    recurrent("a GRU", lambda: nn.GRU(5, 6, batch_first=True), 6, "l0"),
    recurrent("a plain recurrent layer", lambda: nn.RNN(5, 6, batch_first=True), 6, "l0"),
    recurrent(
        "an LSTM in both directions, of two layers",
        lambda: nn.LSTM(5, 6, 2, batch_first=True, bidirectional=True),
        12,
        *("l0", "l0_reverse", "l1", "l1_reverse"),
    ),
    Case(
        "a linear layer before an LSTM",
        lambda: Net(
            lambda m, x: m.out(m.r(F.relu(m.a(x)))[0]),
            a=nn.Linear(5, 8),
            r=nn.LSTM(8, 6, batch_first=True),
            out=nn.Linear(6, 3),
        ),
        (3, 7, 5),
        {"a": 8, "r.weight_ih_l0": 6},
        {"out": "returns"},
    ),
    Case(
        "an LSTM cell in a loop",
        lambda: Net(
            lambda m, x: m.out(m.cell(x[:, 1], m.cell(x[:, 0]))[0]), cell=nn.LSTMCell(5, 6), out=nn.Linear(6, 3)
        ),
        (3, 2, 5),
        {"cell.weight_hh": 6},
        {"out": "returns"},
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
