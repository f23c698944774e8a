"""A network of a run beside itself with stochastic BatchNorm: on the test images, and on what it cannot know."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from .. import batchnorm, figures, metrics
from .._processes import decided
from ._ask import ROWS, Answers, ask, ask_samples, paired_change, parts, seconds_per_1000
from ._batches import Batches
from ._checkpoints import write_text
from ._curves import curves, least_certain
from ._data import Images, load_images
from ._doubt_report import METHODS, DoubtReport
from ._report import machine, versions
from ._run import Run

T = TypeVar("T")

CURVES = "curves.json"
_TELL = 5.0  # seconds between lines of progress
_SEED_FIT, _SEED_DRAWS, _SEED_TUNE = 1, 2, 3  # added to ten times the run's seed: no two steps share their numbers


def doubt(
    run: Run,
    outside: str | None = None,
    *,
    num_samples: int = 16,
    law: batchnorm.Law | None = None,
    layers: Sequence[str] | None = None,
    num_batches: int = 500,
    tune: bool = False,
    network: str = "base",
    console: Console | None = None,
) -> DoubtReport:
    """Converts the network of a run, fits the law of its batch statistics, and measures what its doubt is worth.

    The law is fitted on training batches as the network was trained on: the recipe's batch size and augmentation, as
    many epochs as it takes. Test images are looked at once, at the end. With ``validation`` in the recipe, each
    network gets a temperature that was fitted on the held-out images.

    Writes ``report.json``, ``report.md``, ``curves.json`` (the numbers behind the figures, and the least certain
    images, for ``dither report``) and figures to the folder ``doubt`` of the run (``doubt_small`` for the
    shrunk network). If they are there, made with the same settings, they are read and nothing is done again.

    Args:
        run: its network is trained first if it is not there yet.
        outside: images that the network cannot know: "rest" (the test images of the classes that the recipe leaves
            out) or another data set, as :func:`dither.training.load_images` takes it. None: none.
        num_samples: draws of the statistics, S.
        law: what is drawn from. None is ``batchnorm.Factorized()``.
        layers: names of the BatchNorm layers that draw, or of modules that hold them. None: all.
        num_batches: training batches that the law is fitted on.
        tune: choose the batch size that the noise belongs to by the likelihood of the held-out images.
        network: "base" or "small", the shrunk network of ``prune``.
        console: where progress goes; None is quiet.

    Returns:
        The report.

    Raises:
        ValueError: If the network has no BatchNorm, the images outside do not fit the network, ``tune`` has no held-out
            images, or a setting makes no sense.
        FileNotFoundError: If "small" is asked for and not there.
    """
    if network not in ("base", "small"):
        raise ValueError(f"network is {network!r}, expected 'base' or 'small'")
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}, expected a number >= 1")
    if tune and not run.recipe.validation:
        raise ValueError("tune needs held-out images: train with validation, dither train --validation 300")
    law = batchnorm.Factorized() if law is None else law
    settings = {
        "outside": outside,
        "num_samples": num_samples,
        "law": repr(law),
        "layers": None if layers is None else list(layers),
        "num_batches": num_batches,
        "tune": tune,
        "network": network,
        "data": run.data,
        "recipe": json.loads(run.recipe.to_json()),
    }
    folder = run.folder / ("doubt" if network == "base" else "doubt_small")
    old = decided(lambda: _complete(folder))
    if old is not None and old.values["settings"] == settings:
        return old
    return _Doubt(run, folder, settings, law, console).run()


class _Doubt:
    """The steps of :func:`doubt`."""

    def __init__(
        self, run: Run, folder: Path, settings: dict[str, Any], law: batchnorm.Law, console: Console | None
    ) -> None:
        self.source, self.folder, self.settings, self.law, self.console = run, folder, settings, law, console
        self.device = run.accelerator.device
        self.notes: list[str] = []
        self.told = time.monotonic()

    def run(self) -> DoubtReport:
        run, settings = self.source, self.settings
        single = (run.base() if settings["network"] == "base" else run.small()).to(self.device)
        stochastic = batchnorm.convert(single, settings["layers"])
        sets = self._images()
        mine = len(range(run.accelerator.process_index, settings["num_batches"], run.accelerator.num_processes))
        self._say(f"fitting the law of the statistics on {settings['num_batches']:,} training batches")
        with self._noting():
            fit = batchnorm.fit(
                stochastic,
                self._batches(),
                law=self.law,
                progress=lambda done, total: self._tick(f"{done:,} of {mine:,} batches"),
            )
            tuned = self._tune(stochastic) if settings["tune"] else None
        # One process asks and measures: the others would share its cores.
        return decided(lambda: self._report(single, stochastic, sets, fit, tuned))

    def _report(
        self,
        single: nn.Module,
        stochastic: nn.Module,
        sets: dict[str, Images],
        fit: batchnorm.FitReport,
        tuned: batchnorm.TuneReport | None,
    ) -> DoubtReport:
        settings = self.settings
        count = sum(map(len, sets.values()))
        self._say(f"asking about {count:,} images, {settings['num_samples']} samples each")
        asks = {
            "single": lambda images: ask(single, images),
            "sbn": lambda images: ask_samples(
                stochastic, images, settings["num_samples"], self._seed(_SEED_DRAWS), self._tick
            ),
        }
        answers = {method: {name: asked(images) for name, images in sets.items()} for method, asked in asks.items()}
        seconds = seconds_per_1000(asks, sets["test"])
        pictures = self._figures(answers, sets) | {"statistics": fit.figure()}
        values: dict[str, Any] = {
            "records": [self._record(method, asked, sets, seconds[method]) for method, asked in answers.items()],
            "change": paired_change(answers["single"]["test"], answers["sbn"]["test"], sets["test"].labels),
            "images": {name: len(images) for name, images in sets.items()},
            "fit": str(fit),
            "tune": None if tuned is None else str(tuned),
            "batch_size": fit.batch_size if tuned is None else tuned.best,
            "notes": self.notes,
            "figures": [f"{name}.png" for name in pictures],
            "settings": settings,
            "machine": machine(),
            "versions": versions(),
        }
        report = DoubtReport(self.folder, values)
        self.folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            figures.save(picture, self.folder / f"{name}.png")
        write_text(self.folder / CURVES, json.dumps(self._curves(answers, sets["test"].labels)) + "\n")
        write_text(self.folder / "report.md", report.to_markdown())
        write_text(self.folder / "report.json", json.dumps(values, indent=1) + "\n")  # last: it says "complete"
        return report

    def _images(self) -> dict[str, Images]:
        """The sets that are asked about: "test", and "validation" and "outside" where there are such."""
        run, name = self.source, self.settings["outside"]
        sets = {"test": run.images("test")}
        if run.recipe.validation:
            sets["validation"] = run.images("validation")
        if name is not None:
            sets["outside"] = run.images("rest") if name == "rest" else load_images(name, "test")
            got, expected = sets["outside"].pixels.shape[1:], sets["test"].pixels.shape[1:]
            if got != expected:
                what = f"{_size(got)}, the network was trained on {_size(expected)}"
                raise ValueError(f"the images of {name!r} are {what} (channels x height x width)")
        return {name: images.to(self.device) for name, images in sets.items()}

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches, one epoch after the other; of several processes each gets every n-th."""
        recipe = self.source.recipe
        batches = Batches(self.source.images("train").to(self.device), recipe.base, self._seed(_SEED_FIT))
        left = self.settings["num_batches"]
        every = chain.from_iterable(map(batches.epoch, range(-(-left // batches.steps))))
        return self._mine(islice(every, left))

    def _mine(self, batches: Iterable[T]) -> Iterator[T]:
        accelerator = self.source.accelerator
        return islice(batches, accelerator.process_index, None, accelerator.num_processes)

    def _tune(self, net: nn.Module) -> batchnorm.TuneReport:
        images = self.source.images("validation").to(self.device)
        self._say(f"choosing the batch size of the noise on {len(images):,} held-out images")
        loader = list(self._mine(zip(parts(images), images.labels.split(ROWS), strict=True)))
        generator = torch.Generator().manual_seed(self._seed(_SEED_TUNE))
        return batchnorm.tune(net, loader, num_samples=self.settings["num_samples"], generator=generator)

    def _seed(self, what: int) -> int:
        return 10 * self.source.recipe.seed + what

    def _record(
        self, method: str, asked: dict[str, Answers], sets: dict[str, Images], seconds: float
    ) -> dict[str, Any]:
        recipe, test, outside = self.source.recipe, asked["test"], asked.get("outside")
        held_out = (asked["validation"].probs, sets["validation"].labels) if "validation" in asked else None
        with self._noting():
            table = metrics.classification_table(
                test.probs, sets["test"].labels, held_out=held_out, outside=None if outside is None else outside.probs
            )
        if outside is not None and test.information is not None and outside.information is not None:
            table["ood_auroc_mutual_information"] = metrics.auroc(test.information, outside.information)
        return {
            "net": recipe.model,
            "data": recipe.data,
            "method": method,
            "seed": recipe.seed,
            "num_samples": 1 if method == "single" else self.settings["num_samples"],
            **table,
            "seconds_per_1000": seconds,
        }

    def _figures(self, answers: dict[str, dict[str, Answers]], sets: dict[str, Images]) -> dict[str, Any]:
        """By the name of the file."""
        labels, drawn = sets["test"].labels, {METHODS[method]: asked for method, asked in answers.items()}
        entropy = {name: asked["test"].entropy for name, asked in drawn.items()}
        probs = {name: asked["test"].probs for name, asked in drawn.items()}
        found: dict[str, Any] = {}
        if "outside" in sets:
            outside = {name: asked["outside"].entropy for name, asked in drawn.items()}
            found["entropy"] = figures.entropy_ecdf(entropy, outside, names=("known", "unknown"))
        found["reliability"] = figures.reliability_diagram(probs, labels)
        found["risk_coverage"] = figures.risk_coverage(
            {name: (entropy[name], values.argmax(1) != labels) for name, values in probs.items()}
        )
        return found

    def _curves(self, answers: dict[str, dict[str, Answers]], labels: Tensor) -> dict[str, Any]:
        """The content of curves.json."""
        test = {method: asked["test"] for method, asked in answers.items()}
        return {
            "methods": {
                method: curves(asked["test"], labels, asked.get("outside")) for method, asked in answers.items()
            },
            "uncertain": least_certain(test, labels, "sbn"),
        }

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self.told = time.monotonic()

    def _tick(self, text: str) -> None:
        """Says it now and then."""
        if time.monotonic() - self.told >= _TELL:
            self._say(f"  {text}")

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Warnings become notes of the report."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if warning.category is UserWarning and (note := str(warning.message)) not in self.notes:
                self.notes.append(note)


def _complete(folder: Path) -> DoubtReport | None:
    return DoubtReport.read(folder) if (folder / CURVES).exists() else None


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
