"""The figures of the study, by the library's own functions, small enough to look at in a README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studies.batchnorm_lenet_mnist.evaluate import Answers, Questions


def draw(
    answers: dict[tuple[str, int], Answers], records: list[dict[str, Any]], questions: Questions, target: Path
) -> None:
    """Entropies inside and outside, reliability, and NLL against the number of samples."""
    target.mkdir(parents=True, exist_ok=True)
