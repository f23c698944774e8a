"""Complete states of a training run, one folder each: there whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

_COMPLETE = re.compile(r"step-(\d+)")


class Checkpoints:
    """Saves and restores everything Accelerate knows (weights, optimizer, random generators) and our position.

    A state is written to a hidden folder, flushed to the disk and then renamed, so a folder named ``step-…`` is
    complete whenever the process or the machine dies. The previous state is kept beside the newest one.

    Weights are safetensors. Optimizer and generator states are written by Accelerate with ``torch.save``: they
    are for going on with this run on this machine, not for exchange.

    Args:
        folder: where the states live; made when the first one is saved.
        accelerator: its prepared models and optimizers are what is saved.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def newest(self) -> Path | None:
        """The newest complete state, or None."""
        if not self.folder.is_dir():
            return None
        complete = [path for path in self.folder.iterdir() if _COMPLETE.fullmatch(path.name)]
        return max(complete, key=_step, default=None)

    def save(self, step: int, position: dict[str, Any]) -> None:
        """Saves the state after ``step`` steps with a JSON-able position.

        Raises:
            OSError: If it cannot be written. The states that were there before are untouched.
        """
        target = self.folder / f"step-{step:08d}"
        if target.exists():
            return
        partial = self.folder / ".partial"
        accelerator = self.accelerator
        try:
            if accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            accelerator.wait_for_everyone()
            _save_state(accelerator, partial)
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                text = json.dumps({"position": position, "random": _random_digest()})
                (partial / "position.json").write_text(text, encoding="utf-8")
                for path in [*partial.rglob("*"), partial]:
                    flush_to_disk(path)
                os.rename(partial, target)
                flush_to_disk(self.folder)
                self._remove_old()
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.newest()
            left = f"the last complete one, {kept.name}, is kept" if kept else "there is no older one"
            message = f"cannot save the checkpoint of step {step} in {self.folder}: {error}; {left}"
            raise OSError(error.errno, message) from error
        accelerator.wait_for_everyone()

    def position(self) -> dict[str, Any] | None:
        """The position that was saved with the newest complete state, or None; nothing is restored."""
        newest = self.newest()
        return None if newest is None else _read(newest)["position"]

    def load(self) -> dict[str, Any] | None:
        """Restores the newest complete state into the prepared objects.

        Returns:
            The position that was saved with it, or None where there is no state.

        Raises:
            RuntimeError: If the random generators did not come back as they were saved.
        """
        newest = self.newest()
        if newest is None:
            return None
        self.accelerator.load_state(str(newest))
        saved = _read(newest)
        # Accelerate only logs when it cannot restore a generator; the run would silently become another one.
        if self.accelerator.is_main_process and saved["random"] != _random_digest():
            raise RuntimeError(f"cannot restore the random generators in {newest}; remove {self.folder} to start again")
        return saved["position"]

    def _remove_old(self) -> None:
        complete = sorted((path for path in self.folder.iterdir() if _COMPLETE.fullmatch(path.name)), key=_step)
        for path in complete[:-2]:
            # Renamed first: a half-removed state must not look complete.
            doomed = self.folder / ".removed"
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step: after a crash it holds the old text or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        flush_to_disk(partial)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(state: Path) -> dict[str, Any]:
    return json.loads((state / "position.json").read_text(encoding="utf-8"))


def _step(path: Path) -> int:
    match = _COMPLETE.fullmatch(path.name)
    return int(match[1]) if match else -1


def _save_state(accelerator: Accelerator, folder: Path) -> None:
    accelerator.save_state(str(folder), safe_serialization=True)


def _random_digest() -> str:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
