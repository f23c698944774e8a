"""What is needed to do a run again: a line for every command that worked in its folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator

from .. import __version__
from ._checkpoints import write_text
from ._lock import COMMANDS
from ._report import machine, versions

_PATIENCE = 10.0  # seconds for an answer of git: a folder on a sleeping disk must not hold a run up


def record_command(folder: Path, seed: int, accelerator: Accelerator) -> None:
    """Adds a line to ``commands.jsonl``: when, which command, seed, versions, machine and the state of the sources.

    Everything random in a run is drawn from generators seeded with ``seed`` and, for order and augmentation, with
    (seed, epoch). The state of the sources is that of the git repository which the command was started in.

    Args:
        folder: run folder.
        seed: of the recipe.
        accelerator: how many processes, in which precision, on which device.

    Raises:
        OSError: If it cannot be written.
    """
    path = folder / COMMANDS
    earlier = path.read_text(encoding="utf-8") if path.exists() else ""
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "pid": os.getpid(),
        "seed": seed,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "mixed_precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
        "device": _device_name(accelerator.device),
        "machine": machine(),
        "versions": {**versions(), "numpy": numpy.__version__, "dither": __version__, **_cuda()},
        "git": git_state(Path()),
    }
    write_text(path, f"{earlier}{json.dumps(line)}\n")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository that a folder is in, and whether a tracked file was changed since; None without one.

    Example:
        >>> git_state(Path("/")) is None
        True
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # Without optional locks, so that it never gets in the way of a git command of the user.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cuda() -> dict[str, str]:
    if torch.version.cuda is None:
        return {}
    return {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
