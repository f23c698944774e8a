"""FSDP2 (fully_shard) on two and three processes against one process that holds everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dither import pruning
from tests.distributed import check_pruning
from tests.distributed.check_pruning import EXAMPLE, X

Ranks = list[dict[str, Any]]
TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("check", ["train", "root only"])
def test_weights_and_gates_are_those_of_one_process(check: str, ranks: Ranks) -> None:
    expected = check_pruning.trained(0, 1).state_dict()
    for rank in ranks:
        torch.testing.assert_close(rank[f"sharded, {check}"], dict(expected), **TOLERANCE)


def test_gates_are_sharded_too(ranks: Ranks) -> None:
    assert all(rank["sharded, shards"]["all"] == 10 for rank in ranks)
    own = [rank["sharded, shards"]["own"] for rank in ranks]
    assert own == {2: [5, 5], 3: [4, 4, 2]}[len(ranks)]


def test_the_mean_network_is_that_of_one_process(ranks: Ranks) -> None:
    expected = check_pruning.trained(0, 1).eval()(X[0]).detach()
    for rank in ranks:
        torch.testing.assert_close(rank["sharded, evaluate"], expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("attach", r"is sharded over processes; call pruning.attach first"),
        ("plan", r"is sharded over processes \(fully_shard\)"),
        ("shrink", r"is sharded over processes \(fully_shard\)"),
    ],
)
def test_what_needs_the_whole_network_is_refused_with_the_way(check: str, message: str, ranks: Ranks) -> None:
    for rank in ranks:
        with pytest.raises(ValueError, match=message):
            raise ValueError(rank[f"sharded, {check}"])


def test_the_way_gives_the_plan_of_one_process(ranks: Ranks) -> None:
    net = check_pruning.trained(0, 1)
    plan = pruning.plan(net, EXAMPLE)
    expected = pruning.shrink(net, plan, EXAMPLE)(X[0]).detach()
    for rank in ranks:
        assert rank["sharded, plan whole"]["widths"] == repr(plan.widths)
        torch.testing.assert_close(rank["sharded, plan whole"]["out"], expected, **TOLERANCE)
