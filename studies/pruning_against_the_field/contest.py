"""One network and seed: the base, and every row that starts from it. What is complete is not done again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import dither
from dither import pruning
from dither.training import Batches, Engine, Images, Progress, Run, evaluate, make_model
from dither.training._batchnorm import reestimate
from dither.training._launch import make_accelerator
from studies.pruning_against_the_field import rivals
from studies.pruning_against_the_field.removal import Channels, drawn, quantiles, renew
from studies.pruning_against_the_field.settings import METHODS, Case

CRITERIA: dict[str, pruning.Criterion] = {"bmrs_u": pruning.BMRSUniform(), "bmrs_n": pruning.BMRSNormal()}
MONITOR = 2_000  # training images on which epochs are measured, for the eye


@dataclass(frozen=True)
class Contest:
    """All methods on one network with one seed.

    Attributes:
        name: of the network, in file names.
        case: its settings.
        seed: of the base, and of everything after it.
        folder: where everything is kept.
        images: "train", and "test" for the final numbers.
        console: where progress goes; None is quiet.
        rows: folder of the rows inside; the base is shared.
        tag: ends the name of each method's folder; tells settings apart that are tried.
    """

    name: str
    case: Case
    seed: int
    folder: Path
    images: Mapping[str, Images]
    console: Console | None = None
    rows: Path = Path()
    tag: str = ""

    def folder_of(self, method: str, size: float) -> Path:
        return self.folder / self.rows / f"{size:g}x" / f"{method}{self.tag}"

    def row(self, method: str, size: float) -> dict[str, Any]:
        """The record of one method at one size."""
        folder = self.folder_of(method, size)
        path = folder / "record.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        plan, net = self.decided(method, size)
        if METHODS[method].start in ("base", "noise"):
            reestimate(net, self.batches)
        removed = evaluate(net, self.images["test"])
        if method in CRITERIA and kept(plan) == self.row("sbp", size)["kept"]:
            record = {**self.row("sbp", size), "method": method, "same_as": "sbp"}
            net = dither.load(make_model(self.case.model), self.folder_of("sbp", size) / "small.safetensors")
        else:
            net = self.trained(net, method, folder)
            record = self.judged(net, plan, method, size)
            if METHODS[method].start != "fresh":
                record |= {"removed_error_pct": removed.error_pct, "removed_nll": removed.nll}
        folder.mkdir(parents=True, exist_ok=True)
        dither.save(net, folder / "small.safetensors", metadata={"model": self.case.model, "method": method})
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return record

    @cached_property
    def base(self) -> nn.Module:
        """The trained network that everybody starts from."""
        path = self.folder / "base" / "base.safetensors"
        if not path.exists():
            recipe = self.case.recipe("base", 1.0, self.seed)
            Run(path.parent, recipe, console=self.console, images=self.images, checkpoint_steps=None).base()
        return dither.load(make_model(self.case.model), path).eval()

    @cached_property
    def example(self) -> torch.Tensor:
        return self.images["train"].float_batch(slice(2))

    @property
    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Training batches as the base saw them."""
        return Batches(self.images["train"], self.case.base, self.seed).epoch(0)

    @cached_property
    def channels(self) -> Channels:
        return Channels(self.base, self.example)

    def decided(self, method: str, size: float) -> tuple[pruning.Plan, nn.Module]:
        """What stays, and the network before it is trained on."""
        start = METHODS[method].start
        if start == "noise":
            return self.under_noise(method, size)
        if start == "whole":
            plan = self.channels.whole
        elif METHODS[method].widths_of:
            plan = self.channels.keeping(drawn(self.row("sbp", size)["widths"], self.channels.sizes, self.seed))
        else:
            plan = self.channels.within(self.scores(method), 1 / size)
        net = self.channels.cut(plan, self.base)
        return plan, renew(net, self.seed) if start == "fresh" else net

    def scores(self, method: str) -> dict[str, torch.Tensor]:
        if method == "uniform":
            return quantiles({name: torch.arange(size) for name, size in self.channels.sizes.items()})
        found = rivals.scores(method, self.base, self.example, self.batches)
        return quantiles(found) if self.case.scope == "local" else found

    def under_noise(self, method: str, size: float) -> tuple[pruning.Plan, nn.Module]:
        """Trains the base under noise that is steered to the size, once for all criteria that read it."""
        trained = self.base
        folder = self.folder_of("noise_columns" if method == "sbp_columns" else "noise", size)
        if not (folder / "base.safetensors").exists():
            folder.mkdir(parents=True, exist_ok=True)
            dither.save(trained, folder / "base.safetensors")
        recipe = self.case.recipe(method, size, self.seed)
        gated = Run(folder, recipe, console=self.console, images=self.images, checkpoint_steps=None).gated()
        if method in CRITERIA:  # where zero is does not matter: the budget says how many go, the criterion which
            criterion = CRITERIA[method]
            evidence = {name: criterion.score(gate.distribution) for name, gate in pruning.gates(gated).items()}
            plan = self.channels.within(evidence, 1 / size)
        else:
            plan = pruning.Target(macs=1 / size).plan(gated, self.example)
        return plan, pruning.shrink(gated, plan, self.example)

    def trained(self, net: nn.Module, method: str, folder: Path) -> nn.Module:
        """The passes over the data that the method has left."""
        fit, train = self.case.training(method), self.images["train"]
        if not fit.epochs:
            return net
        if self.console:
            self.console.print(f"{self.name}, seed {self.seed}, {folder.parent.name} {method}", style="bold")
        engine = Engine(
            make_accelerator(mixed_precision="bf16" if self.case.bfloat16 else "no", project_dir=str(folder)),
            folder,
            Progress(self.console),
            seed=self.seed,
            channels_last=True,
        )
        monitor = dataclasses.replace(train.split_last(min(MONITOR, len(train) - 1))[1], name="train")
        return engine.fit(net, train, monitor, fit, "finetune")

    def judged(self, net: nn.Module, plan: pruning.Plan, method: str, size: float) -> dict[str, Any]:
        score = evaluate(net, self.images["test"])
        costs = dither.compare(self.base, net, self.example[:1], batch_sizes=())
        fit = self.case.training(method)
        return {
            "net": self.name,
            "method": method,
            "size": size,
            "seed": self.seed,
            "error_pct": score.error_pct,
            "nll": score.nll,
            "widths": {name: stay for name, (stay, _) in plan.widths.items() if name in kept(plan)},
            "kept": kept(plan),
            "params": costs.small.params,
            "macs": costs.small.macs,
            "params_ratio": costs.params_ratio,
            "macs_ratio": costs.macs_ratio,
            "scope": self.case.scope if method in rivals.NAMES else None,
            "training": asdict(fit),
        }


def kept(plan: pruning.Plan) -> dict[str, list[int]]:
    """The channels and columns that stay, of all that could have gone."""
    return {choice.name: list(choice.kept) for choice in (*plan.spaces, *plan.columns) if choice.reason is None}
