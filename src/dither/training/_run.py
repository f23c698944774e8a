"""One run in one folder: base network, noise, plan, shrunk network, report. Every step is done once and found again."""

from __future__ import annotations

import copy
import dataclasses
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor, nn

from .. import pruning
from .._checkpoint import load, save
from .._processes import decided
from ..pruning import Plan
from ._batches import Batches
from ._batchnorm import reestimate, train_frozen
from ._checkpoints import write_text
from ._data import Images, load_images
from ._deterministic import make_deterministic
from ._engine import Engine
from ._json import read_json
from ._launch import check_folder_is_shared, make_accelerator
from ._lock import hold
from ._models import make_model
from ._objective import make_penalty
from ._progress import Progress
from ._recipe import Recipe
from ._record import record_command
from ._report import Report, make_report
from ._shrinking import Shrinking
from ._snr import snr_histograms

_TIMED = 64  # images in a batch whose time is measured, where a time decides
_MONITOR = 10_000  # training images on which epochs are measured where nothing is held out

_NUMERICS = ("seed", "mixed_precision", "gradient_accumulation_steps", "channels_last")
_BASE = ("model", "data", "classes", "base", "validation", *_NUMERICS)


class Run:
    """A run folder and the steps from data to a smaller network.

    Files: ``recipe.json``, ``commands.jsonl`` (a line per command: seed, versions, state of the sources),
    ``history.jsonl`` (a line per epoch), ``checkpoint/`` (training states),
    ``base.safetensors``, ``small.safetensors``, ``plan.json``, ``plan.txt``, ``report.json``, ``report.md``,
    ``widths.png``. Whatever is complete is read, not made again; a stretch of training that was interrupted goes on
    from its last state, on a CPU bit for bit (with the same number of threads). ``threshold``, ``multiple_of`` and
    the fine-tuning may be changed after the training under noise: plan and report are then made again. The folder
    belongs to this process until the run is deleted or the process ends.

    Args:
        folder: the run folder; made if missing.
        recipe: settings. None reads the folder's ``recipe.json``.
        console: where progress goes; None is quiet.
        threads: CPU threads for torch; None leaves them as they are.
        checkpoint_steps: steps between training states inside an epoch; None saves after every epoch.
        deterministic: operators of torch that could give different bits twice are replaced, or refused by name where
            there is no other. For the whole process, as ``torch.use_deterministic_algorithms`` has it.
        log_with: trackers, as Accelerate's ``log_with`` takes them.
        images: splits that are in memory already, by name; others are loaded.
        data: where the images are now, if that is another place than the recipe says.

    Raises:
        FileNotFoundError: If there is no recipe, neither given nor in the folder.
        ValueError: If the folder was made with another recipe, or not all processes of the job see it.
        RuntimeError: If another process failed.
        BlockingIOError: If another process works in the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        recipe: Recipe | None = None,
        *,
        console: Console | None = None,
        threads: int | None = None,
        checkpoint_steps: int | None = None,
        deterministic: bool = False,
        log_with: Any = None,
        images: Mapping[str, Images] | None = None,
        data: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        path = self.folder / "recipe.json"
        if recipe is None:
            if not path.exists():
                raise FileNotFoundError(f"{self.folder} is no run folder (no recipe.json); make one with dither train")
            recipe = Recipe.read(path)
        self.recipe = recipe
        if threads is not None:
            torch.set_num_threads(threads)
        if deterministic:
            make_deterministic()
        self.data = recipe.data if data is None else data
        self._images = dict(images or {})
        self.accelerator = make_accelerator(
            mixed_precision=recipe.mixed_precision,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            log_with=log_with,
            project_dir=str(self.folder),
        )
        weakref.finalize(self, hold(self.folder, self.accelerator))
        self._check_folder(path)
        if self.accelerator.is_main_process:
            write_text(path, recipe.to_json() + "\n")
            record_command(self.folder, recipe.seed, self.accelerator)
        self.accelerator.wait_for_everyone()
        check_folder_is_shared(path, recipe.to_json() + "\n")
        if log_with is not None:
            self.accelerator.init_trackers("dither", config={"recipe": recipe.to_json()})
        self._engine = Engine(
            self.accelerator,
            self.folder,
            Progress(console if self.accelerator.is_main_process else None),
            seed=recipe.seed,
            channels_last=recipe.channels_last,
            checkpoint_steps=checkpoint_steps,
        )

    def images(self, split: str) -> Images:
        """The images of "train" (without the held-out part), "validation" (that part), "test" or "rest".

        "rest" are the test images of the classes that the recipe leaves out: what the network cannot know.

        Raises:
            ValueError: If more images are held out than there are, or "rest" is asked for and no class is left out.
        """
        if split == "rest":
            if self.recipe.classes is None:
                raise ValueError('no class is left out, so there is no "rest": set classes in the recipe')
            return dataclasses.replace(self._all("test").without(self.recipe.classes), name="rest")
        if split in ("train", "validation"):
            train, held_out = self._split("train").split_last(self.recipe.validation)
            return train if split == "train" else dataclasses.replace(held_out, name="validation")
        return self._split(split)

    def base(self) -> nn.Module:
        """The trained original network, on the device of the run, in eval mode."""
        path = self.folder / "base.safetensors"
        set_seed(self.recipe.seed)
        net = make_model(self.recipe.model, self._num_classes)
        if decided(path.exists):
            return load(net, path).to(self.accelerator.device).eval()
        if self.recipe.base.epochs:
            net = self._engine.fit(net, self.images("train"), self._monitor(), self.recipe.base, "base")
        if self.accelerator.is_main_process:
            save(net, path, metadata=self._origin())
        self.accelerator.wait_for_everyone()
        return net.to(self.accelerator.device).eval()

    def small(self) -> nn.Module:
        """The shrunk network that `prune` left, on the device of the run, in eval mode.

        Raises:
            FileNotFoundError: If there is none yet.
        """
        path = self.folder / "small.safetensors"
        if not path.exists():
            raise FileNotFoundError(f"{self.folder} has no small.safetensors yet; make it with dither prune")
        return load(make_model(self.recipe.model, self._num_classes), path).to(self.accelerator.device).eval()

    def gated(self) -> nn.Module:
        """The network after training under noise, with its gates, in eval mode."""
        recipe, noise, images = self.recipe, self.recipe.noise, self.images("train")
        base, example = self.base(), self.example()
        net = pruning.attach(base, example, skip=noise.skip, features=noise.features)
        if noise.init_log_scale is not None:
            for layer in pruning.gates(net).values():
                layer.log_scale.data.fill_(noise.init_log_scale)

        def groups(gated: nn.Module) -> list[dict[str, Any]]:
            return pruning.param_groups(
                gated, lr=recipe.prune.lr, gate_lr=noise.gate_lr, weight_decay=recipe.prune.weight_decay
            )

        def kept(gated: nn.Module) -> dict[str, int]:
            return {name: int((layer.snr > noise.threshold).sum()) for name, layer in pruning.gates(gated).items()}

        if not recipe.prune.epochs:
            return net.eval()
        steps = recipe.prune.epochs * (len(images) // recipe.prune.batch_size)
        return self._engine.fit(
            net,
            images,
            self._monitor(),
            recipe.prune,
            "prune",
            groups=groups,
            penalty=make_penalty(net, noise, self.example(_TIMED), len(images), steps),
            train_mode=train_frozen if noise.batchnorm == "freeze" else nn.Module.train,
            counts=kept,
            notes=lambda gated: {"snr": snr_histograms(gated)},
            shrinking=Shrinking(noise.shrink_every, self._plan, example) if noise.shrink_every else None,
        )

    def _plan(self, gated: nn.Module) -> Plan:
        noise, x = self.recipe.noise, self.example(_TIMED)
        if noise.target is None:
            return pruning.plan(gated, x, threshold=noise.threshold, multiple_of=noise.multiple_of)
        multiple_of = noise.multiple_of
        assert multiple_of != "auto"
        return pruning.Target(**noise.target).plan(gated, x, threshold=noise.threshold, multiple_of=multiple_of)

    def prune(self) -> Report:
        """All steps up to the report; what is complete already is not done again.

        The test images are looked at here, once, after everything is decided.

        Returns:
            The report, which is also in the folder.
        """
        path = self.folder / "report.json"
        if decided(path.exists):
            report = Report(read_json(path, "Remove it, and the same command makes it again."))
            # Through Recipe: a report of an older version lacks the settings that are newer than it.
            if Recipe.from_json(json.dumps(report.values["recipe"])) == self.recipe:
                return report
        gated, example = self.gated(), self.example()
        plan = self._plan(gated)
        masked = pruning.masked(gated, plan)
        shrunk = pruning.shrink(gated, plan, example)
        plan = pruning.overall(gated, plan)
        small = self._finished(shrunk)
        # One process measures: the others would share its cores.
        report = decided(lambda: make_report(self, masked=masked, shrunk=shrunk, small=small, plan=plan))
        if self.accelerator.is_main_process:
            path.unlink(missing_ok=True)  # it says "complete", and would say it of files that are replaced now
            write_text(self.folder / "plan.json", json.dumps(plan.to_dict()))
            write_text(self.folder / "plan.txt", f"{plan}\n")
            metadata = {**self._origin(), "error_pct": report.small["error_pct"]}
            save(small, self.folder / "small.safetensors", metadata=metadata, cost=report.cost)
            report.write(self.folder)
        self.accelerator.wait_for_everyone()
        return report

    def example(self, images: int = 2) -> Tensor:
        """The first training images as the network reads them."""
        return self._split("train").float_batch(slice(0, images)).to(self.accelerator.device)

    def _finished(self, shrunk: nn.Module) -> nn.Module:
        """The shrunk network after BatchNorm was measured again and what is left was fine-tuned."""
        small, images = copy.deepcopy(shrunk), self.images("train")
        if self.recipe.noise.batchnorm == "reestimate":
            reestimate(small, Batches(images.to(self.accelerator.device), self.recipe.prune, self.recipe.seed).epoch(0))
        if self.recipe.finetune.epochs:
            small = self._engine.fit(small, images, self._monitor(), self.recipe.finetune, "finetune")
        return small.eval()

    def _monitor(self) -> Images:
        if self.recipe.validation:
            return self.images("validation")
        train = self._split("train")
        return dataclasses.replace(train.split_last(min(_MONITOR, len(train) - 1))[1], name="train")

    @property
    def _num_classes(self) -> int | None:
        return None if self.recipe.classes is None else len(self.recipe.classes)

    def _origin(self) -> dict[str, Any]:
        """What a saved network says about itself; :func:`dither.training.make_model` needs the first and the last."""
        values = {"model": self.recipe.model, "data": self.recipe.data}
        return values if self.recipe.classes is None else {**values, "classes": self.recipe.classes}

    def _split(self, split: str) -> Images:
        images = self._all(split)
        return images if self.recipe.classes is None else images.only(self.recipe.classes)

    def _all(self, split: str) -> Images:
        if split not in self._images:
            self._images[split] = load_images(self.data, split)
        return self._images[split]

    def _check_folder(self, path: Path) -> None:
        """Refuses to go on with stretches that were begun with other settings."""
        if not path.exists():
            return
        old = Recipe.read(path)
        for stretch, depends_on in _STRETCHES.items():
            begun = (self.folder / "checkpoint" / stretch).exists()
            begun |= stretch == "base" and (self.folder / "base.safetensors").exists()
            was, now = depends_on(old), depends_on(self.recipe)
            changed = [name for name in was if was[name] != now[name]]
            if begun and changed:
                name = changed[0]
                what = f"{name} = {was[name]!r}, the recipe now says {now[name]!r}"
                raise ValueError(f"{self.folder} was made with {what}; use another folder")


def _base_settings(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in _BASE}


def _prune_settings(recipe: Recipe) -> dict[str, Any]:
    """All but what only the last plan reads: that may change after the training."""
    noise = recipe.noise
    if not noise.shrink_every:
        noise = dataclasses.replace(noise, threshold=1.0, multiple_of=1)
    return {**_base_settings(recipe), "prune": recipe.prune, "noise": noise}


def _finetune_settings(recipe: Recipe) -> dict[str, Any]:
    return {**_base_settings(recipe), "prune": recipe.prune, "noise": recipe.noise, "finetune": recipe.finetune}


# What a stretch of training depends on. A run folder that was begun with other values of these cannot go on.
_STRETCHES = {"base": _base_settings, "prune": _prune_settings, "finetune": _finetune_settings}
