"""Training under noise, plan and shrink: two and three processes against one that sees every batch whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import check_pruning

Ranks = list[dict[str, Any]]


def assert_same_bits(found: list[Any]) -> None:
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_weights_and_gates_are_those_of_one_process(ranks: Ranks) -> None:
    # Shared draws. The gradients are means over rows in another order, so only rounding differs; Adam amplifies that.
    found = [rank["train"] for rank in ranks]
    assert_same_bits(found)
    torch.testing.assert_close(found[0], check_pruning.train(0, 1), rtol=1e-9, atol=1e-12)


def test_the_noise_decides_what_is_learned(ranks: Ranks) -> None:
    other = check_pruning.state(check_pruning.trained(0, 1, seed=1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(ranks[0]["train"], other, rtol=1e-3, atol=1e-4)


def test_each_process_draws_its_own_noise_and_all_learn_the_same(ranks: Ranks) -> None:
    found = [rank["own noise"] for rank in ranks]
    assert_same_bits([each["state"] for each in found])
    assert all(not torch.equal(each["draw"], found[0]["draw"]) for each in found[1:])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found[0]["state"], ranks[0]["train"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("check", ["plan", "target plan"])
def test_the_plan_is_that_of_one_process_in_each(check: str, ranks: Ranks) -> None:
    found = {rank[check] for rank in ranks}
    assert len(found) == 1
    alone = check_pruning.CHECKS[check](0, 1)
    rounded = {_without_quantiles(text) for text in (*found, alone)}
    assert len(rounded) == 1


def _without_quantiles(text: str) -> str:
    plan: dict[str, Any] = eval(text, {"inf": float("inf")})
    for choice in (*plan["spaces"], *plan["columns"]):
        choice["snr"] = choice["snr"] and [round(value, 9) for value in choice["snr"]]
    return repr(plan)


def test_what_is_measured_is_measured_once(ranks: Ranks) -> None:
    assert all(rank["control"] == ranks[0]["control"] for rank in ranks)
    assert ranks[0]["control"]["full"] > 0


def test_shrink_and_go_on_is_the_same_network_in_each(ranks: Ranks) -> None:
    found = [rank["shrink and go on"] for rank in ranks]
    alone = check_pruning.shrink_and_go_on(0, 1)
    assert {each["widths"] for each in (*found, alone)} == {"{'conv': (5, 8), 'mid': (7, 10), 'out': (3, 3)}"}
    for part in ("gated", "small", "out"):
        assert_same_bits([each[part] for each in found])
        torch.testing.assert_close(found[0][part], alone[part], rtol=1e-9, atol=1e-12)


def test_a_process_with_other_values_is_named_with_the_parameter(ranks: Ranks) -> None:
    expected = (
        f"ValueError: process {len(ranks) - 1} and process 0 hold different values in "
        '"out.parametrizations.weight.0.gates.mid.loc"'
    )
    assert all(rank["differs"].startswith(expected) for rank in ranks)


def test_an_error_of_the_first_process_ends_all(ranks: Ranks) -> None:
    first, *others = (rank["first fails"] for rank in ranks)
    assert first.startswith("ValueError: ")
    assert all(other == f"RuntimeError: process 0 failed: {first}" for other in others)


def test_one_process_may_decide_alone(ranks: Ranks) -> None:
    assert "'conv': (5, 8)" in ranks[0]["alone"]
    assert all(rank["alone"] == "" for rank in ranks[1:])
