"""What the user sees while a network trains: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

_REFRESH = 0.5  # seconds between looks at the loss: every look waits for the device
_LINES = 5.0  # seconds between lines where there is no live bar


class Progress:
    """Epoch, loss, KL, kept channels, error and time left.

    Args:
        console: where to write; None writes nothing.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console
        self._bar: Bar | None = None
        self._name = ""
        self._row: dict[str, Any] = {}
        self._steps = self._per_epoch = self._first = 0
        self._started = self._looked = 0.0

    @contextmanager
    def stretch(self, name: str, step: int, steps: int, per_epoch: int) -> Generator[None]:
        """Shows one stretch of training from ``step`` to ``steps`` while the context is open."""
        self._name, self._first, self._steps, self._per_epoch = name, step, steps, per_epoch
        self._row = self._row if self._row.get("stretch") == name else {}
        self._started = self._looked = time.monotonic()
        if self.console is not None and step:
            self.console.print(f"{name}: going on from step {step:,} of {steps:,}", highlight=False)
        if self.console is None or not self.console.is_terminal:
            yield
            return
        columns = [TextColumn("[bold]{task.description:8}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}")]
        with Bar(*columns, console=self.console) as self._bar:
            self._bar.add_task(name, total=steps, completed=step, text="")
            try:
                yield
            finally:
                self._show(self._row.get("step", step), self._row, 0.0)
                self._bar = None

    def step(self, step: int, sums: Tensor, counts: Callable[[], Mapping[str, int]]) -> None:
        """One step is done; ``sums`` are the loss and the KL term summed over this epoch's steps so far."""
        now = time.monotonic()
        if self._bar is None or now - self._looked < _REFRESH:
            return
        self._looked = now
        done = (step - 1) % self._per_epoch + 1
        loss, kl = (sums / done).tolist()
        row = {**self._row, "epoch": (step - 1) // self._per_epoch + 1, "loss": loss, "kept": counts()}
        if kl:
            row["kl"] = kl
        self._show(step, row, self._left(step))

    def history(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of all finished epochs; the last one is news."""
        if not rows:
            return
        self._row = dict(rows[-1])
        if self.console is None or self._bar is not None or name != self._name:
            return
        step, now = self._row["step"], time.monotonic()
        if step == self._steps or now - self._looked >= _LINES:
            self._looked = now
            text = f"{name:8} {self._text(self._row, self._left(step))}"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _left(self, step: int) -> float:
        done = max(step - self._first, 1)
        return (time.monotonic() - self._started) / done * (self._steps - step)

    def _show(self, step: int, row: Mapping[str, Any], left: float) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, text=self._text(row, left) if row else "")

    def _text(self, row: Mapping[str, Any], left: float) -> str:
        parts = [f"epoch {row['epoch']}/{self._steps // self._per_epoch}", f"loss {row['loss']:.4f}"]
        if "kl" in row:
            parts.append(f"KL {row['kl']:.4f}")
        if "cost" in row:
            parts.append(f"cost {row['cost']:.3f}")
        if row.get("kept"):
            parts.append("kept " + "-".join(str(count) for count in row["kept"].values()))
        if "error_pct" in row:
            parts.append(f"error {row['error_pct']:.2f} %")
        minutes, seconds = divmod(round(left), 60)
        parts.append(f"{minutes}:{seconds:02} left")
        return "  ".join(parts)
