"""The commands as a user types them."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import nn
from typer.testing import Result

import dither
from dither import pruning
from dither.cli._common import clear_errors
from dither.training import Fit, Noise, Recipe, make_model

Cli = Callable[..., Result]
QUICK = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=2, batch_size=64, lr=3e-3),
    prune=Fit(epochs=3, batch_size=64, lr=3e-3),
    noise=Noise(gate_lr=0.3, kl_weight=0.05, kl_weights="macs"),
)


def test_help_is_immediate_and_names_every_command() -> None:
    """Processor time, so that a busy machine does not fail it; the least of three, so that a cold disk does not."""
    seconds: list[float] = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", "from dither.cli import main; main()", "--help"]
        done = subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    for name in (b"demo", b"train", b"prune", b"doubt", b"report", b"evaluate", b"inspect"):
        assert name in done.stdout
    assert min(seconds) < 0.5


def test_help_does_not_import_torch() -> None:
    code = "import sys, dither.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


def test_train_prune_evaluate_inspect(cli: Cli, tmp_path: Path) -> None:
    trained = cli("train", "--recipe", "quick.json", "--out", "run", "--seed", 3, "--threads", 1)
    assert trained.exit_code == 0, trained.output
    assert "digits on digits, 360 test images: error" in trained.stdout
    assert "Next: dither prune run\n" in trained.stdout
    pruned = cli(
        "prune", "run", "--features", "fc1", "--multiple-of", 4, "--finetune-epochs", 1, "--kl-weights", "none"
    )
    assert pruned.exit_code == 0, pruned.output
    for text in ("kept/total", "multiply-accumulates", "width of fc1[in]", "x faster", "Removal changed outputs by"):
        assert text in pruned.stdout
    recipe = Recipe.read("run/recipe.json")
    assert recipe.seed == 3
    assert recipe.noise == Noise(gate_lr=0.3, kl_weight=0.05, kl_weights=None, features=("fc1",), multiple_of=4)
    records = json.loads(Path("run/report.json").read_text())["records"]
    evaluated = cli("evaluate", "run")
    assert evaluated.exit_code == 0, evaluated.output
    for record in (records[0], records[-1]):
        assert f"{record['error_pct']:.2f} %" in evaluated.stdout
    alone = cli("evaluate", "run/small.safetensors", "--model", "digits", "--data", "digits", "--split", "train")
    assert "1,437" in alone.stdout
    inspected = cli("inspect", "run/small.safetensors")
    assert inspected.exit_code == 0, inspected.output
    shown = (
        "DigitsNet, shrunk, dither format 2",
        "checksum of the tensors",
        "conv1.weight",
        "model: digits",
        "kept/total",
        "original / small",
    )
    for text in (*shown, "ms, batch 64", "times: cpu, 1 thread, torch"):
        assert text in inspected.stdout


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", ".onnx"])
def test_inspect_shows_every_step_and_what_it_cost(cli: Cli, suffix: str, tmp_path: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    x = torch.randn(2, 5)
    small: nn.Module = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    for dropped in (4, 3):
        net = pruning.attach(small, x)
        with torch.no_grad():
            for gate in pruning.gates(net).values():
                gate.loc[:dropped], gate.log_scale[:dropped] = -8.0, 3.0
        small = pruning.shrink(net, pruning.plan(net, x), x)
    options = {"metadata": {"why": "[bold]"}, "cost": dither.cost(small, x, batch_sizes=(1,), repeats=2)}
    if suffix == ".safetensors":
        dither.save(small, tmp_path / "net.safetensors", **options)
    else:
        dither.export(small, tmp_path / f"net{suffix}", x, **options)
    shown = cli("inspect", tmp_path / f"net{suffix}")
    assert shown.exit_code == 0, shown.output
    steps = [text.split()[1] for text in shown.stdout.splitlines() if text.startswith("0 ")]
    assert steps == ["8/12", "5/8"]
    for text in (f"net{suffix}: Sequential, shrunk", "why: [bold]", "MACs per example", "ms, batch 1 "):
        assert text in shown.stdout


def test_inspect_without_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dither._onnx.find_spec", lambda name: None)
    (tmp_path / "net.onnx").write_bytes(b"")
    done = cli("inspect", tmp_path / "net.onnx")
    assert done.exit_code == 2
    assert "error: reading " in done.stderr
    assert "pip install 'dither[export]'" in done.stderr


def test_the_demo_tells_a_story_and_is_not_repeated(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dither.training.default_recipe", lambda model: dataclasses.replace(QUICK, model=model))
    first = cli("demo", "--out", "demo", "--threads", 1)
    assert first.exit_code == 0, first.output
    pruned = ("1. Train", "signal-to-noise", "original", "shrunk", "Files in demo: small.safetensors")
    doubting = ("4. Train", "5 to 9 found (AUROC)", "single network", "170 digits from 0 to 4, then 190 from 5 to 9")
    for text in (*pruned, *doubting):
        assert text in first.stdout
    second = cli("demo", "--out", "demo")
    assert "demo is complete" in second.stdout
    assert "4. Train" not in second.stdout
    for start, end in (("channels ", "Files in"), ("170 digits", "Report and")):
        first_part, second_part = (text.partition(start)[2].partition(end)[0] for text in (first.stdout, second.stdout))
        assert first_part == second_part != ""


def test_the_users_own_network_of_the_current_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))\n"
    )
    done = cli(
        "train", "--model", "mynets:small", "--data", "digits", "--out", "own", "--epochs", 1, "--batch-size", 64
    )
    assert done.exit_code == 0, done.output
    assert cli("evaluate", "own").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--out", "a", "--data", "./nowhere"), "no folder './nowhere'"),
        (("train", "--out", "a", "--data", "."), "cannot read the folder '.'"),
        (("train", "--out", "a", "--model", "lenet6"), "unknown model 'lenet6', known are"),
        (("train", "--out", "a", "--model", "nowhere:net"), "cannot import the model 'nowhere:net'"),
        (("train", "--out", "a", "--recipe", "nowhere.json"), "nowhere.json"),
        (("train", "--out", "a", "--lr", "-1"), "lr is -1.0, expected a number > 0"),
        (("train", "--out", "a", "--batch-size", "5000"), "one epoch needs 5000"),
        (("train", "--out", "a", "--classes", "low"), "--classes 'low' is no list of classes"),
        (("train", "--out", "a", "--classes", "4-"), "--classes '4-' is no list of classes"),
        (("train", "--out", "a", "--classes", "4"), "classes is (4,), expected None or at least two"),
        (("train", "--out", "a", "--classes", "8-11"), "digits (train) has the classes 0 to 9, there is no class 10"),
        (("prune", "nowhere"), "nowhere is no run folder"),
        (("doubt", "nowhere"), "nowhere is no run folder"),
        (("evaluate", "nowhere.safetensors"), "there is no file nowhere.safetensors"),
        (("evaluate", "."), "has neither base.safetensors nor small.safetensors"),
        (("evaluate", "foreign.safetensors"), "was not written by dither.save"),
        (("evaluate", "nameless.safetensors"), "does not say what model it belongs to; give --model"),
        (
            ("evaluate", "nameless.safetensors", "--model", "lenet5", "--data", "digits"),
            "holds a DigitsNet, not a LeNet5",
        ),
        (("inspect", "quick.json"), "is no complete safetensors file"),
    ],
)
def test_what_the_user_got_wrong_is_said_in_one_line(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    save_file({"a": torch.zeros(1)}, "foreign.safetensors")
    dither.save(make_model("digits"), "nameless.safetensors")
    done = cli(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_recipe_for_a_trained_folder_is_refused(cli: Cli) -> None:
    assert cli("train", "--recipe", "quick.json", "--out", "run", "--epochs", 1).exit_code == 0
    done = cli("train", "--recipe", "quick.json", "--out", "run", "--epochs", 2)
    assert done.exit_code == 2
    assert "was made with base = Fit(epochs=1" in done.stderr


def test_sigterm_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        with clear_errors():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from the last checkpoint\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_nan_loss_ends_with_exit_code_one(cli: Cli) -> None:
    done = cli("train", "--recipe", "quick.json", "--out", "run", "--lr", "1e30")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the loss is not finite at step 1 of stretch 'base' (epoch 1): ")


def test_a_traceback_can_be_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITHER_TRACEBACK", "1")
    assert isinstance(cli("train", "--out", "a", "--model", "lenet6").exception, ValueError)
