"""One stretch of training on Accelerate that can be killed at any moment and goes on bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from ..pruning import Control, restructure
from ._batches import Batches
from ._checkpoints import Checkpoints, write_text
from ._data import Images
from ._evaluate import evaluate
from ._launch import seed_processes, share_buffers
from ._lock import hold
from ._lost import is_lost, lost
from ._progress import Progress
from ._recipe import Fit
from ._shrinking import Shrinking
from ._watch import NonFiniteLoss, Watch


@dataclass(frozen=True)
class Penalty:
    """What is added to the mean negative log-likelihood, and how it grows.

    Attributes:
        value: from the network to a scalar in nats per image.
        warmup: epochs over which its factor grows linearly from 0 to 1.
        control: what steers the value, if anything does. Its state is saved and restored with the training.
    """

    value: Callable[[nn.Module], Tensor]
    warmup: float = 0.0
    control: Control | None = None

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """Factor at a step: a function of the step, so there is nothing to restore.

        Example:
            >>> [Penalty(value=lambda net: torch.zeros(()), warmup=2).factor(step, 10) for step in (0, 10, 20, 30)]
            [0.0, 0.5, 1.0, 1.0]
        """
        return min(1.0, step / (self.warmup * steps_per_epoch)) if self.warmup else 1.0


@dataclass(frozen=True)
class Engine:
    """What stays the same over the stretches of a run.

    Attributes:
        accelerator: process layout, precision and gradient accumulation.
        folder: run folder; states go to ``checkpoint/<stretch>``.
        progress: what the user sees.
        seed: of order, augmentation and noise.
        channels_last: memory format of images and convolutions.
        checkpoint_steps: steps between states inside an epoch; None saves after epochs only.
    """

    accelerator: Accelerator
    folder: Path
    progress: Progress
    seed: int = 0
    channels_last: bool = False
    checkpoint_steps: int | None = None

    def fit(
        self,
        net: nn.Module,
        images: Images,
        monitor: Images,
        settings: Fit,
        name: str,
        *,
        groups: Callable[[nn.Module], Iterable[dict[str, Any]]] | None = None,
        penalty: Penalty | None = None,
        train_mode: Callable[[nn.Module], object] = nn.Module.train,
        counts: Callable[[nn.Module], Mapping[str, int]] | None = None,
        notes: Callable[[nn.Module], Mapping[str, Any]] | None = None,
        shrinking: Shrinking | None = None,
    ) -> nn.Module:
        """Trains the network in place and returns it; goes on from the last complete state if there is one.

        With ``shrinking`` what it returns is another, smaller network, and the given one stops at the first removal.

        Args:
            net: maps float images in [0, 1] to logits.
            images: training images.
            monitor: images on which every epoch is measured (in the precision of training).
            settings: epochs, rates and augmentation.
            name: of the stretch: "base", "prune" or "finetune".
            groups: parameter groups with absolute "lr"; all parameters at ``settings.lr`` if left out.
            penalty: term beside the negative log-likelihood.
            train_mode: puts the network into the mode it trains in.
            counts: kept channels per gate, for the display and the history.
            notes: what else the history says about the network after an epoch, JSON-able.
            shrinking: removes channels between epochs.

        Returns:
            The network, trained, unwrapped, in eval mode.

        Raises:
            NonFiniteLoss: If a loss, a gradient, a parameter or a gate is NaN or infinite.
            LostProcess: If another process of the job is gone.
            OSError: If a state cannot be saved (the older one is kept), or another process works in the folder.
            CheckpointError: If there are states and none of them is as it was written.
        """
        release = hold(self.folder, self.accelerator)
        try:
            return _Stretch(
                self, net, images, monitor, settings, name, groups, penalty, train_mode, counts, notes, shrinking
            ).run()
        finally:
            release()


class _Stretch:
    """The loop of :meth:`Engine.fit`; its position is all that must be stored beside what Accelerate stores."""

    def __init__(
        self,
        engine: Engine,
        net: nn.Module,
        images: Images,
        monitor: Images,
        settings: Fit,
        name: str,
        groups: Callable[[nn.Module], Iterable[dict[str, Any]]] | None,
        penalty: Penalty | None,
        train_mode: Callable[[nn.Module], object],
        counts: Callable[[nn.Module], Mapping[str, int]] | None,
        notes: Callable[[nn.Module], Mapping[str, Any]] | None,
        shrinking: Shrinking | None,
    ) -> None:
        accelerator = engine.accelerator
        self.engine, self.accelerator, self.settings, self.name = engine, accelerator, settings, name
        self.penalty, self.train_mode, self.counts, self.notes, self.shrinking = (
            penalty,
            train_mode,
            counts,
            notes,
            shrinking,
        )
        self.images, self.monitor = images.to(accelerator.device), monitor.to(accelerator.device)
        self.batches = Batches(
            self.images,
            settings,
            engine.seed,
            multiple=accelerator.gradient_accumulation_steps,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        self.steps = settings.epochs * self.batches.steps
        net.to(accelerator.device)
        self.memory_format = torch.channels_last if engine.channels_last else torch.contiguous_format
        if engine.channels_last:
            net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        param_groups = list(groups(net)) if groups else [{"params": list(net.parameters()), "lr": settings.lr}]
        self.rates = [cast(float, group["lr"]) for group in param_groups]
        optimizer = torch.optim.AdamW(
            param_groups, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        self.had_own_forward = "forward" in vars(net)
        self.checkpoints = Checkpoints(engine.folder / "checkpoint" / name, accelerator)
        self.watch = Watch(accelerator, name, self.batches.steps)
        saved = self.checkpoints.position()
        if saved is not None and saved.get("cut"):
            net, optimizer = restructure(net, optimizer, saved["cut"])
        self._prepare(net, optimizer)
        self.step = 0
        self.sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)  # loss and KL term of this epoch
        self.history: list[dict[str, Any]] = []

    def run(self) -> nn.Module:
        # Stretches are independent of each other's use of the generator, so each can be repeated alone.
        seed_processes(self.engine.seed)
        try:
            self._restore()
            with self.engine.progress.stretch(self.name, self.step, self.steps, self.batches.steps):
                while self.step < self.steps:
                    self._epoch()
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error}; {self._kept()}; try a smaller lr or gate_lr, or a kl_warmup") from error
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise lost(error, self._kept()) from error
        finally:
            self._unwrap()
        if self.engine.channels_last:
            self.net.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        return self.net.eval()

    def _kept(self) -> str:
        newest = self.checkpoints.newest()
        return f"the last good checkpoint is {newest.name}" if newest else "no checkpoint was saved before"

    def _prepare(self, net: nn.Module, optimizer: Optimizer) -> None:
        self.net = net
        self.wrapped, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.watch.attach(self.wrapped)

    def _unwrap(self) -> None:
        """Takes Accelerate's autocast off the network again."""
        self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        if not self.had_own_forward:  # Accelerate leaves the bound method on the instance
            vars(self.net).pop("forward", None)
        vars(self.net).pop("_is_accelerate_prepared", None)  # or it would not prepare a copy: that has this mark too
        self.accelerator.free_memory()

    def _restore(self) -> None:
        position = self.checkpoints.load()
        if position is not None:
            self.step, self.history = position["step"], position["history"]
            self.sums = torch.tensor(position["sums"], dtype=torch.float64, device=self.accelerator.device)
            if position.get("processes", 1) != self.accelerator.num_processes:
                seed_processes(self.engine.seed, self.step)
            if (control := self._control()) is not None:
                control.load_state_dict(position["control"])
            self._write_history()
            self.engine.progress.history(self.name, self.history)

    def _epoch(self) -> None:
        epoch, start = divmod(self.step, self.batches.steps)
        if start == 0:
            self.sums.zero_()
        every = self.engine.checkpoint_steps
        self.train_mode(self.wrapped)
        for x, labels in self.batches.epoch(epoch, start):
            self._step(x.contiguous(memory_format=self.memory_format), labels)
            self.engine.progress.step(self.step, self.sums, self._counts)
            inside = self.step % self.batches.steps != 0
            if every and inside and self.step % every == 0 and self.accelerator.sync_gradients:
                self._look()
                self._save()
        self._look()
        self._finish_epoch(epoch + 1)
        if self.shrinking and (epoch + 1) % self.shrinking.every == 0 and self.step < self.steps:
            self._shrink(self.shrinking)
        self._save()

    def _shrink(self, shrinking: Shrinking) -> None:
        """Goes on with the smaller network. After the epoch was measured: in eval mode both are the same."""
        optimizer: Any = self.optimizer
        self._unwrap()
        self._prepare(*shrinking.carry_out(self.net, optimizer.optimizer))

    def _step(self, x: Tensor, labels: Tensor) -> None:
        factor = self.settings.lr_factor(self.step, self.steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        with self.accelerator.accumulate(self.wrapped):
            logits = self.wrapped(x)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
            terms = [loss.detach()]
            if self.penalty is not None:
                extra = self.penalty.value(self.net) * self.penalty.factor(self.step, self.batches.steps)
                terms.append(extra.detach())
                loss = loss + extra.to(loss.dtype)
            self.accelerator.backward(loss)
            self.watch.step(self.step, loss, x, self.net)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.sums[: len(terms)] += torch.stack(terms)
        self.step += 1

    def _look(self) -> None:
        """Nothing is saved that is not finite."""
        self.watch.look(self.step, self.net)
        self.watch.network(self.step, self.net)

    def _finish_epoch(self, epoch: int) -> None:
        means = (self._sums() / self.batches.steps).tolist()
        share_buffers(self.net, self.accelerator)
        result = evaluate(self.net, self.monitor, channels_last=self.engine.channels_last, accelerator=self.accelerator)
        if not math.isfinite(result.nll):
            raise NonFiniteLoss(
                f"the outputs for the images of {self.monitor.name} are not finite after epoch {epoch} of stretch "
                f"{self.name!r}, although all parameters are"
            )
        row: dict[str, Any] = {"stretch": self.name, "epoch": epoch, "step": self.step, "loss": means[0]}
        if self.penalty is not None:
            row["kl"] = means[1]
        if (control := self._control()) is not None:
            row |= {"cost": control.share, "kl_weight": control.weight}
        row |= {"monitor": self.monitor.name, **asdict(result), "kept": self._counts()}
        row |= self.notes(self.net) if self.notes else {}
        self.history.append(row)
        self._write_history()
        self.engine.progress.history(self.name, self.history)
        logged = {f"{self.name}/{key}": value for key, value in row.items() if isinstance(value, float)}
        self.accelerator.log(logged, step=self.step)

    def _write_history(self) -> None:
        """Rows of other stretches stay, ours are written whole: a killed run leaves no row twice."""
        if not self.accelerator.is_main_process:
            return
        path = self.engine.folder / "history.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        ours = f'{{"stretch": {json.dumps(self.name)},'
        others = [line for line in lines if not line.startswith(ours)]
        write_text(path, "".join(f"{line}\n" for line in [*others, *map(json.dumps, self.history)]))

    def _sums(self) -> Tensor:
        """Mean over the processes: each adds up the loss of its own images."""
        return cast(Tensor, self.accelerator.reduce(self.sums, reduction="mean"))

    def _counts(self) -> dict[str, int]:
        return dict(self.counts(self.net)) if self.counts else {}

    def _control(self) -> Control | None:
        return self.penalty.control if self.penalty is not None else None

    def _save(self) -> None:
        position: dict[str, Any] = {
            "step": self.step,
            "processes": self.accelerator.num_processes,
            "sums": self._sums().tolist(),
            "history": self.history,
        }
        if self.shrinking:
            position["cut"] = getattr(self.net, "dither_shrunk", None)
        if (control := self._control()) is not None:
            position["control"] = control.state_dict()
        self.checkpoints.save(self.step, position)
