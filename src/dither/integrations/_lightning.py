"""A callback for the Trainer of Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from .. import pruning
from ._groups import separate
from ._in_place import noisy_root
from ._pruning import Pruning
from ._shadows import Shadows

_KEY = "dither"  # of the checkpoint
_AVERAGING = tuple(
    getattr(callbacks, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(callbacks, name)
)


class LightningPruning(Pruning, Callback):
    """Structured Bayesian pruning in a Lightning training: one line for the noise, one for the callback.

    ::

        module.net = pruning.attach(module.net, x)
        trainer = Trainer(callbacks=[LightningPruning(x, num_data=len(train_set), shrink_at=10)])

    - The loss that ``training_step`` returns gets ``kl / num_data``; what it logs by itself stays as it was. Gradient
      accumulation, clipping and mixed precision work on the sum. With manual optimization give ``num_data=None`` and
      add `pruning.kl` yourself.
    - The gates get a parameter group of their own: ten times the rate and schedule of the weights, no weight decay.
      ``configure_optimizers`` need not know of them; a group that holds only gates is left as it is.
    - Every epoch logs ``kept``, ``kept/<gate>``, ``snr/<gate>`` (the median) and ``kl`` (of the last step).
    - At the end of an epoch in ``shrink_at``, before validation and checkpoint, channels are removed from the network
      and the optimizer, in place: schedulers go on, DDP is wrapped again.
    - A checkpoint holds what was removed. Resume with the same lines: ``trainer.fit(module, ckpt_path=...)``.

    Args:
        example_inputs: As for `pruning.attach`; moved to device and precision of the network where it is needed.
        num_data: Size N of what the loss is a mean over: the training examples (the tokens, for a language model).
            None if the loss has a KL term already.
        shrink_at: Epochs, counted from the start of the training, after which channels are removed: ``3`` or
            ``(3, 6)``. A fraction is inside of an epoch.
        gate_lr: Learning rate of the noise at the start; ten times that of the weights if None.
        kl: The KL term in nats, from the network; called once for every batch.
        plan: Decides what stays, from the network and the example inputs.

    Raises:
        ValueError: If a number is out of range. In ``fit``: if the module carries no noise, no optimizer trains it, or
            the strategy, several optimizers or an averaging callback stand in the way of a removal.
    """

    _shadows = Shadows()  # of this run

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts the KL into the loss, and what was removed into checkpoints, for the time of this run."""
        self._shadows = Shadows()
        noisy_root(pl_module)  # or an error
        self._shadows.cast(pl_module, "on_save_checkpoint", lambda method: self._saving(pl_module, method))
        self._shadows.cast(pl_module, "on_load_checkpoint", lambda method: self._loading(pl_module, method))
        if stage != "fit":
            return
        self.start()
        if self.shrink_at and not isinstance(trainer.strategy, (DDPStrategy, SingleDeviceStrategy)):
            raise ValueError(
                f"{type(trainer.strategy).__name__} cannot remove channels; use DDP, or shrink after the training."
            )
        others: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        if self.shrink_at and any(isinstance(callback, _AVERAGING) for callback in others):
            raise ValueError(
                "weights from before and after a removal have no average; shrink the average after the training."
            )
        if self.num_data is not None:
            if not pl_module.automatic_optimization:
                raise ValueError("with manual optimization add pruning.kl yourself, and give num_data=None.")
            self._shadows.cast(pl_module, "training_step", lambda method: self._with_kl(pl_module, method))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes them off again."""
        self._shadows.lift()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same after an error, which has no teardown."""
        self._shadows.lift()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A parameter group of their own for the gates."""
        noise = [p for gate in pruning.gates(pl_module).values() for p in gate.parameters()]
        known = {id(p) for p in noise}
        holders = [o for o in trainer.optimizers if any(id(p) in known for g in o.param_groups for p in g["params"])]
        if not holders:
            raise ValueError("no optimizer trains the noise; give all of self.parameters() to the optimizer.")
        if self.shrink_at and len(trainer.optimizers) > 1:
            raise ValueError("channels are removed with one optimizer; leave shrink_at out, or use one.")
        for optimizer in holders:
            schedulers = [c.scheduler for c in trainer.lr_scheduler_configs if c.scheduler.optimizer is optimizer]
            separate(optimizer, noise, self.gate_lr, schedulers)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Removes channels when their epoch is over."""
        epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        if self.due(epoch):
            example: Any = trainer.precision_plugin.convert_input(self.example_inputs)
            self.shrink(pl_module, example, trainer.optimizers[0], epoch)
            pl_module.trainer = trainer  # a LightningModule that is itself the network lost it in the copy
            _wrap_again(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs kept channels, SNR and KL; the same numbers on every rank."""
        pl_module.log_dict(self.statistics(pl_module))

    def _with_kl(self, module: LightningModule, step: Callable[..., Any]) -> Callable[..., Any]:
        def training_step(*args: Any, **kwargs: Any) -> Any:
            out = step(*args, **kwargs)
            if out is None:  # Lightning skips such a batch
                return None
            term = self.penalty(module)
            return {**out, "loss": out["loss"] + term} if isinstance(out, Mapping) else out + term

        return training_step

    def _saving(self, module: LightningModule, save: Callable[..., None]) -> Callable[..., None]:
        def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
            checkpoint[_KEY] = self.state(module)
            save(checkpoint)

        return on_save_checkpoint

    def _loading(self, module: LightningModule, load: Callable[..., None]) -> Callable[..., None]:
        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self.restore(module, checkpoint.get(_KEY))
            load(checkpoint)

        return on_load_checkpoint


def _wrap_again(trainer: Trainer) -> None:
    """DDP holds the parameters that were there when it was made."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()
