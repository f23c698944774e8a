"""Does a job end, and say why, when one of its processes is killed, and does it go on when it is started again?

Three processes over Gloo train the short run of `benchmarks.kills` (removal while it trains) through the command line.
After the first state on the disk one of them, each in turn, gets SIGKILL at a random moment. Once under torchrun, which
ends the rest, and once without a launcher, as if each process were on a machine of its own: there the others have to
notice. Counted are the seconds until the last process has ended. Then the same command is started again, with three
processes and with two. With three the weights are compared with those of a job that was never killed: they need not
have the same bits, for DistributedDataParallel orders its buckets anew after the first step of every process, and the
sum of three numbers depends on the order.

Run: python -m benchmarks.lost_process --threads 1
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.kills import RECIPES, SMOKE, difference
from benchmarks.report import finish, options
from dither.training import Recipe

LIMIT = 60.0  # seconds until all have ended
PATIENCE = 600.0  # seconds that a job may take on a busy machine
ENDS = ("goes on from there", "goes on from the last checkpoint")  # what our processes say before they end


def recipe(smoke: bool) -> Recipe:
    """The run of `benchmarks.kills`, in batches that two and three processes can share."""
    made = SMOKE if smoke else RECIPES["removal while it trains"]
    fits = {name: replace(getattr(made, name), batch_size=66) for name in ("base", "prune", "finetune")}
    return replace(made, **fits)


def command(folder: Path) -> list[str]:
    return ["-m", "dither", "prune", str(folder), "--threads", "1", "--checkpoint-steps", "2"]


class Job:
    """Processes that train together, under torchrun or each on its own."""

    def __init__(self, folder: Path, world: int, *, launcher: bool) -> None:
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        shared: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.folder = folder
        if launcher:
            start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
            call = [sys.executable, *start, *command(folder)]
            self.processes = [subprocess.Popen(call, env=environment, **shared)]
            return
        with socket.socket() as free:
            free.bind(("", 0))
            where = {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(free.getsockname()[1])}
        ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(world), **where} for r in range(world)]
        calls = [{**environment, **rank} for rank in ranks]
        self.processes = [subprocess.Popen([sys.executable, *command(folder)], env=env, **shared) for env in calls]

    def kill(self, rank: int) -> None:
        """SIGKILL to one process of the job."""
        if len(self.processes) > 1:
            self.processes[rank].kill()
        else:
            os.kill(_child(self.processes[0].pid, rank), signal.SIGKILL)

    def wait(self) -> tuple[list[int], str]:
        """Exit codes, and what all said together."""
        said = [process.communicate(timeout=PATIENCE)[0] for process in self.processes]
        return [process.returncode for process in self.processes], "\n".join(said)

    def stop(self) -> None:
        """Ends what is left of it."""
        for process in self.processes:
            process.kill()
            process.wait()


def _child(launcher: int, rank: int) -> int:
    """The process of a rank under a launcher, from the kernel's lists."""
    listed = Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="ascii").split()
    mine = [int(pid) for pid in listed if f"RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    return mine[0]


def prepared(folder: Path, smoke: bool) -> Path:
    folder.mkdir()
    (folder / "recipe.json").write_text(recipe(smoke).to_json(), encoding="utf-8")
    return folder


def whole(folder: Path, world: int, smoke: bool) -> tuple[Path, float]:
    """A job that is not killed, and the seconds from its first state to its end."""
    job = Job(prepared(folder, smoke), world, launcher=False)
    begin = _first_state(job)
    codes, said = job.wait()
    if any(codes):
        raise SystemExit(said)
    return folder, time.monotonic() - begin


def _first_state(job: Job) -> float:
    end = time.monotonic() + PATIENCE
    while not any((job.folder / "checkpoint").glob("*/step-*")):
        if time.monotonic() > end or job.processes[0].poll() is not None:
            job.stop()
            raise SystemExit(f"no state was saved: {job.wait()[1]}")
        time.sleep(0.02)
    return time.monotonic()


def measure(
    folder: Path, world: int, rank: int, delay: float, unkilled: Path | None, *, launcher: bool, smoke: bool
) -> dict[str, Any]:
    """One kill, and what became of the job; it is started again unless this is a smoke run."""
    job = Job(prepared(folder, smoke), world, launcher=launcher)
    _first_state(job)
    time.sleep(delay)
    began = time.monotonic()
    job.kill(rank)
    codes, said = job.wait()
    record: dict[str, Any] = {"launcher": launcher, "rank": rank, "delay": delay, "seconds": time.monotonic() - began}
    record |= {"exit_codes": codes, "said": any(end in said for end in ENDS) or "SIGKILL" in said}
    if unkilled is not None:
        again = world if rank else world - 1
        codes, said = (second := Job(folder, again, launcher=False)).wait()
        second.stop()
        record |= {"again": again, "resumed": not any(codes)}
        if again == world:
            record["differs"] = difference(folder, unkilled)
    return record


def main() -> None:
    chosen = options(__doc__, repeats=6)
    dice, records = random.Random(chosen.seed), []
    world = 2 if chosen.smoke else 3
    with tempfile.TemporaryDirectory() as name:
        unkilled, seconds = (None, 0.5) if chosen.smoke else whole(Path(name) / "whole", world, False)
        for i in range(1 if chosen.smoke else chosen.repeats):
            rank, launcher = i // 2 % world, bool(i % 2)
            where = Path(name) / str(i)
            delay = dice.uniform(0, 0.8 * seconds)
            records.append(
                measure(where, world, rank, delay, unkilled, launcher=launcher, smoke=chosen.smoke),
            )
            print(json.dumps(records[-1]), file=sys.stderr)
    table = [["launcher", "killed", "seconds until all have ended", "says what happened", "started again"]]
    for record in records:
        again = f"{record['again']} processes: {'ends well' if record['resumed'] else 'FAILS'}" if unkilled else "-"
        if "differs" in record:
            again += ", same bits" if record["differs"] is None else f", {record['differs']} has other bits"
        row = ["torchrun" if record["launcher"] else "none", f"process {record['rank']} of 0 to {world - 1}"]
        table.append([*row, f"{record['seconds']:.1f}", "yes" if record["said"] else "NO", again])
    finish("lost_process", chosen, records, table, "kills")
    good = all(r["seconds"] < LIMIT and r["said"] and any(r["exit_codes"]) and r.get("resumed", True) for r in records)
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
