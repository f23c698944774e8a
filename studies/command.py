"""What the command lines of the studies have in common."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def study_parser(
    study: str, doc: str | None, *, smoke: str, collect: str, seeds: list[int] | None = None, data: Sequence[str] = ()
) -> ArgumentParser:
    """Options that every study has; its own ones are added to the result.

    Args:
        study: Name of its folder.
        doc: Its docstring; the first line is shown.
        smoke: What ``--smoke`` is, without data.
        collect: What ``--collect`` does with finished runs.
        seeds: Those of a run without ``--seed``; ``None`` where the networks have their own.
        data: Names of options for a folder or hub name of data.
    """
    parser = ArgumentParser(prog=f"python -m studies.{study}", description=(doc or "").partition("\n")[0])
    said = "all seeds of the study" if seeds is None else ", ".join(map(str, seeds))
    parser.add_argument("--seed", nargs="+", type=int, default=seeds, help=f"default: {said}")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; results are equal for equal numbers only")
    local = "folder or hub name; default: the local copy if there is one, else the hub"
    for name in data:
        parser.add_argument(f"--{name}", help=local)
    parser.add_argument("--out", type=Path, help=f"folder of the runs (default: runs/{study})")
    parser.add_argument("--smoke", action="store_true", help=f"{smoke}: does every step work?")
    parser.add_argument("--collect", action="store_true", help=collect)
    return parser


def folders(study: str, given: Namespace) -> tuple[Path, Path]:
    """Of the runs, and of what is committed; with ``--smoke`` both are one, and nothing is committed."""
    runs = given.out or Path("runs/smoke" if given.smoke else "runs") / study
    return runs, runs if given.smoke else HERE / study
