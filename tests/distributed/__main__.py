"""Two and three processes against one, as a table: ``python -m tests.distributed``.

Differences are the largest of a tensor, divided by its largest value.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dither import batchnorm
from tests.distributed import check_fit, check_prediction, check_pruning, check_sharded, check_training
from tests.distributed.processes import SEED, run

ROWS = {
    "gates, shared draw": ("train", True),
    "weights, shared draw": ("train", False),
    "gates, FSDP2": ("sharded, train", True),
    "weights, FSDP2": ("sharded, train", False),
}


def difference(found: Mapping[str, Any], expected: Mapping[str, Any], names: list[str]) -> float:
    def one(name: str) -> float:
        a, b = torch.as_tensor(found[name]).double(), torch.as_tensor(expected[name]).double()
        return float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))

    return max(map(one, names))


def rows(found: list[dict[str, Any]]) -> dict[str, str]:
    world, first = len(found), found[0]
    alone = check_pruning.train(0, 1)
    out: dict[str, str] = {}
    for row, (check, gates) in ROWS.items():
        names = [name for name in alone if name.endswith((".loc", ".log_scale")) == gates]
        out[row] = f"{max(difference(rank[check], alone, names) for rank in found):.1e}"
    plans = {rank["plan"] for rank in found}
    out["plan"] = "identical" if len(plans) == 1 else f"{len(plans)} plans"
    torch.manual_seed(SEED)
    small = check_pruning.shrink_and_go_on(0, 1)
    out["shrunk, then trained on"] = (
        f"{difference(first['shrink and go on']['small'], small['small'], [*small['small']]):.1e}"
    )
    net = check_fit.make_net()
    parts = [check_fit.part_of(check_fit.SPLITS["unequal"], rank, world) for rank in range(world)]
    law = check_fit.told(
        net, batchnorm.fit(net, [part[i] for i in range(18) for part in parts if i < len(part)], records=9)
    )
    statistics = [name for name in law if name[0].isdigit() and "scale_mean" not in name]
    out["fitted statistics, unequal parts"] = f"{difference(first['fit, unequal'], law, statistics):.1e}"
    net = check_fit.make_net()
    law = check_fit.told(net, batchnorm.fit(net, check_fit.batches(19)[:18], records=9))
    out["fitted statistics, SyncBatchNorm"] = f"{difference(first['fit, sync'], law, statistics):.1e}"
    predicted = check_prediction.told(
        check_prediction.predict(check_prediction.without_dropout(), list(check_prediction.data().split(5)))
    )
    out["predictions, gathered"] = f"{difference(first['predict, sampler'], predicted, ['mean', 'entropy']):.1e}"
    with tempfile.TemporaryDirectory() as folder:
        whole = check_training.whole(Path(folder))["state"]
    for row, check in {"engine, whole": "training, whole", "engine, resumed from one process": "training, on"}.items():
        out[row] = f"{difference(first[check]['state'], whole, [*whole]):.1e}"
    return out


def main() -> None:
    torch.set_num_threads(1)
    parts = (check_pruning, check_fit, check_prediction, check_training, check_sharded)
    checks = {name: check for part in parts for name, check in part.CHECKS.items()}
    columns: list[dict[str, str]] = []
    for world in (2, 3):
        with tempfile.TemporaryDirectory() as folder:
            check_training.interrupt(Path(folder) / "one")
            columns.append(rows(run(checks, world, Path(folder))))
    print("| | 2 processes | 3 processes |\n|---|---:|---:|")  # noqa: T201
    for row in columns[0]:
        print(f"| {row} | {' | '.join(column[row] for column in columns)} |")  # noqa: T201


if __name__ == "__main__":
    main()
