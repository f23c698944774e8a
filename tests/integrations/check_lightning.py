"""What each process does with Lightning's DDP: train, lose channels, go on. Also run alone, on all the data."""

import logging
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dither import pruning
from dither.integrations import LightningPruning

ROWS, STEPS, EPOCHS = 12, 4, 3
X = torch.linspace(-1, 1, STEPS * ROWS * 6, dtype=torch.float64).sin().view(STEPS, ROWS, 6)
Y = torch.arange(STEPS * ROWS).view(STEPS, ROWS) % 3


class Lit(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 3)]
        self.net = pruning.attach(nn.Sequential(*layers).double(), X[0])
        with torch.no_grad():
            for gate in pruning.gates(self.net).values():
                gate.log_scale[::2] = 2.0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class Seed(Callback):
    """One draw for all processes."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(trainer.current_epoch)


def train(rank: int, world: int) -> dict[str, Any]:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module, callback = Lit(), LightningPruning(X[0], X.shape[0] * ROWS, shrink_at=(1, 2))
    trainer = Trainer(
        accelerator="cpu",
        devices=world,
        strategy=DDPStrategy(process_group_backend="gloo") if world > 1 else "auto",
        max_epochs=EPOCHS,
        callbacks=[callback, Seed()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    rows = [(x[rank::world], y[rank::world]) for x, y in zip(X, Y, strict=True)]
    trainer.fit(module, DataLoader(rows, batch_size=None, generator=torch.Generator()))
    plan = pruning.plan(module.net, X[0])
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    state = {name: p.detach().clone() for name, p in module.net.named_parameters()}
    return {"state": state, "widths": repr(plan.widths), "rates": rates}
