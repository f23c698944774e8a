"""One job of two processes and one of three carry all checks; the workers of pytest-xdist share what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tests.distributed import (
    check_faults,
    check_fit,
    check_prediction,
    check_pruning,
    check_sharded,
    check_training,
)
from tests.distributed.processes import run

CHECKS = {
    **check_pruning.CHECKS,
    **check_fit.CHECKS,
    **check_prediction.CHECKS,
    **check_training.CHECKS,
    **check_faults.CHECKS,
    **check_sharded.CHECKS,
}


@pytest.fixture(scope="session", params=[2, pytest.param(3, marks=pytest.mark.slow)], ids="{} processes".format)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a job has left its files."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    folder = shared / f"processes-{request.param}"
    with FileLock(f"{folder}.lock"):
        results = folder / "results.pt"
        if not results.exists():
            folder.mkdir(exist_ok=True)
            check_training.interrupt(folder / "one")
            torch.save(run(CHECKS, request.param, folder), results)
    return folder


@pytest.fixture(scope="session")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each process found, by the name of the check."""
    return torch.load(folder / "results.pt", weights_only=True)
