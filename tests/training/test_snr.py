"""The history says how the signal-to-noise ratios are spread."""

import json
from pathlib import Path

import torch
from torch import nn

from dither import pruning
from dither.training import Fit, Noise, Recipe, Run
from dither.training._snr import snr_histograms


def test_bins_are_eighths_of_a_decade_and_the_outer_ones_hold_the_rest() -> None:
    net = pruning.attach(nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 2)), torch.zeros(1, 3))
    (gate,) = pruning.gates(net).values()
    gate.log_scale.data.copy_(torch.linspace(-9, 3, 40))
    expected: dict[str, int] = {}
    for ratio in gate.snr.tolist():
        k = max((k for k in range(-8, 24) if 10 ** (k / 8) <= ratio), default=-8)
        expected[str(k)] = expected.get(str(k), 0) + 1
    assert snr_histograms(net) == {"0": expected}
    assert expected["23"] > 1


def test_every_epoch_under_noise_has_a_histogram_that_agrees_with_what_is_kept(tmp_path: Path) -> None:
    fit = Fit(epochs=2, batch_size=64, lr=3e-3)
    recipe = Recipe("digits", "digits", base=Fit(epochs=0), prune=fit, noise=Noise(gate_lr=0.3, kl_weight=0.1))
    net = Run(tmp_path / "run", recipe, threads=1).gated()
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["snr"] == snr_histograms(net)
    for row in rows:
        kept = {name: sum(count for k, count in bins.items() if int(k) >= 0) for name, bins in row["snr"].items()}
        assert kept == row["kept"]
    assert rows[0]["snr"] != rows[1]["snr"]
