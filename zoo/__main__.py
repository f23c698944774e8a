"""Run the zoo and write its page.

Run: python -m zoo                         # everything that has no result by this code yet, then docs/zoo.md
     python -m zoo --only 'resnet|bert'    # keys that match; no page is written
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from zoo import page
from zoo.jobs import LIMITS, ROOT, Job, code, run_all


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression that keys must match; writes no page")
    parser.add_argument("--side", choices=["dither", "rival"], action="append", help="one side only")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "zoo", help="where results are kept")
    parser.add_argument("--again", action="store_true", help="also what has a result already")
    parser.add_argument("--keep", action="store_true", help="keep results of other code")
    parser.add_argument("--page", action="store_true", help="only write the page from the results that are there")
    chosen = parser.parse_args()

    from zoo.networks import catalogue

    networks = {key: entry for key, entry in catalogue().items() if re.search(chosen.only, key)}
    sides = chosen.side or ["dither", "rival"]
    jobs = [
        Job(side, key, chosen.seed, chosen.folder, f"{code(side)} {entry.recipe}", LIMITS[side])
        for side in sides
        for key, entry in networks.items()
    ]
    if not chosen.page:
        todo = [job for job in jobs if chosen.again or not job.done(chosen.keep)]
        print(f"{len(todo)} of {len(jobs)} to do", flush=True)
        for number, job in enumerate(run_all(todo, chosen.jobs), 1):
            print(f"{number}/{len(todo)} {page.line(job)}", flush=True)
    if chosen.only or chosen.side:
        return 0
    values = page.collect(chosen.folder, networks, chosen.seed)
    page.write(values)
    missed = page.missed(values)
    print("\n".join(missed) or "everything held")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
