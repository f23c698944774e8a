"""The mixin and the callback against the real Trainer of transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from dither import pruning
from dither.integrations import PruningLoss, TrainerPruning

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 8, "hidden_dropout_prob": 0.0}
EXAMPLE = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
MLP = "bert.encoder.layer.0.intermediate.dense"


class PruningTrainer(PruningLoss, Trainer):
    pass


def network(kind: type = BertForSequenceClassification, *, half_gone: bool = False) -> nn.Module:
    torch.manual_seed(0)
    net = pruning.attach(kind(BertConfig(**SIZES, attention_probs_dropout_prob=0.0, num_labels=3)), EXAMPLE)
    if half_gone:
        with torch.no_grad():
            pruning.gates(net)[MLP].log_scale[::2] = 3.0
    return net


def examples(count: int = 24, *, tokens: bool = False) -> list[dict[str, Any]]:
    torch.manual_seed(1)
    ids = torch.randint(0, 50, (count, 8))
    labels = ids % 3 if tokens else ids.sum(1) % 3
    if tokens:  # rows with unequal numbers of tokens that count
        labels = labels.masked_fill(torch.arange(8) > torch.arange(count)[:, None] % 8, -100)
    return [
        {"input_ids": i, "attention_mask": torch.ones_like(i), "labels": y} for i, y in zip(ids, labels, strict=True)
    ]


def callback(**options: Any) -> TrainerPruning:
    return TrainerPruning(EXAMPLE, **{"num_data": 24, **options})


def trainer(net: nn.Module, folder: Path, *callbacks: TrainerCallback, data: Any = None, **options: Any) -> Trainer:
    settings = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3, "save_strategy": "no"}
    settings |= {"report_to": [], "disable_tqdm": True, "use_cpu": True, "optim": "adamw_torch", "max_grad_norm": 0.0}
    settings |= {"dataloader_pin_memory": False, "logging_strategy": "no"}
    args = TrainingArguments(output_dir=str(folder), **{**settings, **options})
    return PruningTrainer(net, args, train_dataset=data or examples(), callbacks=list(callbacks))


class Look(TrainerCallback):
    """The gradients of every step, and the rates."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.rates: list[list[float]] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, optimizer: Any, **__: Any) -> None:
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        self.rates.append([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForTokenClassification])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_kl_counts_once_a_step(tmp_path: Path, kind: type, accumulate: int) -> None:
    """However the loss is scaled: by the number of batches, or by the number of labels in all of them (tokens)."""
    options = {"gradient_accumulation_steps": accumulate, "max_steps": 1}
    data = examples(tokens=kind is BertForTokenClassification)
    found: list[dict[str, torch.Tensor]] = []
    for num_data in (24, None):
        net, look = network(kind), Look()
        trainer(net, tmp_path, callback(num_data=num_data), look, data=data, **options).train()
        found.append(look.gradients[0])
    fresh = network(kind)
    (pruning.kl(fresh) / 24).backward()
    expected = {name: p.grad for name, p in fresh.named_parameters() if p.grad is not None}
    assert expected
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient - found[1][name], expected.get(name, 0 * gradient), rtol=1e-3, atol=1e-6)


def test_gates_have_a_group_and_the_schedule(tmp_path: Path) -> None:
    look = Look()
    trainer(network(), tmp_path, callback(gate_lr=0.05), look, weight_decay=0.1, warmup_steps=2).train()
    rates = torch.tensor(look.rates)
    assert rates.shape == (12, 3)
    torch.testing.assert_close(rates[:, 2], 50 * rates[:, 0])
    assert rates[1, 0] == pytest.approx(0.5e-3)


def test_an_optimizer_of_the_users_own(tmp_path: Path) -> None:
    net, look = network(), Look()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    done = trainer(net, tmp_path, callback(), look)
    done.optimizer, done.lr_scheduler = optimizer, scheduler
    done.train()
    assert look.rates[1] == pytest.approx([0.05, 0.5])


def test_evaluation_has_no_kl_and_logs_have_channels(tmp_path: Path) -> None:
    net = network(half_gone=True)
    done = trainer(net, tmp_path, callback(shrink_at=1), logging_strategy="epoch")
    done.train()
    history = [row for row in done.state.log_history if "loss" in row]
    assert [row[f"kept/{MLP}"] for row in history] == [12.0, 12.0]
    assert history[0]["kept"] == sum(v for k, v in history[0].items() if k.startswith("kept/"))
    assert history[0]["kl"] > 0 < history[0][f"snr/{MLP}"]
    inputs = {k: torch.stack([row[k] for row in examples()]) for k in examples()[0]}
    got = done.evaluate(examples())["eval_loss"]
    with torch.no_grad():
        assert got == pytest.approx(float(net.eval()(**inputs).loss), rel=1e-5)


def test_the_network_and_the_optimizer_stay_what_they_are(tmp_path: Path) -> None:
    net, look = network(half_gone=True), Look()
    done = trainer(net, tmp_path, callback(shrink_at=0.5), look)
    done.train()
    assert done.model is net
    assert net.get_submodule(MLP).out_features == 12
    assert [len(step) for step in look.gradients] == [len(look.gradients[0])] * 12
    torch.testing.assert_close(torch.tensor(look.rates)[:, 0], 1e-3 * (1 - torch.arange(12) / 12))
    small = pruning.shrink(net, pruning.plan(net, EXAMPLE), EXAMPLE)
    assert small(**EXAMPLE).logits.shape == (2, 3)


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_stopped_training_goes_on_across_a_removal(tmp_path: Path, stop: int) -> None:
    def train(name: str, resume: str | None = None) -> nn.Module:
        net = network(half_gone=True)
        options = {"save_strategy": "steps", "save_steps": 3, "seed": 3}
        trainer(net, tmp_path / name, callback(shrink_at=1), **options).train(resume)
        return net

    whole = train("whole")
    resumed = train("resumed", str(tmp_path / "whole" / f"checkpoint-{stop}"))
    assert json.loads((tmp_path / "whole" / "checkpoint-6" / "dither.json").read_text())["epoch"] == 1.0
    assert whole.get_submodule(MLP).out_features == 12
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_last_checkpoint_and_none(tmp_path: Path) -> None:
    net = network(half_gone=True)
    with pytest.raises(ValueError, match="No valid checkpoint"):
        trainer(net, tmp_path / "none", callback()).train(True)
    trainer(net, tmp_path, callback(shrink_at=1), save_strategy="epoch").train()
    fresh = network(half_gone=True)
    trainer(fresh, tmp_path, callback(shrink_at=1), num_train_epochs=3).train(True)
    assert fresh.get_submodule(MLP).out_features == 12
    with pytest.raises(ValueError, match="has lost other channels"):
        trainer(fresh, tmp_path, callback()).train(str(before_removal(tmp_path)))


def before_removal(folder: Path) -> Path:
    trainer(network(), folder / "before", callback(), save_strategy="epoch").train()
    return folder / "before" / "checkpoint-6"


def test_bfloat16_and_clipping(tmp_path: Path) -> None:
    net = network(half_gone=True)
    look = Look()
    trainer(net, tmp_path, callback(shrink_at=1), look, bf16=True, max_grad_norm=0.01).train()
    assert net.get_submodule(MLP).out_features == 12
    norms = [torch.stack([g.norm() for g in step.values()]).norm() for step in look.gradients]
    assert max(norms) <= 0.01 * 1.001
    assert {p.dtype for gate in pruning.gates(net).values() for p in gate.parameters()} == {torch.float32}


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "eval_strategy": "epoch"}
    done = trainer(network(), tmp_path, callback(shrink_at=1))
    done.args.load_best_model_at_end = best["load_best_model_at_end"]
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        done.train()
    with pytest.raises(ValueError, match="needs one TrainerPruning among the callbacks, found 0"):
        trainer(network(), tmp_path).train()
    model = BertForSequenceClassification(BertConfig(**SIZES))
    with pytest.raises(ValueError, match="carries no noise"):
        trainer(copy.deepcopy(model), tmp_path, callback()).train()
