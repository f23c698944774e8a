"""Recipes: every setting of a run as plain data, read from and written to JSON."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ._json import read_json


@dataclass(frozen=True)
class Fit:
    """One stretch of training with AdamW. The rate is constant, then falls linearly to zero.

    Attributes:
        epochs: passes over the training images; 0 skips the stretch.
        batch_size: images per step, over all processes together. A last, smaller batch is left out
            (the order changes every epoch, so no image is left out for good).
        lr: Adam's rate for weights.
        decay_from: fraction of the steps after which the rate falls, in [0, 1]; 1 keeps it constant.
        betas: Adam's two decay rates.
        weight_decay: decoupled weight decay as in AdamW; never on gates.
        label_smoothing: share of the target that is spread evenly over the classes, in [0, 1).
        shift: augmentation, at most this many pixels in each direction, zeros move in.
        flip: augmentation, mirror every second image on average.
    """

    epochs: int
    batch_size: int = 100
    lr: float = 1e-3
    decay_from: float = 0.5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        _require(self.epochs >= 0, "epochs", self.epochs, "a number >= 0")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "a number >= 1")
        _require(self.lr > 0, "lr", self.lr, "a number > 0")
        _require(0 <= self.decay_from <= 1, "decay_from", self.decay_from, "a fraction in [0, 1]")
        _require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "a number >= 0")
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "label_smoothing", smoothing, "a number in [0, 1)")
        _require(self.shift >= 0, "shift", self.shift, "a number of pixels >= 0")

    def lr_factor(self, step: int, steps: int) -> float:
        """Factor on the rate at ``step`` of ``steps``: a function of the step, so there is no scheduler to restore.

        Example:
            >>> fit = Fit(epochs=10, decay_from=0.5)
            >>> [fit.lr_factor(step, 100) for step in (0, 50, 75, 100)]
            [1.0, 1.0, 0.5, 0.0]
        """
        done = step / max(steps, 1)
        return 1.0 if done <= self.decay_from else max(0.0, (1.0 - done) / (1.0 - self.decay_from))


@dataclass(frozen=True)
class Noise:
    """Structured Bayesian Pruning: how gates learn and what is removed.

    Attributes:
        gate_lr: Adam's rate for gates, absolute. None is ten times the rate of the weights.
        kl_weight: factor on the whole KL. 1 is the evidence lower bound.
        kl_weights: factor per gate on top: None (1 everywhere), "macs" (proportional to what a channel costs),
            "latency" (to the time that it takes on this machine), "sbpa" (the paper's 10, 10, 5, 5, 1, ...), or a
            mapping from gate names to factors.
        kl_warmup: the KL's factor grows linearly from 0 over this many epochs.
        features: gates on the single input columns of linear layers: True, or names of such layers.
        skip: names of layers that get no gate.
        init_log_scale: log σ of every gate at the start. None keeps the layer's own default.
        threshold: SNR above which a unit stays.
        multiple_of: kept widths are rounded up to a multiple of this. "auto": as far up as a measurement on this
            machine says that it costs no time. With a target they are a multiple of it within the target.
        target: what the shrunk network may cost, as a fraction of the original: {"macs": 0.3}, or "params", or
            "latency". The whole KL is then steered: ``kl_weight`` and ``kl_weights`` are not read.
        shrink_every: epochs between removals while the network trains, which makes the rest of the training faster;
            0 removes at the end only. A unit that was removed cannot come back.
        batchnorm: "freeze" (running statistics are used and kept while noise is drawn) or
            "reestimate" (trained as usual, then measured again on the shrunk network).
    """

    gate_lr: float | None = None
    kl_weight: float = 1.0
    kl_weights: dict[str, float] | Literal["macs", "latency", "sbpa"] | None = None
    kl_warmup: float = 0.0
    features: bool | tuple[str, ...] = False
    skip: tuple[str, ...] = ()
    init_log_scale: float | None = None
    threshold: float = 1.0
    multiple_of: int | Literal["auto"] = 1
    target: dict[str, float] | None = None
    shrink_every: int = 0
    batchnorm: Literal["freeze", "reestimate"] = "freeze"

    def __post_init__(self) -> None:
        _require(self.gate_lr is None or self.gate_lr > 0, "gate_lr", self.gate_lr, "a number > 0 or None")
        _require(self.kl_weight >= 0, "kl_weight", self.kl_weight, "a number >= 0")
        _require(self.kl_warmup >= 0, "kl_warmup", self.kl_warmup, "a number of epochs >= 0")
        _require(self.threshold >= 0, "threshold", self.threshold, "a number >= 0")
        multiple = self.multiple_of
        rounds = multiple == "auto" or (type(multiple) is int and multiple >= 1)
        _require(rounds, "multiple_of", multiple, "a number >= 1 or 'auto'")
        target = self.target
        _require(target is None or _is_target(target), "target", target, "like {'macs': 0.3}, or params or latency")
        rounds = self.target is None or multiple != "auto"
        _require(rounds, "multiple_of", multiple, "a number, because a target is set")
        _require(self.shrink_every >= 0, "shrink_every", self.shrink_every, "a number of epochs >= 0")
        steered = target is not None and self.shrink_every
        _require(not steered, "shrink_every", self.shrink_every, "0, because a target is set")
        _require(self.batchnorm in ("freeze", "reestimate"), "batchnorm", self.batchnorm, "'freeze' or 'reestimate'")
        names = ("macs", "latency", "sbpa")
        known = self.kl_weights is None or isinstance(self.kl_weights, dict) or self.kl_weights in names
        _require(known, "kl_weights", self.kl_weights, "None, 'macs', 'latency', 'sbpa' or {gate: factor}")


@dataclass(frozen=True)
class Recipe:
    """A whole run: train a base network, prune it, optionally fine-tune what is left.

    Attributes:
        model: name of a network here (see :func:`dither.training.model_names`) or ``package.module:callable``.
        data: "digits", a folder, or a name on the Hugging Face hub.
        base: training of the original network.
        prune: training under noise.
        noise: settings of the noise and of the plan.
        finetune: training of the shrunk network, whose gates are gone. 0 epochs: as shrunk.
        validation: this many of the last training images are held out; every epoch is measured on them.
        seed: of initial weights, data order, augmentation and noise.
        mixed_precision: "no", "bf16" or "fp16", as Accelerate understands them.
        gradient_accumulation_steps: steps whose gradients are averaged before the weights change.
        channels_last: memory format of images and convolutions; often twice as fast on a CPU. A network
            whose ``forward`` calls ``view`` on feature maps must leave it off.
        classes: train and test on these classes of the data only, renumbered from 0 in this order; the others are
            images that the network cannot know (:meth:`dither.training.Run.images`, "rest"). None: all classes.
    """

    model: str
    data: str
    base: Fit
    prune: Fit
    noise: Noise = field(default_factory=Noise)
    finetune: Fit = field(default_factory=lambda: Fit(epochs=0))
    validation: int = 0
    seed: int = 0
    mixed_precision: str = "no"
    gradient_accumulation_steps: int = 1
    channels_last: bool = False
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require(self.validation >= 0, "validation", self.validation, "a number of images >= 0")
        precision = self.mixed_precision
        _require(precision in ("no", "bf16", "fp16"), "mixed_precision", precision, "no, bf16 or fp16")
        steps = self.gradient_accumulation_steps
        _require(steps >= 1, "gradient_accumulation_steps", steps, "a number >= 1")
        known = self.classes is None or _are_classes(self.classes)
        _require(known, "classes", self.classes, "None or at least two different numbers >= 0")

    def to_json(self) -> str:
        """JSON text that :meth:`from_json` reads back to an equal recipe."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Recipe from JSON text. Settings that are left out keep their defaults.

        Raises:
            ValueError: If the text is no JSON object, a setting is unknown or a value makes no sense.

        Example:
            >>> recipe = Recipe("lenet5", "digits", base=Fit(epochs=1), prune=Fit(epochs=2))
            >>> Recipe.from_json(recipe.to_json()) == recipe
            True
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the recipe is not valid JSON: {error}") from error
        return _build(cls, values, "recipe")

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Recipe from a JSON file, see :meth:`from_json`.

        Raises:
            ValueError: As there; the message names the file.
        """
        values = read_json(Path(path), "Bring a good copy back, or use another folder.")
        try:
            return _build(cls, values, "recipe")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _are_classes(values: object) -> bool:
    if not isinstance(values, tuple) or not all(type(value) is int and value >= 0 for value in values):
        return False
    return len(set(values)) == len(values) >= 2


def _is_target(values: dict[str, float]) -> bool:
    return len(values) == 1 and values.keys() <= {"macs", "params", "latency"} and 0 < next(iter(values.values())) < 1


def _require(true: bool, name: str, got: object, expected: str) -> None:
    if not true:
        raise ValueError(f"recipe: {name} is {got!r}, expected {expected}")


def _build(cls: type[Any], values: object, where: str) -> Any:
    """An instance of the dataclass from parsed JSON; nested dataclasses too, lists become tuples."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {type(values).__name__}, expected a JSON object")
    given = typing.cast(Mapping[str, Any], values)
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(given) - set(hints)):
        raise ValueError(f"{where} has the unknown setting {unknown[0]!r}, known are {', '.join(hints)}")
    built: dict[str, Any] = {}
    for name, value in given.items():
        if dataclasses.is_dataclass(hints[name]):
            built[name] = _build(hints[name], value, f"{where}.{name}")
        else:
            built[name] = tuple(typing.cast(list[Any], value)) if isinstance(value, list) else value
    try:
        return cls(**built)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
