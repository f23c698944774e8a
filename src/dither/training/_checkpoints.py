"""Complete states of a training run, one folder each: there whole and as written, or not used."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError

from .._files import write_atomically
from .._header import CheckpointError
from ._sums import SUMS, find_damage, write_sums

VERSION = 1
_COMPLETE = re.compile(r"step-(\d+)")


class Checkpoints:
    """Saves and restores everything Accelerate knows (weights, optimizer, random generators) and our position.

    A state is written to a hidden folder, flushed to the disk and then renamed, so a folder named ``step-…`` is
    complete whenever the process or the machine dies. The previous state is kept beside the newest one. Every file
    has a checksum: a state that is not as it was written is set aside (renamed to ``damaged-…``), with a warning, and
    the one before is used.

    Weights are safetensors. Optimizer and generator states are written by Accelerate with ``torch.save``: they
    are for going on with this run on this machine, not for exchange.

    Args:
        folder: where the states live; made when the first one is saved.
        accelerator: its prepared models and optimizers are what is saved.
    """

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder, self.accelerator = folder, accelerator

    def newest(self) -> Path | None:
        """The newest complete state, or None. Nothing is read."""
        return next(reversed(self._complete()), None)

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
            digests = gather_object([_random_digest()])
            if accelerator.is_main_process:
                text = json.dumps({"version": VERSION, "position": position, "random": digests})
                (partial / "position.json").write_text(text, encoding="utf-8")
                write_sums(partial)
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
            raise OSError(f"{message}. Make room or make it writable; the same command then goes on") from error
        accelerator.wait_for_everyone()

    def position(self) -> dict[str, Any] | None:
        """The position that was saved with the newest intact state, or None; nothing is restored.

        Raises:
            CheckpointError: If there are states and none of them is intact, or one is of a newer version.
        """
        return None if self._intact is None else _read(self._intact)["position"]

    def load(self) -> dict[str, Any] | None:
        """Restores the newest intact state into the prepared objects.

        Returns:
            The position that was saved with it, or None where there is no state.

        Raises:
            CheckpointError: If there are states and none of them is intact, or one is of a newer version.
            RuntimeError: If the random generators did not come back as they were saved. With another number of
                processes they do not come back: seed them.
        """
        state = self._intact
        if state is None:
            return None
        self.accelerator.load_state(str(state))
        saved = _read(state)
        # Accelerate only logs when it cannot restore a generator; the run would silently become another one.
        digests, rank = saved["random"], self.accelerator.process_index
        digests = [digests] if isinstance(digests, str) else digests  # of version 0.3: that of the first process
        same_number = saved["position"].get("processes", 1) == self.accelerator.num_processes
        if same_number and digests[rank : rank + 1] != [_random_digest()]:
            raise RuntimeError(f"cannot restore the random generators in {state}; remove {self.folder} to start again")
        return saved["position"]

    @functools.cached_property
    def _intact(self) -> Path | None:
        """The newest state that is as it was written, found once. One process reads the files, all use its answer."""
        answer: list[str | None] = [None, None]
        if self.accelerator.is_main_process:
            try:
                answer[0] = self._find_intact()
            except CheckpointError as error:
                answer[1] = str(error)
        name, problem = broadcast_object_list(answer)
        if problem is not None:
            raise CheckpointError(problem)
        return None if name is None else self.folder / name

    def _find_intact(self) -> str | None:
        damaged: list[tuple[Path, str]] = []
        for state in reversed(self._complete()):
            damage = _damage(state)
            if damage is None:
                self._set_aside(damaged, state)
                return state.name
            damaged.append((state, damage))
        if damaged:
            listed = "; ".join(f"{state.name}: {damage}" for state, damage in damaged)
            raise CheckpointError(
                f"no state in {self.folder} is as it was written ({listed}). Nothing was changed. Bring a good copy "
                "back, or remove that folder: this stretch of the training then starts from its beginning"
            )
        return None

    def _set_aside(self, damaged: list[tuple[Path, str]], used: Path) -> None:
        for state, damage in damaged:
            aside = self.folder / f"damaged-{state.name}"
            while aside.exists():
                aside = aside.with_name(f"{aside.name}-again")
            os.rename(state, aside)
            warnings.warn(
                f"{state} is damaged: {damage}. It is kept as {aside.name}, and the training goes on from {used.name}. "
                "A file that changes by itself is a reason to look at the disk.",
                stacklevel=2,
            )

    def _complete(self) -> list[Path]:
        """All complete states, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _COMPLETE.fullmatch(path.name)), key=_step)

    def _remove_old(self) -> None:
        for path in self._complete()[:-2]:
            # Renamed first: a half-removed state must not look complete.
            doomed = self.folder / ".removed"
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replaces a text file in one step: after a crash it holds the old text or the new one."""
    write_atomically(path, text.encode())


def flush_to_disk(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(state: Path) -> str | None:
    """What is wrong with a state, or None. Version 0.3 wrote no checksums and no version: such a state is believed.

    Raises:
        CheckpointError: If the state is of a newer version, which is no damage.
    """
    try:
        version = _read(state).get("version")
    except (FileNotFoundError, ValueError, AttributeError):
        return find_damage(state) or "position.json cannot be read"
    if version is None and not (state / SUMS).exists():
        return None
    if (damage := find_damage(state)) is not None:
        return damage
    if version != VERSION:
        raise CheckpointError(
            f"{state} has version {version}, this dither reads {VERSION}. Install a newer dither; nothing was changed"
        )
    return None


def _read(state: Path) -> dict[str, Any]:
    return json.loads((state / "position.json").read_text(encoding="utf-8"))


def _step(path: Path) -> int:
    match = _COMPLETE.fullmatch(path.name)
    return int(match[1]) if match else -1


def _save_state(accelerator: Accelerator, folder: Path) -> None:
    try:
        accelerator.save_state(str(folder), safe_serialization=True)
    except (SafetensorError, RuntimeError) as error:
        # What safetensors and torch.save raise on a full disk is no OSError.
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        raise OSError(str(error)) from error


def _random_digest() -> str:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()
