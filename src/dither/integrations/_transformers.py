"""A callback and a mixin for the Trainer of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from .. import pruning
from ._groups import separate
from ._pruning import Pruning

FILE = "dither.json"  # beside the weights
_Mixin: Any = object  # what a Trainer has is not known before the two are put together


class TrainerPruning(Pruning, TrainerCallback):
    """Structured Bayesian pruning in a training by the Trainer of transformers, with `PruningLoss`.

    ::

        class PruningTrainer(PruningLoss, Trainer): ...

        net = pruning.attach(model, example_inputs)
        callback = TrainerPruning(example_inputs, num_data=len(train_set), shrink_at=3)
        PruningTrainer(net, args, train_dataset=train_set, callbacks=[callback]).train()

    The callback has the settings, and removes channels when an epoch in ``shrink_at`` is reached, before the Trainer
    evaluates and saves: in place, so that ``net``, the optimizer and the scheduler stay the objects they are.

    Args:
        example_inputs: As for `pruning.attach`; moved to the device of the network where it is needed.
        num_data: Size N of what the loss is a mean over: the training examples (the tokens, for a language model).
            None if the loss has a KL term already.
        shrink_at: Epochs, counted from the start of the training, after which channels are removed: ``3`` or
            ``(3, 6)``. A fraction is inside of an epoch.
        gate_lr: Learning rate of the noise at the start; ten times that of the weights if None.
        kl: The KL term in nats, from the network; called once for every batch.
        plan: Decides what stays, from the network and the example inputs.

    Raises:
        ValueError: If a number is out of range. At the start of the training, if channels are to be removed and several
            processes train, or the best checkpoint, maybe from before a removal, is to be loaded at the end.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuses what a removal cannot be combined with."""
        if self.shrink_at and (args.world_size > 1 or args.n_gpu > 1 or args.deepspeed or args.fsdp):
            raise ValueError(
                "the Trainer holds on to its wrapper of a distributed network, so channels cannot be removed inside of "
                "train(); leave shrink_at out and call pruning.shrink after the training."
            )
        if self.shrink_at and args.load_best_model_at_end:
            raise ValueError(
                "load_best_model_at_end may load a checkpoint from before a removal; leave one of the two out."
            )

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Removes channels when their epoch is over."""
        if model is not None and self.due(state.epoch or 0.0):
            inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
            self.shrink(model, self.example_inputs, inner, state.epoch)


class PruningLoss(_Mixin):
    """Mixin for a Trainer that has a `TrainerPruning` among its callbacks; put it first.

    - ``compute_loss`` of a training step, your own too, gets ``kl / num_data``: once for every optimizer step, however
      the loss is scaled for gradient accumulation. The loss of an evaluation has no KL.
    - The optimizer gets the gates in a parameter group of their own, before the scheduler is made.
    - Logs of the training have ``kept``, ``kept/<gate>``, ``snr/<gate>`` (the median) and ``kl``.
    - With the weights goes a file that says what was removed, so that ``train(resume_from_checkpoint=...)`` goes on.
    """

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """The optimizer, with a group for the gates."""
        optimizer = super().create_optimizer(*args, **kwargs)
        noise = [p for gate in pruning.gates(self.model).values() for p in gate.parameters()]
        schedulers = [] if self.lr_scheduler is None else [self.lr_scheduler]
        separate(optimizer, noise, self._pruning().gate_lr, schedulers)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """The loss of the Trainer, and in training the KL term."""
        computed = super().compute_loss(model, inputs, return_outputs, **kwargs)
        pruning_ = self._pruning()
        if not model.training or pruning_.num_data is None:
            return computed
        scaled = getattr(self, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_items = self.model_accepts_loss_kwargs and kwargs.get("num_items_in_batch") is not None
            scaled = by_items or self.compute_loss_func is not None
        steps = self.current_gradient_accumulation_steps if scaled else 1  # what is not scaled yet, the Trainer divides
        term = pruning_.penalty(model) / steps
        return (computed[0] + term, *computed[1:]) if return_outputs else computed + term

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, with what is left of the network beside a training loss."""
        more: Mapping[str, float] = self._pruning().statistics(self.model) if "loss" in logs else {}
        super().log({**logs, **more}, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Saves the weights, and what was removed."""
        super().save_model(output_dir, *args, **kwargs)
        if self.args.should_save:
            path = Path(output_dir or str(self.args.output_dir)) / FILE
            path.write_text(json.dumps(self._pruning().state(self.model)), encoding="utf-8")

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Trains; the network gets the structure of the checkpoint before its weights are loaded."""
        self._pruning().start()
        if resume_from_checkpoint is True:  # the Trainer refuses True where there is no checkpoint
            resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir)) or True
        if isinstance(resume_from_checkpoint, (str, Path)):
            path = Path(resume_from_checkpoint) / FILE
            state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            self._pruning().restore(self.model, state)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _pruning(self) -> TrainerPruning:
        found = [c for c in self.callback_handler.callbacks if isinstance(c, TrainerPruning)]
        if len(found) != 1:
            raise ValueError(f"PruningLoss needs one TrainerPruning among the callbacks, found {len(found)}.")
        return found[0]
