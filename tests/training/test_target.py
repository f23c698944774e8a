"""Runs that are steered to a cost."""

from __future__ import annotations

import dataclasses
import json
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from dither.cli._prune import multiple, target
from dither.training import Fit, Noise, Progress, Recipe, Run

RECIPE = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=5, batch_size=32, lr=3e-3),
    prune=Fit(epochs=20, batch_size=32, lr=3e-3),
    noise=Noise(gate_lr=0.05, target={"macs": 0.3}, features=("fc1",)),
)


class Stopped(Exception):
    pass


@pytest.mark.slow
def test_a_run_arrives_at_its_target_also_when_it_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = StringIO()
    report = Run(tmp_path / "whole", RECIPE, threads=1, console=Console(file=text, width=200)).prune()
    share = report.small["macs"] / report.original["macs"]
    assert 0.95 * 0.3 <= share <= 0.3
    assert "Target: at most 0.3 of the macs." in report.values["plan_note"]
    rows = [json.loads(line) for line in (tmp_path / "whole/history.jsonl").read_text().splitlines()]
    costs = [row["cost"] for row in rows if row["stretch"] == "prune"]
    assert costs[0] > 0.5
    assert costs[-1] == pytest.approx(0.3, rel=0.15)
    assert f"cost {costs[-1]:.3f}" in text.getvalue()

    left = [14]  # epochs of both stretches together that are begun before it stops

    def stop(self: Progress, step: int, *_: object) -> None:
        left[0] -= step % 44 == 1
        if not left[0]:
            raise Stopped

    monkeypatch.setattr(Progress, "step", stop)
    with pytest.raises(Stopped):
        Run(tmp_path / "halved", RECIPE, threads=1).prune()
    monkeypatch.undo()
    Run(tmp_path / "halved", RECIPE, threads=1).prune()
    whole, halved = (load_file(tmp_path / name / "small.safetensors") for name in ("whole", "halved"))
    assert whole.keys() == halved.keys()
    assert all(torch.equal(value, halved[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"target": {"flops": 0.3}}, "target is {'flops': 0.3}, expected like {'macs': 0.3}, or params or latency"),
        ({"target": {"macs": 0.3, "params": 0.3}}, "expected like"),
        ({"target": {"macs": 3}}, "expected like"),
        (
            {"target": {"macs": 0.3}, "multiple_of": "auto"},
            "multiple_of is 'auto', expected a number, because a target",
        ),
        ({"multiple_of": "often"}, "multiple_of is 'often', expected a number >= 1 or 'auto'"),
    ],
)
def test_targets_that_make_no_sense_are_named(noise: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(json.dumps(dataclasses.asdict(RECIPE) | {"noise": noise}))


def test_recipes_with_a_target_or_measured_widths_go_through_json() -> None:
    for noise in (RECIPE.noise, Noise(multiple_of="auto", kl_weights="latency")):
        recipe = dataclasses.replace(RECIPE, noise=noise)
        assert Recipe.from_json(recipe.to_json()) == recipe


def test_options_of_the_command() -> None:
    assert [multiple(text) for text in (None, "auto", "8")] == [None, "auto", 8]
    with pytest.raises(ValueError, match="--multiple-of is 'x', expected a number >= 1 or auto"):
        multiple("x")
    assert target(macs=None, params=0.5, latency=None) == {"params": 0.5}
    assert target(macs=None, params=None) is None
    with pytest.raises(ValueError, match="give one of --target-macs, --target-params"):
        target(macs=0.3, params=0.5)
