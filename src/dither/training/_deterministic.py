"""The same bits twice, on accelerators too."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Allows only operators that give the same bits whenever the same program runs on the same machine.

    For the whole process, and before the first matrix product on a GPU: cuBLAS reads its setting once. An operator
    without such a version raises a RuntimeError that names it. Different machines, versions or numbers of threads may
    still differ.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
