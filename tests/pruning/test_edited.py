"""Plans edited by hand: what is possible is done, what is not is refused by name, in masked and in shrink."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dither import pruning

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


def attached() -> tuple[nn.Module, pruning.Plan]:
    """Hidden layers of 8 and 6, the input columns of the first, and one layer without noise."""
    model = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    net = pruning.attach(model, X, features=["0"], skip=["4"])
    with torch.no_grad():
        pruning.gates(net)["0"].log_scale[:3].fill_(3.0)
    return net, pruning.plan(net, X)


def by_hand() -> tuple[nn.Module, pruning.Plan]:
    """Noise on 8 channels, none on the 6 of the next layer."""
    net = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), pruning.LogNormalNoise(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    with torch.no_grad():
        net[2].log_scale[:3].fill_(3.0)
    return net, pruning.plan(net, X)


def edited(plan: pruning.Plan, name: str, **changes: Any) -> pruning.Plan:
    def change(choices: tuple[pruning.Choice, ...]) -> tuple[pruning.Choice, ...]:
        return tuple(replace(c, **changes) if c.name == name else c for c in choices)

    return replace(plan, spaces=change(plan.spaces), columns=change(plan.columns))


IMPOSSIBLE = [
    ("0", {"kept": ()}, r'keeps nothing of "0"; a layer needs at least one channel'),
    ("0", {"kept": (2, 8)}, r'keeps channel 8 of "0", which has channels 0 to 7'),
    ("0", {"kept": (-1, 2)}, r'keeps channel -1 of "0", which has channels 0 to 7'),
    ("0", {"kept": (1.0, 2)}, r'keeps channel 1\.0 of "0"'),
    ("0", {"kept": (1, 1, 2)}, r'keeps channel 1 of "0" after 1; write each channel once, ascending'),
    ("0", {"kept": (2, 1)}, r'keeps channel 1 of "0" after 2'),
    ("0", {"total": 9}, r'"0" has 9 channels, but it has 8'),
    ("0[in]", {"kept": ()}, r'keeps nothing of "0\[in\]"'),
    ("0[in]", {"kept": (0, 5)}, r'keeps channel 5 of "0\[in\]"'),
    ("0[in]", {"total": 4}, r'"0\[in\]" has 4 channels, but it has 5'),
    ("4", {"kept": (0, 1)}, r'removes channels of "4", which carries no noise \(no noise was put on them \(skip\)\)'),
    ("6", {"kept": (0, 1), "reason": None}, r'removes channels of "6", which carries no noise; keep all 3'),
]


@pytest.mark.parametrize(("name", "changes", "message"), IMPOSSIBLE, ids=str)
def test_impossible_choices(name: str, changes: dict[str, Any], message: str) -> None:
    net, plan = attached()
    with pytest.raises(ValueError, match=message):
        pruning.masked(net, edited(plan, name, **changes))
    with pytest.raises(ValueError, match=message):
        pruning.shrink(net, edited(plan, name, **changes), X)


def test_a_layer_that_is_decided_twice() -> None:
    net, plan = attached()
    with pytest.raises(ValueError, match='decides on "2" twice'):
        pruning.masked(net, replace(plan, spaces=(*plan.spaces, plan.spaces[1])))


def test_a_layer_that_is_left_out() -> None:
    net, plan = attached()
    with pytest.raises(ValueError, match="made for another network"):
        pruning.masked(net, replace(plan, spaces=plan.spaces[1:]))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"2": (3, 8)}, r'keeps channel 8 of "2", which has channels 0 to 7'),
        ({"2": (4, 3)}, r'keeps channel 3 of "2" after 4'),
    ],
    ids=str,
)
def test_impossible_sites(sites: dict[str, tuple[int, ...]], message: str) -> None:
    net, plan = by_hand()
    with pytest.raises(ValueError, match=message):
        pruning.masked(net, replace(plan, sites=sites))


def test_noise_by_hand_must_be_zero_on_what_goes() -> None:
    net, plan = by_hand()
    with pytest.raises(
        ValueError, match=r'removes channel 3 of "0", but lets feature 3 of the noise "2" pass.*take \[3\]'
    ):
        pruning.shrink(net, edited(plan, "0", kept=(4, 5, 6, 7)), X)


@pytest.mark.parametrize(
    ("name", "message"),
    [("3", 'channels of "3", which carries no noise'), ("5", "not possible: the network returns them")],
)
def test_channels_without_noise_beside_noise_by_hand(name: str, message: str) -> None:
    net, plan = by_hand()
    with pytest.raises(ValueError, match=message):
        pruning.shrink(net, edited(plan, name, kept=(0, 1), reason=None), X)


@pytest.mark.parametrize("kept", [(0,), (1, 2, 7), tuple(range(8))], ids=str)
def test_what_is_possible_is_done(kept: tuple[int, ...]) -> None:
    net, plan = attached()
    plan = edited(edited(plan, "0", kept=kept), "0[in]", kept=(1, 4))
    small = pruning.shrink(net, plan, X)
    assert small[0].out_features == len(kept)
    torch.testing.assert_close(small(X), pruning.masked(net, plan)(X))


def test_noise_by_hand_can_be_edited_with_its_channels() -> None:
    net, plan = by_hand()
    plan = replace(edited(plan, "0", kept=(4, 6)), sites={"2": (4, 6)})
    small = pruning.shrink(net, plan, X)
    assert small[0].out_features == 2
    torch.testing.assert_close(small(X), pruning.masked(net, plan)(X))
