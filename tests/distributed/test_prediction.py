"""Predictions of two and three processes, gathered, against those of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.distributed import check_prediction
from tests.distributed.check_prediction import data, make_net, predict, told, without_dropout

Ranks = list[dict[str, Any]]


@pytest.mark.parametrize("check", ["sampler", "accelerated", "uneven"])
def test_every_example_once_and_in_order(check: str, ranks: Ranks) -> None:
    net = make_net() if check == "accelerated" else without_dropout()
    expected = told(predict(net, list(data().split(5))))
    for rank in ranks:
        torch.testing.assert_close(rank[f"predict, {check}"], expected, rtol=1e-10, atol=1e-12)


def test_samples_are_gathered_too(ranks: Ranks) -> None:
    expected = predict(without_dropout(), data()).probs
    for rank in ranks:
        torch.testing.assert_close(rank["predict, with samples"], expected, rtol=1e-10, atol=1e-12)


def test_one_process_gathers_its_own(ranks: Ranks) -> None:
    torch.testing.assert_close(check_prediction.sampler(0, 1), ranks[0]["predict, sampler"], rtol=1e-10, atol=1e-12)


def test_processes_that_drew_different_networks_are_told_so(ranks: Ranks) -> None:
    message = "ValueError: the processes drew different networks"
    assert all(rank["predict, other networks"].startswith(message) for rank in ranks)


def test_a_position_for_each_example(ranks: Ranks) -> None:
    message = "ValueError: 22 positions were given for 23 examples"
    for number, rank in enumerate(ranks):
        assert rank["predict, other count"].startswith(
            message if number == 1 else f"RuntimeError: process 1 failed: {message}"
        )


def test_nothing_is_an_error(ranks: Ranks) -> None:
    assert all(rank["predict, nothing"].startswith("ValueError: no process predicted anything") for rank in ranks)
