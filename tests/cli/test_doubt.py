"""A network with BatchNorm on the command line: train, doubt, prune, doubt again, evaluate, inspect."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dither.cli import app
from dither.training import Fit, Noise, Recipe

Cli = Callable[..., Result]
DOCS = Path(__file__).parents[2] / "docs"
QUICK = Recipe(
    model="digits_bn",
    data="digits",
    base=Fit(epochs=2, batch_size=16, lr=3e-3),
    prune=Fit(epochs=1, batch_size=32, lr=3e-3),
    noise=Noise(gate_lr=0.3, kl_weight=0.05),
)


def test_the_whole_path_with_batchnorm(cli: Cli) -> None:
    trained = cli("train", "--recipe", "quick.json", "--out", "run", "--classes", "0-3,7", "--validation", 60)
    assert trained.exit_code == 0, trained.output
    assert "Next: dither prune run, or dither doubt run --ood rest\n" in trained.stdout
    assert Recipe.read("run/recipe.json").classes == (0, 1, 2, 3, 7)
    doubted = cli("doubt", "run", "--ood", "rest", "--num-samples", 4, "--num-batches", 20, "--layers", "bn2, bn3")
    assert doubted.exit_code == 0, doubted.output
    for text in (
        *("fitting the law of the statistics on 20 training batches", "single network", "stochastic BatchNorm"),
        *("the same after temperature", "unknown: AUROC by entropy", "temperature from 60 held-out ones"),
        *("BatchNorm in bn2, bn3, 4 samples, law Factorized()", "Files in run/doubt: report.md, report.json"),
    ):
        assert text in doubted.stdout
    pruned = cli("prune", "run")
    assert pruned.exit_code == 0, pruned.output
    small = cli("doubt", "run", "--small", "--law", "empirical", "--num-samples", 2, "--num-batches", 20, "--tune")
    assert small.exit_code == 0, small.output
    assert "law Empirical(joint=True), noise of batches of" in small.stdout
    evaluated = cli("evaluate", "run")
    assert evaluated.exit_code == 0, evaluated.output
    record = json.loads(Path("run/doubt/report.json").read_text())["records"][0]
    assert f"{record['error_pct']:.2f} %" in evaluated.stdout
    assert f"{record['nll']:.4f}" in evaluated.stdout
    inspected = cli("inspect", "run/small.safetensors")
    assert inspected.exit_code == 0, inspected.output
    for text in ("DigitsBatchNorm, shrunk", "bn1.running_mean", "classes: [0, 1, 2, 3, 7]"):
        assert text in inspected.stdout


@pytest.mark.parametrize("law", ["factorized", "empirical", "independent", "correlated", "cached"])
def test_every_law_has_a_name(cli: Cli, law: str) -> None:
    assert cli("train", "--recipe", "quick.json", "--out", "run", "--epochs", 0).exit_code == 0
    done = cli("doubt", "run", "--law", law, "--num-samples", 2, "--num-batches", 4)
    assert done.exit_code == 0, done.output


def test_images_may_be_at_another_place_now(cli: Cli) -> None:
    assert cli("train", "--recipe", "quick.json", "--out", "run", "--epochs", 0).exit_code == 0
    recipe = json.loads(Path("run/recipe.json").read_text())
    Path("run/recipe.json").write_text(json.dumps(recipe | {"data": "./moved"}))
    assert "no folder './moved'" in cli("doubt", "run").stderr
    done = cli("doubt", "run", "--data", "digits", "--num-samples", 2, "--num-batches", 4)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ood", "rest"), 'no class is left out, so there is no "rest"'),
        (("--ood", "./nowhere"), "no folder './nowhere'"),
        (("--law", "uniform"), "--law is 'uniform', expected one of factorized, empirical"),
        (("--layers", "bn7"), "there is no module 'bn7'; the BatchNorm layers are bn1, bn2, bn3"),
        (("--tune",), "tune needs held-out images"),
        (("--small",), "has no small.safetensors yet"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    assert cli("train", "--recipe", "quick.json", "--out", "run", "--epochs", 0).exit_code == 0
    done = cli("doubt", "run", *arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_network_without_batchnorm_is_told_so(cli: Cli) -> None:
    assert cli("train", "--model", "digits", "--out", "run", "--epochs", 0).exit_code == 0
    assert "DigitsNet has no BatchNorm layer" in cli("doubt", "run").stderr


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "batchnorm.md").read_text(), flags=re.M | re.S)
    command = [sys.executable, "-W", "error", "-c", example]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "noise of μ" in ran.stdout


@pytest.mark.parametrize("page", ["batchnorm.md", "cli.md"])
def test_commands_of_the_documentation_exist(page: str) -> None:
    """Every option that a page names is one of the command's own."""
    commands = re.findall(r"dither (\w+)((?: [^\s`|,]+)*)", (DOCS / page).read_text())
    named = [(command, option) for command, rest in commands for option in re.findall(r"--[\w-]+", rest)]
    assert ("doubt", "--ood") in named
    runner = CliRunner()
    helps = {c: runner.invoke(app, [c, "--help"], env={"COLUMNS": "300"}).output for c, _ in named}
    assert [(c, option) for c, option in named if option not in helps[c]] == []
