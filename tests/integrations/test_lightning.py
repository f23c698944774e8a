"""The Lightning callback against the real Trainer."""

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.integrations import Digits
from dither import pruning
from dither.integrations import LightningPruning, restructure_

pytestmark = [
    # Lightning's own: advice about workers and logging, and what it uses of torch
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The '(train|val|test)_dataloader' does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:You are using `torch.load` with `weights_only=False`"),
    pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def data() -> Digits:
    return Digits(64)


def loader(data: Digits) -> DataLoader:
    return DataLoader(data, 16, generator=torch.Generator())


class Lit(LightningModule):
    """A network in an attribute, as most have it."""

    def __init__(self, *, half_gone: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU()]
        self.net = pruning.attach(nn.Sequential(*layers, nn.Linear(16, 10)), torch.zeros(2, 1, 8, 8))
        if half_gone:
            with torch.no_grad():
                for gate in pruning.gates(self.net).values():
                    gate.log_scale[::2] = 3.0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch["x"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val", F.cross_entropy(self.net(batch["x"]), batch["labels"]))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class Seed(Callback):
    """The same noise in every epoch of every run."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.manual_seed(trainer.current_epoch)


def trainer(*callbacks: Callback, epochs: int = 1, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        quiet["enable_checkpointing"] = False
    return Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), log_every_n_steps=1, **{**quiet, **options}
    )


def callback(**options: Any) -> LightningPruning:
    return LightningPruning(torch.zeros(2, 1, 8, 8), **{"num_data": 64, **options})


def test_one_step_is_the_gradient_of_loss_and_kl(data: Digits) -> None:
    """Two batches in one step: the mean of both losses, and the KL once; the gates' group is ten times as fast."""
    module, steps = Lit(), []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            steps.append({name: p.grad.clone() for name, p in module.net.named_parameters()})
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-3, 1e-2])

    by_hand = copy.deepcopy(module.net)
    batches = list(loader(data))[:2]
    trainer(callback(), Seed(), Look(), accumulate_grad_batches=2, limit_train_batches=2).fit(module, loader(data))
    torch.manual_seed(0)
    nll = sum(F.cross_entropy(by_hand(batch["x"]), batch["labels"]) for batch in batches) / 2
    (nll + pruning.kl(by_hand) / 64).backward()
    for name, p in by_hand.named_parameters():
        torch.testing.assert_close(steps[0][name], p.grad, rtol=1e-4, atol=1e-7, msg=name)
    gate = next(name for name, _ in by_hand.named_parameters() if name.endswith("log_scale"))
    assert steps[0][gate].abs().max() > 1e-3  # the KL is there


@pytest.mark.parametrize("how", ["dict", "skipped", "without batch_idx"])
def test_other_returns_of_training_step(data: Digits, how: str) -> None:
    class Other(Lit):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "more": 1} if how == "dict" else None

    class Short(Lit):
        def training_step(self, batch: dict[str, Tensor]) -> Any:
            return super().training_step(batch, 0)

    module = Short() if how == "without batch_idx" else Other()
    before = copy.deepcopy(module.net.state_dict())
    trainer(callback(), limit_train_batches=1).fit(module, loader(data))
    gate = next(name for name in before if name.endswith("log_scale"))
    assert torch.equal(before[gate], module.net.state_dict()[gate]) == (how == "skipped")
    assert "training_step" not in vars(module)  # taken off again


def test_channels_and_noise_are_logged(data: Digits, tmp_path: Path) -> None:
    module, logger = Lit(half_gone=True), CSVLogger(tmp_path)
    fit = trainer(callback(shrink_at=1), logger=logger, epochs=2)
    fit.fit(module, loader(data))
    logged = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert logged["kept"] == logged["kept/1"] + logged["kept/4"] == 12 + 8
    assert logged["snr/1"] > 1 < logged["snr/4"]
    assert logged["kl"] == pytest.approx(
        float(pruning.kl(module.net).detach()) / 64, rel=0.1
    )  # that of the step before
    header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"kept", "kept/1", "snr/4", "kl"} <= set(header.split(","))
    assert len(rows) == 2


def test_schedulers_and_validation_go_on_after_a_removal(data: Digits) -> None:
    module, seen = Lit(half_gone=True), []

    class Look(Callback):
        def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append((module.net[1].out_features, [g["lr"] for g in trainer.optimizers[0].param_groups]))

    shrinking = callback(shrink_at=2)
    trainer(shrinking, Look(), epochs=4, num_sanity_val_steps=0).fit(module, loader(data), loader(data))
    assert [width for width, _ in seen] == [24, 12, 12, 12]
    # validation comes after the scheduler of the epoch
    assert [rates for _, rates in seen] == [pytest.approx([1e-3 / 2**i, 1e-2 / 2**i]) for i in range(1, 5)]
    small = pruning.shrink(module.net, pruning.plan(module.net, data.x[:2]), data.x[:2])
    assert small[4].in_features == small[1].out_features <= 12


def test_fractions_of_epochs(data: Digits) -> None:
    module, widths = Lit(half_gone=True), []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            widths.append(module.net[1].out_features)

    trainer(callback(shrink_at=(0.5, 0.6)), Look()).fit(module, loader(data))
    assert widths == [24, 12, 12, 12]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_training_goes_on_across_a_removal(data: Digits, tmp_path: Path, stop: int) -> None:
    def fit(epochs: int, folder: Path, path: Path | None = None) -> Lit:
        module, keep = Lit(), ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        with torch.no_grad():  # units that drown one after the other
            for gate in pruning.gates(module.net).values():
                gate.log_scale.copy_(torch.linspace(-2.0, 1.5, gate.num_features))
        removing = callback(shrink_at=2, gate_lr=0.1)
        trainer(removing, keep, Seed(), epochs=epochs).fit(module, loader(data), ckpt_path=path)
        return module

    whole = fit(4, tmp_path / "whole")
    again = pruning.plan(whole.net, data.x[:2])
    assert again.widths["1"][0] < again.widths["1"][1] < 24  # a second removal, which nobody asked for, would show
    resumed = fit(4, tmp_path / "resumed", tmp_path / "whole" / f"epoch={stop - 1}.ckpt")
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_weights_alone_are_tested_in_a_fresh_module(data: Digits, tmp_path: Path) -> None:
    module, keep = Lit(half_gone=True), ModelCheckpoint(tmp_path, filename="{epoch}", save_weights_only=True)
    done = trainer(callback(shrink_at=1), keep, epochs=2)
    done.fit(module, loader(data))
    expected = done.test(module, loader(data), verbose=False)
    got = trainer(callback()).test(Lit(), loader(data), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)
    assert got == expected
    checkpoint, by_hand = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True), Lit()  # as the page has it
    restructure_(by_hand.net, checkpoint["dither"]["cut"])
    by_hand.load_state_dict(checkpoint["state_dict"])
    assert by_hand.net[1].out_features == 12
    early, before = trainer(callback(), epochs=1), tmp_path / "before.ckpt"
    early.fit(Lit(), loader(data))
    early.save_checkpoint(before)
    with pytest.raises(ValueError, match="has lost other channels"):
        trainer(callback()).test(module, loader(data), ckpt_path=before, verbose=False)


def test_a_module_that_is_itself_the_network(data: Digits) -> None:
    class Flat(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 24), nn.Linear(24, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x.flatten(1))))

        training_step, configure_optimizers = Lit.training_step, Lit.configure_optimizers
        net = property(lambda self: self)

    module = pruning.attach(Flat(), torch.zeros(2, 1, 8, 8))
    with torch.no_grad():
        pruning.gates(module)["first"].log_scale[::2] = 3.0
    fit = trainer(callback(shrink_at=1), epochs=2)
    fit.fit(module, loader(data))
    assert module.trainer is fit
    assert module.first.out_features == 12


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_gates_stay_in_float32(data: Digits, precision: str) -> None:
    module = Lit(half_gone=True)
    trainer(callback(shrink_at=1), epochs=2, precision=precision).fit(module, loader(data))
    gate = pruning.gates(module.net)["1"]
    assert gate.loc.dtype == gate.log_scale.dtype == torch.float32
    assert gate.num_features == 12
    assert module.net[1].weight.dtype == (torch.bfloat16 if precision == "bf16-true" else torch.float32)
    assert len(set(gate.log_scale.tolist())) > 6  # bfloat16 would leave them all at -5


def test_what_cannot_be_is_refused(data: Digits) -> None:
    class Manual(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    class Plain(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(64, 10)

    class Frozen(Lit):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([self.net[1].weight], lr=0.1)

    module = Lit()
    for other, options, more, message in (
        (Manual(), {}, (), "add pruning.kl yourself"),
        (Plain(), {}, (), "carries no noise"),
        (Frozen(), {}, (), "no optimizer trains the noise"),
        (module, {"shrink_at": 1}, (StochasticWeightAveraging(1e-2),), "no average"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(callback(**options), *more).fit(other, loader(data))
        assert not {"training_step", "on_save_checkpoint", "on_load_checkpoint"} & vars(other).keys()
    for options in ({"num_data": 0}, {"shrink_at": 0}, {"gate_lr": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            callback(**options)


def test_manual_optimization_prunes_with_its_own_kl(data: Digits) -> None:
    class Manual(Lit):
        def __init__(self) -> None:
            super().__init__(half_gone=True)
            self.automatic_optimization = False

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx) + pruning.kl(self.net) / 64)
            optimizer.step()

    module = Manual()
    trainer(callback(num_data=None, shrink_at=1), epochs=2).fit(module, loader(data))
    assert module.net[1].out_features == 12
