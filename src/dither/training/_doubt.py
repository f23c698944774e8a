"""A network of a run beside itself with stochastic BatchNorm: on the test images, and on what it cannot know."""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from .. import batchnorm, figures, metrics
from ..prediction import predict
from ._batches import Batches
from ._checkpoints import write_text
from ._data import Images, load_images
from ._doubt_report import METHODS, DoubtReport
from ._evaluate import predict_logits
from ._report import machine, versions
from ._run import Run

_ROWS = 500  # images per pass: S samples of them fit into any memory that trained the network
_SEED_FIT, _SEED_DRAWS, _SEED_TUNE = 1, 2, 3  # added to the run's seed, so that no two steps share their numbers


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

    Writes ``report.json``, ``report.md`` and figures to the folder ``doubt`` of the run (``doubt_small`` for the
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
    if (old := DoubtReport.read(folder)) is not None and old.values["settings"] == settings:
        return old
    return _Doubt(run, folder, settings, law, console).run()


@dataclasses.dataclass
class _Asked:
    """What a network says about some images."""

    probs: Tensor
    entropy: Tensor
    information: Tensor | None  # mutual information, of samples
    seconds: float


class _Doubt:
    """The steps of :func:`doubt`."""

    def __init__(
        self, run: Run, folder: Path, settings: dict[str, Any], law: batchnorm.Law, console: Console | None
    ) -> None:
        self.source, self.folder, self.settings, self.law, self.console = run, folder, settings, law, console
        self.device = run.accelerator.device
        self.notes: list[str] = []

    def run(self) -> DoubtReport:
        run, settings = self.source, self.settings
        single = (run.base() if settings["network"] == "base" else run.small()).to(self.device)
        stochastic = batchnorm.convert(single, settings["layers"])
        sets = self._images()
        self._say(f"fitting the law of the statistics on {settings['num_batches']:,} training batches")
        with self._noting():
            fit = batchnorm.fit(stochastic, self._batches(), law=self.law, num_batches=settings["num_batches"])
            tuned = self._tune(stochastic) if settings["tune"] else None
        count = sum(map(len, sets.values()))
        self._say(f"asking about {count:,} images, {settings['num_samples']} samples each")
        answers = {
            "single": {name: self._single(single, images) for name, images in sets.items()},
            "sbn": {name: self._sampled(stochastic, images) for name, images in sets.items()},
        }
        pictures = self._figures(answers, sets) | {"statistics": fit.figure()}
        values: dict[str, Any] = {
            "records": [self._record(method, asked, sets) for method, asked in answers.items()],
            "change": _paired(answers["single"]["test"], answers["sbn"]["test"], sets["test"]),
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
        if run.accelerator.is_main_process:
            self.folder.mkdir(exist_ok=True)
            for name, picture in pictures.items():
                figures.save(picture, self.folder / f"{name}.png")
            write_text(self.folder / "report.md", report.to_markdown())
            write_text(self.folder / "report.json", json.dumps(values, indent=1) + "\n")  # last: it says "complete"
        run.accelerator.wait_for_everyone()
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
        """Training batches, one epoch after the other."""
        recipe = self.source.recipe
        batches = Batches(self.source.images("train").to(self.device), recipe.base, recipe.seed + _SEED_FIT)
        left = self.settings["num_batches"]
        for epoch in range(-(-left // batches.steps)):
            yield from batches.epoch(epoch)

    def _tune(self, net: nn.Module) -> batchnorm.TuneReport:
        images = self.source.images("validation").to(self.device)
        self._say(f"choosing the batch size of the noise on {len(images):,} held-out images")
        loader = list(zip(_parts(images), images.labels.split(_ROWS), strict=True))
        return batchnorm.tune(net, loader, num_samples=self.settings["num_samples"], generator=self._seeded(_SEED_TUNE))

    def _single(self, net: nn.Module, images: Images) -> _Asked:
        began = time.perf_counter()
        probs = predict_logits(net, images, batch_size=_ROWS).softmax(1)
        seconds = time.perf_counter() - began
        return _Asked(probs, metrics.entropy(probs), None, seconds)

    def _sampled(self, net: nn.Module, images: Images) -> _Asked:
        began = time.perf_counter()
        generator = self._seeded(_SEED_DRAWS)  # the same draws for every set
        found = predict(net, _parts(images), self.settings["num_samples"], generator=generator)
        seconds = time.perf_counter() - began
        return _Asked(found.mean, found.entropy, found.mutual_information, seconds)

    def _seeded(self, what: int) -> torch.Generator:
        return torch.Generator().manual_seed(10 * self.source.recipe.seed + what)

    def _record(self, method: str, asked: dict[str, _Asked], sets: dict[str, Images]) -> dict[str, Any]:
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
            "seconds_per_1000": 1000 * test.seconds / len(test.probs),
        }

    def _figures(self, answers: dict[str, dict[str, _Asked]], sets: dict[str, Images]) -> dict[str, Any]:
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

    def _say(self, text: str) -> None:
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def _noting(self) -> Generator[None]:
        """Warnings become notes of the report."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            if (note := str(warning.message)) not in self.notes:
                self.notes.append(note)


def _parts(images: Images) -> Iterator[Tensor]:
    return (images.float_batch(slice(begin, begin + _ROWS)) for begin in range(0, len(images), _ROWS))


def _paired(single: _Asked, sampled: _Asked, images: Images) -> dict[str, float]:
    """Mean difference of the negative log-likelihood and its standard error, image by image."""
    tiny = torch.finfo(single.probs.dtype).tiny
    logs = [asked.probs.clamp_min(tiny).double().log().gather(1, images.labels[:, None]) for asked in (single, sampled)]
    difference = (logs[0] - logs[1]).flatten()
    return {"nll": difference.mean().item(), "nll_se": (difference.std() / len(difference) ** 0.5).item()}


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
