"""What is in a run folder, read and never changed: also while another process trains in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from .._checkpoint import load
from ..pruning import Plan
from ..training import DoubtReport, Images, Recipe, Report, load_images, make_model

NETWORKS = {"base": "original", "small": "pruned"}  # name of the file, name on the page
_DOUBTS = {"base": "doubt", "small": "doubt_small"}  # folders of dither doubt

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """A run folder as plain data.

    Attributes:
        path: the folder.
        recipe: its settings.
        history: a row for every epoch so far.
        plan: what was decided, if it was.
        report: what pruning left, if it is complete.
        doubts: what `dither.training.doubt` found, by network: "base", "small".
        curves: the content of its curves.json, by network; a folder of dither 0.3.0 or older has none.
        files: sizes of the networks that are there, in bytes, by network.
    """

    path: Path
    recipe: Recipe
    history: list[dict[str, Any]]
    plan: Plan | None
    report: Report | None
    doubts: dict[str, DoubtReport]
    curves: dict[str, dict[str, Any]]
    files: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Reads a folder that dither train began.

        Raises:
            FileNotFoundError: If it has no recipe.
            ValueError: If a file in it is damaged; the message names it.
        """
        if not (path / "recipe.json").exists():
            raise FileNotFoundError(f"{path} is no run folder: it has no recipe.json. Make one with dither train")
        doubts = {name: DoubtReport.read(path / folder) for name, folder in _DOUBTS.items()}
        curves = {name: _read(path / folder / "curves.json", json.loads) for name, folder in _DOUBTS.items()}
        networks = {name: path / f"{name}.safetensors" for name in NETWORKS}
        return cls(
            path,
            Recipe.read(path / "recipe.json"),
            _read(path / "history.jsonl", lambda text: [json.loads(line) for line in text.splitlines()]) or [],
            _read(path / "plan.json", lambda text: Plan.from_dict(json.loads(text))),
            _read(path / "report.json", lambda text: Report(json.loads(text))),
            {name: found for name, found in doubts.items() if found is not None},
            {name: found for name, found in curves.items() if found is not None},
            {name: file.stat().st_size for name, file in networks.items() if file.exists()},
        )

    @property
    def stale(self) -> bool:
        """Whether the recipe has changed since the report was made."""
        if self.report is None:
            return False
        # Through Recipe: a report of an older version lacks the settings that are newer than it.
        return Recipe.from_json(json.dumps(self.report.values["recipe"])) != self.recipe

    @property
    def command(self) -> str:
        """The folder as an argument of a command."""
        text = self.path.name if self.path.is_absolute() else self.path.as_posix()
        return f"'{text}'" if " " in text else text

    def fresh(self) -> nn.Module:
        """A new, full-size network of the recipe."""
        classes = self.recipe.classes
        return make_model(self.recipe.model, None if classes is None else len(classes))

    def network(self, name: str) -> nn.Module:
        """The network "base" or "small", in eval mode, on the CPU."""
        return load(self.fresh(), self.path / f"{name}.safetensors").eval()

    def test_images(self, data: str | None = None) -> Images:
        """The test images of the classes that the recipe trains on, from the recipe's data or from another place."""
        images = load_images(self.recipe.data if data is None else data, "test")
        return images if self.recipe.classes is None else images.only(self.recipe.classes)


def _read(path: Path, parse: Callable[[str], T]) -> T | None:
    if not path.exists():
        return None
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it and make it again") from error
