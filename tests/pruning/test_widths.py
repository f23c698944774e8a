"""Measured time: weights of the KL by it, and widths that cost none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from dither import pruning
from dither.pruning.labels import analyse
from dither.pruning.measuring._latency import seconds_by_width
from dither.pruning.planning import _widths
from tests.pruning.test_cases import assert_same, drown_half

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def attached() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 30, 3), nn.BatchNorm2d(30), nn.ReLU(), nn.Conv2d(30, 50, 3), nn.ReLU(), nn.Flatten()]
    net = pruning.attach(nn.Sequential(*layers, nn.Linear(50 * 16, 4)).eval(), X)
    drown_half(net, 0)
    return net


def test_auto_keeps_the_next_best_channels_where_they_cost_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that takes steps of 8 channels; and each space sees the others at their decided widths."""
    seen: list[dict[str, int]] = []

    def stepped(net: Any, x: Any, spaces: Any, name: str, widths: Sequence[int]) -> list[float]:
        seen.append({other: len(order) for other, (_, order) in spaces.items() if other != name})
        return [-(-width // 8) * 1.0 for width in widths]

    monkeypatch.setattr(_widths, "seconds_by_width", stepped)
    net = attached()
    plain, auto = pruning.plan(net, X), pruning.plan(net, X, multiple_of="auto")
    for before, after in zip(plain.spaces[:2], auto.spaces[:2], strict=True):
        wanted = min(-(-len(before.kept) // 8) * 8, after.total)
        assert len(before.kept) < len(after.kept) == wanted
        best = pruning.gates(net)[after.name].snr.argsort(descending=True, stable=True)[:wanted]
        assert after.kept == tuple(sorted(best.tolist()))
    assert seen == [{"3": len(plain.spaces[1].kept)}, {"0": len(auto.spaces[0].kept)}]
    assert "rounded up where that costs no time" in str(auto)
    assert pruning.Plan.from_dict(auto.to_dict()) == auto


def test_auto_on_this_machine_gives_a_network_that_is_the_masked_one() -> None:
    net = attached()
    plain, auto = pruning.plan(net, X), pruning.plan(net, X, multiple_of="auto")
    for name, (kept, total) in plain.widths.items():
        assert kept <= auto.widths[name][0] <= total
    assert_same(pruning.masked(net, auto)(X), pruning.shrink(net, auto, X)(X))


def test_hand_placed_noise_has_no_width_to_disagree() -> None:
    noise = pruning.LogNormalNoise(20)
    net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), noise, nn.Linear(20, 3))
    with torch.no_grad():
        noise.log_scale[7:] = 3.0
    x = torch.randn(16, 6)
    kept, total = pruning.plan(net, x, multiple_of="auto").widths["0"]
    assert 7 <= kept <= total
    assert pruning.latency_weights(net, x) == {"2": 1.0}


def test_the_time_of_a_space_is_that_of_its_layers_at_the_width() -> None:
    """A hundred times fewer channels; a third of the time at most, however busy the machine is."""
    net = nn.Sequential(nn.Linear(256, 4000), nn.ReLU(), nn.Linear(4000, 256), nn.ReLU(), nn.Linear(256, 4))
    x = torch.randn(128, 256)
    space = analyse(net, x).spaces[0]
    narrow, wide = seconds_by_width(net, x, {"0": (space, torch.arange(4000))}, "0", [40, 4000])
    assert narrow < wide / 3


def test_weights_by_time_are_large_where_a_channel_takes_long() -> None:
    """A channel of the convolution is read at 32 x 32 places, a hidden unit at one."""
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1)]
    x = torch.randn(8, 3, 32, 32)
    net = pruning.attach(nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 400), nn.ReLU(), nn.Linear(400, 4)), x)
    weights = pruning.latency_weights(net, x)
    assert list(weights) == list(pruning.gates(net))
    assert min(weights.values()) == 1.0
    assert weights["0"] > 5 * weights["5"]


@pytest.mark.parametrize("wrong", [0, "often"])
def test_other_roundings_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match='give multiple_of >= 1 or "auto"'):
        pruning.plan(attached(), X, multiple_of=wrong)
    with pytest.raises(ValueError, match="carries no noise"):
        pruning.latency_weights(nn.Linear(3, 2), torch.zeros(1, 3))
