"""One run for all tests of the page, with everything in it, and one browser."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from dither.report import make_page
from dither.training import Fit, Noise, Recipe, Run, doubt
from tests.report.browser import Browser, find_browser

RECIPE = Recipe(
    model="digits_bn",
    data="digits",
    base=Fit(epochs=2, batch_size=32, lr=3e-3),
    prune=Fit(epochs=3, batch_size=64, lr=3e-3),
    noise=Noise(gate_lr=0.3, kl_weights="macs", kl_weight=0.05, features=("fc1",), batchnorm="reestimate"),
    finetune=Fit(epochs=1, batch_size=64, lr=3e-3),
    classes=(0, 1, 2, 3, 4),
    validation=100,
)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained, pruned, fine-tuned; the original network doubts. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("runs") / "digits run"
    run = Run(folder, RECIPE, threads=1)
    run.prune()
    doubt(run, "rest", num_samples=4, num_batches=20)
    return folder


@pytest.fixture(scope="session")
def page(run_folder: Path) -> str:
    return make_page(run_folder)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for no epoch, without noise. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    Run(folder, dataclasses.replace(RECIPE, base=Fit(epochs=0)), threads=1).base()
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no chromium on the path; DITHER_CHROMIUM may name one")
    with Browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started
