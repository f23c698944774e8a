"""Do other people's loops prune as a plain loop does? Kept channels on the digits, same seed, same noise, one thread.

DigitsNet is trained for a few epochs, then under noise by three loops, each with the lines of docs/integrations.md: a
plain loop of torch, the Trainer of Lightning with `LightningPruning`, and that of transformers with `PruningLoss` and
`TrainerPruning`. AdamW, a linear schedule, one learning rate for weights and one for gates. Variants: as it is;
channels removed on the way; gradients accumulated over two batches and clipped; bfloat16 autocast.

Run: python -m benchmarks.integrations --threads 1
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from benchmarks.report import finish, options
from dither import integrations, pruning
from dither.training import load_images, make_model


@dataclass(frozen=True)
class Settings:
    epochs: int = 12
    batch_size: int = 32
    lr: float = 3e-3
    gate_lr: float = 0.1
    factor: float = 0.3  # on the KL, times the multiply-accumulates of a channel
    shrink_at: tuple[int, ...] = ()
    accumulate: int = 1
    clip: float = 0.0
    bf16: bool = False
    seed: int = 0


VARIANTS = {
    "as it is": Settings(),
    "removal after epochs 4 and 8": Settings(shrink_at=(4, 8)),
    "the same, 2 batches a step, clipped at 1": Settings(shrink_at=(4, 8), accumulate=2, clip=1.0),
    "the same in bfloat16": Settings(shrink_at=(4, 8), accumulate=2, clip=1.0, bf16=True),
}


TOTALS = {"conv1": 16, "conv2": 32, "fc1": 64}


class Digits(Dataset[dict[str, Tensor]]):
    """The first of scikit-learn's digits, a multiple of 64 of them: every batch is full."""

    def __init__(self, count: int = 1408) -> None:
        images = load_images("digits", "train")
        self.x, self.y = images.float_batch(slice(0, count)), images.labels[:count]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "labels": self.y[i]}


class Shuffled(Sampler[int]):
    """An order for each epoch that depends on nothing but its number."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.epoch))
        self.epoch += 1
        return iter(order.tolist())


def loader(data: Digits, settings: Settings) -> DataLoader[dict[str, Tensor]]:
    # The generator keeps the loader away from the global one, which draws the noise.
    return DataLoader(
        data, settings.batch_size, sampler=Shuffled(len(data)), drop_last=True, generator=torch.Generator()
    )


def pretrained(data: Digits, epochs: int = 5) -> nn.Module:
    torch.manual_seed(0)
    net = make_model("digits")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = loader(data, Settings())
    for _ in range(epochs):
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(batch["x"]), batch["labels"]).backward()
            optimizer.step()
    return net


def weighted(settings: Settings, net: nn.Module, data: Digits) -> Callable[[nn.Module], Tensor]:
    weights = pruning.mac_weights(net, data.x[:2])
    return partial(pruning.kl, weights={name: settings.factor * weight for name, weight in weights.items()})


def steps(data: Digits, settings: Settings) -> int:
    return settings.epochs * (len(data) // settings.batch_size // settings.accumulate)


def linear(total: int, step: int) -> float:
    """As transformers writes its "linear" schedule."""
    return max(0.0, float(total - step) / float(max(1, total)))


def plain(net: nn.Module, data: Digits, settings: Settings) -> nn.Module:
    kl, num_data = weighted(settings, net, data), len(data)
    optimizer = torch.optim.AdamW(
        pruning.param_groups(net, lr=settings.lr, gate_lr=settings.gate_lr), weight_decay=0.0, foreach=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(linear, steps(data, settings)))
    batches = loader(data, settings)
    torch.manual_seed(settings.seed)
    net.train()
    for epoch in range(settings.epochs):
        for i, batch in enumerate(batches, 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
                logits = net(batch["x"])
            loss = F.cross_entropy(logits.float(), batch["labels"]) + kl(net) / num_data
            (loss / settings.accumulate).backward()
            if i % settings.accumulate == 0:
                if settings.clip:
                    nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        if epoch + 1 in settings.shrink_at:
            net, optimizer = pruning.shrink(net, pruning.plan(net, data.x[:2]), data.x[:2], optimizer=optimizer)
            scheduler.optimizer = optimizer
    return net


def lightning(net: nn.Module, data: Digits, settings: Settings) -> nn.Module:
    from lightning.pytorch import Callback, LightningModule, Trainer

    class Lit(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["x"]).float(), batch["labels"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=settings.lr, weight_decay=0.0, foreach=True)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(linear, steps(data, settings)))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Seed(Callback):
        def on_train_start(self, *_: Any) -> None:
            torch.manual_seed(settings.seed)

    module = Lit()
    callback = integrations.LightningPruning(
        data.x[:2],
        len(data),
        shrink_at=settings.shrink_at,
        gate_lr=settings.gate_lr,
        kl=weighted(settings, net, data),
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings.epochs,
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.clip or None,
        precision="bf16-mixed" if settings.bf16 else "32-true",
        callbacks=[callback, Seed()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'train_dataloader' does not have many workers")  # advice
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated")  # its use of torch
        trainer.fit(module, loader(data, settings))
    return module.net


def transformers(net: nn.Module, data: Digits, settings: Settings) -> nn.Module:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Own(Trainer):
        def get_train_dataloader(self) -> Any:
            return self.accelerator.prepare(loader(data, settings))

        def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            logits = model(inputs["x"])
            loss = F.cross_entropy(logits.float(), inputs["labels"])
            return (loss, logits) if return_outputs else loss

    class PruningTrainer(integrations.PruningLoss, Own):
        pass

    class Seed(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            torch.manual_seed(settings.seed)

    callback = integrations.TrainerPruning(
        data.x[:2],
        len(data),
        shrink_at=settings.shrink_at,
        gate_lr=settings.gate_lr,
        kl=weighted(settings, net, data),
    )
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulate,
            max_grad_norm=settings.clip,
            learning_rate=settings.lr,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            bf16=settings.bf16,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = PruningTrainer(net, args, train_dataset=data, callbacks=[callback, Seed()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return net


LOOPS = {"plain": plain, "Lightning": lightning, "Trainer": transformers}


def compare(data: Digits, model: nn.Module, settings: Settings) -> dict[str, dict[str, Any]]:
    """Kept indices of every gate, in the numbers of the original network, and the distance from the plain loop."""
    found: dict[str, dict[str, Any]] = {}
    first: nn.Module | None = None
    for name, loop in LOOPS.items():
        net = loop(pruning.attach(copy.deepcopy(model), data.x[:2]), data, settings)
        first = first or net
        plan = pruning.overall(net, pruning.plan(net, data.x[:2]))
        kept = {choice.name: list(choice.kept) for choice in plan.spaces if choice.snr}
        pairs = list(zip(first.parameters(), net.parameters(), strict=True)) if shapes(first) == shapes(net) else []
        found[name] = {
            "kept": kept,
            "same_channels": kept == next(iter(found.values()), {"kept": kept})["kept"],
            "largest_difference": max(float((a - b).detach().abs().max()) for a, b in pairs) if pairs else None,
        }
    return found


def shapes(net: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in net.parameters()]


def main() -> None:
    chosen = options(__doc__, repeats=3)
    data = Digits(64 if chosen.smoke else 1408)
    model = pretrained(data, epochs=1 if chosen.smoke else 5)
    records: list[dict[str, Any]] = []
    table = [["variant", "seed", "loop", "conv1", "conv2", "fc1", "same channels", "largest difference of a parameter"]]
    for variant, settings in VARIANTS.items():
        for seed in range(chosen.seed, chosen.seed + (1 if chosen.smoke else chosen.repeats)):
            settings = replace(settings, seed=seed, **({"epochs": 1} if chosen.smoke else {}))
            found = compare(data, model, settings)
            records.append({"variant": variant, "settings": asdict(settings), "loops": found})
            for name, row in found.items():
                counts = [f"{len(row['kept'][space])}/{total}" for space, total in TOTALS.items()]
                same, difference = "yes" if row["same_channels"] else "no", row["largest_difference"]
                apart = "other shapes" if difference is None else f"{difference:.2g}"
                table.append([variant, str(seed), name, *counts, same, apart])
    finish("integrations", chosen, records, table, runs="seeds of the noise")


if __name__ == "__main__":
    main()
