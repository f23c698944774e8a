"""Damaged files by the thousand: every one is refused by name, or gives what was saved, bit for bit.

    python -m tests.fuzz.files --number 10000
    python -m tests.fuzz.files --first 4711 --number 1      # one case again, from its number

A process reads the files under a limit of memory (`worker.py`). When it dies or says nothing for a while, that is a
fault of the case that it was at, and another process goes on behind it.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for one file of a few kB
START = 280  # seconds until a process has imported torch and written the good files, on a busy machine


def outcomes(first: int, number: int, folder: Path, *, exported: bool = False) -> Iterator[dict[str, Any]]:
    """What came of each case, in order; the last entry of a process is the memory that its cases took, in KiB."""
    end = first + number
    while first < end:
        command = [sys.executable, "-m", "tests.fuzz.worker", str(folder), str(first), str(end)]
        process = subprocess.Popen(
            command + ["--exported"] * exported, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        began = False
        for line in _lines(process):
            found = json.loads(line)
            if isinstance(found, dict):
                first += "case" in found
                yield found
            began = True
        code, errors = process.wait(), process.communicate()[1]
        if not began:
            raise RuntimeError(f"the process did not start: {errors[-2000:]}")
        if code:
            what = (
                f"the process ended with {code}: {errors[-300:]}" if code > 0 else f"signal {-code} ended the process"
            )
            yield {"case": first, "sample": "", "how": "", "outcome": "FAULT", "what": what, "seconds": 0.0}
            first += 1


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """What a process prints; it is ended when it says nothing for too long."""
    assert process.stdout is not None
    waiting = selectors.DefaultSelector()
    waiting.register(process.stdout, selectors.EVENT_READ)
    patience = START
    while True:
        if not waiting.select(patience):
            process.kill()
            return
        patience = PATIENCE
        line = process.stdout.readline()
        if not line:
            return
        yield line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--exported", action="store_true", help="ONNX and torch.export files too, for `dither inspect`")
    options = parser.parse_args()
    counts, ways, faults = Counter[str](), Counter[str](), list[dict[str, Any]]()
    slowest, memory, began = 0.0, 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for found in outcomes(options.first, options.number, Path(folder), exported=options.exported):
            if "memory" in found:
                memory = max(memory, found["memory"])
                continue
            counts[found["outcome"]] += 1
            ways[found["how"].split()[0] if found["how"] else "?"] += 1
            slowest = max(slowest, found["seconds"])
            if found["outcome"] == "FAULT":
                faults.append(found)
                print(json.dumps(found), flush=True)
            if sum(counts.values()) % 1000 == 0:
                print(f"{sum(counts.values())}: {dict(counts)}", flush=True)
    print(f"{sum(counts.values()):,} files in {time.perf_counter() - began:.0f} s: {dict(counts)}")
    print(f"damaged by {dict(ways)}")
    print(f"slowest {slowest:.2f} s; memory beyond that of the good files {memory / 1024:.0f} MiB")
    return len(faults) > 0


if __name__ == "__main__":
    sys.exit(main())
