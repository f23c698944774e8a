"""One layer after the other: what is written once and read once, in every dimension and through every layout."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from tests.cases._case import IMAGE, OUTPUT, Case, Net, conv, head

CHAINS = [
    Case(
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        (4, 5),
        {"0": 8, "2": 6},
        {"4": "returns"},
    ),
    Case(
        "mlp over positions",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 3, bias=False)),
        (2, 7, 5),
        {"0": 8},
        {"2": "returns"},
    ),
    Case(
        "convolutions, flatten",
        lambda: nn.Sequential(conv(3, 6), nn.MaxPool2d(2), conv(6, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)),
        IMAGE,
        {"0": 6, "2": 8},
        {"5": "returns"},
    ),
    Case(
        "view that follows the tensor",
        lambda: Net(lambda m, x: m.head((y := m.a(x)).view(y.shape[0], -1)), a=conv(3, 6), head=nn.Linear(384, 3)),
        IMAGE,
        {"a": 6},
        {"head": "returns"},
    ),
    Case(
        "BatchNorm between",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.norm(m.a(x)))), a=conv(3, 6, bias=False), norm=nn.BatchNorm2d(6), head=head(6)
        ),
        IMAGE,
        {"a": 6},
        OUTPUT,
    ),
    Case(
        "BatchNorm without affine or statistics",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3)),
        (4, 5),
        {"0": 8},
        {"3": "returns"},
    ),
    Case(
        "one dimension",
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(6, 4, 1), nn.Flatten()),
        (2, 2, 10),
        {"0": 6},
        {"3": "returns"},
    ),
    Case(
        "three dimensions",
        lambda: nn.Sequential(nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.MaxPool3d(2), nn.Conv3d(6, 4, 1)),
        (2, 1, 6, 6, 6),
        {"0": 6},
        {"3": "returns"},
    ),
    Case(
        "transposed convolution",
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 8, 2, 2), nn.ReLU(), conv(8, 2)),
        IMAGE,
        {"0": 6, "2": 8},
        {"4": "returns"},
    ),
]
