"""Every network in a process of its own, with a limit of time and memory; what is there already is not done again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMITS = {"dither": 240, "rival": 60}  # seconds of the processor, building the network included; by side
PATIENCE = 20  # as long on the clock: a busy machine makes nobody slower
MEMORY = 10 * 2**30  # bytes that a process may allocate
SOURCES = {
    "dither": ("src/dither/pruning", "src/dither/_inputs.py", "zoo/exact.py", "zoo/shares.py", "zoo/networks.py"),
    "rival": ("zoo/rival.py", "zoo/networks.py"),
}
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch-pruning")


@dataclass(frozen=True)
class Job:
    """One network on one side ("dither" or "rival")."""

    side: str
    key: str
    seed: int
    folder: Path
    made_by: str  # the code that is running and the recipe; taken at the start, before somebody edits it
    limit: int  # seconds of the processor

    @property
    def path(self) -> Path:
        """Where its result goes."""
        return self.folder / self.side / f"{self.key.replace('/', '--')}.json"

    def done(self, by_any: bool) -> bool:
        """Whether there is a result by this code, or by any."""
        if not self.path.exists():
            return False
        return by_any or json.loads(self.path.read_text(encoding="utf-8"))["made_by"] == self.made_by

    def write(self, result: dict[str, Any]) -> dict[str, Any]:
        """Store a result; a reader sees all of it or nothing."""
        result = {"key": self.key, "seed": self.seed, "made_by": self.made_by, **result}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)
        return result


def versions() -> dict[str, str]:
    """Of the libraries that results depend on."""
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: installed.get(name, "not installed") for name in LIBRARIES}


@cache
def code(side: str) -> str:
    """Fingerprint of the code and the libraries that results of ``side`` depend on: other code, other results."""
    digest = hashlib.sha256(repr(versions()).encode())
    for name in SOURCES[side]:
        files = sorted((ROOT / name).rglob("*.py")) if (ROOT / name).is_dir() else [ROOT / name]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def run_all(jobs: Iterable[Job], workers: int, *, task: Callable[[Job], dict[str, Any]] | None = None) -> Iterator[Job]:
    """Run ``jobs``, so many at a time, and yield each when its result is stored.

    The libraries are imported once, by a server that every process is forked from.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["zoo.preload"])
    running: dict[Job, tuple[BaseProcess, float]] = {}
    waiting = list(jobs)
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            job.path.unlink(missing_ok=True)
            process = context.Process(target=work, args=(job, task or examine))
            process.start()
            running[job] = process, time.monotonic()
        for job, (process, began) in list(running.items()):
            process.join(timeout=0.05)
            if process.is_alive() and time.monotonic() - began > PATIENCE * job.limit:
                process.kill()
                process.join()
            if not process.is_alive():
                del running[job]
                if not job.path.exists():
                    job.write(ended(job.limit, process.exitcode, time.monotonic() - began))
                yield job


def ended(limit: int, code: int | None, seconds: float) -> dict[str, Any]:
    """The result of a process that left none: its time was up, or the system killed it."""
    if code == -signal.SIGXCPU or seconds > PATIENCE * limit:
        return {"result": "timeout", "limit_s": limit}
    return {"result": "crash", "reason": f"the process ended with exit code {code}"}


def work(job: Job, task: Callable[[Job], dict[str, Any]]) -> None:
    """In the process of one network: do the task, whatever becomes of it, and store what became of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (job.limit, job.limit + 10))
    try:
        result = task(job)
    except Exception as error:  # a crash is a result
        memory = isinstance(error, MemoryError) or "allocate memory" in str(error)
        where = [f for f in traceback.extract_tb(error.__traceback__) if "dither" in f.filename or "zoo" in f.filename]
        last = f" ({Path(where[-1].filename).name}:{where[-1].lineno})" if where else ""
        reason = f"{type(error).__name__}: {error}"[:400] + last
        result = {"result": "memory" if memory else "crash", "reason": reason}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
    job.write({**result, "peak_bytes": peak})


def examine(job: Job) -> dict[str, Any]:
    """Look the network up and let its side examine it."""
    from zoo import exact, networks, rival

    side = exact if job.side == "dither" else rival
    return side.examine(networks.catalogue()[job.key], job.seed)
