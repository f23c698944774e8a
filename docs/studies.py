"""MkDocs hook: the README of every study is a page, with its figures; there is no second copy that could differ."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = {".md", ".png"}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#]+)\)", re.S)


def on_files(files: Files, *, config: Any) -> None:
    """Add studies/<name>/README.md, what it links to and what it shows."""
    for path in [*sorted((ROOT / "studies").glob("*/**/*")), ROOT / "benchmarks" / "README.md"]:
        if path.suffix in SHOWN:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Links to pages outside ``docs`` reach them; those to sources, results and artifacts become their names."""
    here = page.file.src_uri
    if not here.startswith(("studies/", "benchmarks/")):
        return markdown
    page.meta["hide"] = ["toc"]  # room for wide tables

    def mended(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        if "://" in target:
            return found[0]
        path = Path(ROOT, here).parent.joinpath(target).resolve().relative_to(ROOT).as_posix()
        inside = path.removeprefix("docs/")
        if files.get_file_from_path(inside) is None:
            return text
        up = "../" * here.count("/")
        return f"[{text}]({up}{inside})"

    return LINK.sub(mended, markdown)
