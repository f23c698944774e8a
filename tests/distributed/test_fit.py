"""The law of batch statistics: two and three processes with unequal parts against one that sees all, and numpy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dither import batchnorm
from tests.distributed import check_fit
from tests.distributed.check_fit import BATCHES, SIZE, SPLITS

Ranks = list[dict[str, Any]]


def alone(loader: list[Tensor]) -> dict[str, Any]:
    """What one process finds."""
    net = check_fit.make_net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return check_fit.told(net, batchnorm.fit(net, loader, records=9))


def assert_law(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert (found["count"], found["size"]) == (expected["count"], expected["size"])
    for name in expected.keys() - {"count", "size", "left_out"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12, msg=name)


def assert_same_in_all(found: list[dict[str, Any]]) -> None:
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in other.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(found[0][name])), name


def chan(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of rows in several parts, united by the formulas of Chan et al. 1979."""
    count, mean, m2 = 0, np.zeros(parts[0].shape[1]), np.zeros(parts[0].shape[1])
    for part in (part for part in parts if len(part)):
        n, delta = len(part), part.mean(0) - mean
        m2 = m2 + ((part - part.mean(0)) ** 2).sum(0) + delta**2 * count * n / (count + n)
        mean, count = mean + delta * n / (count + n), count + n
    return mean, m2 / (count - 1)


def assert_first_layer(found: dict[str, Any], parts: list[list[Tensor]]) -> None:
    """The law of the first layer, which sees the inputs themselves, without the library."""
    means = [np.array([b.numpy().mean(0) for b in part]).reshape(-1, 4) for part in parts]
    log_vars = [np.log([b.numpy().var(0) for b in part]).reshape(-1, 4) for part in parts]
    for statistic, values in (("mean", means), ("log_var", log_vars)):
        mean, variance = chan(values)
        np.testing.assert_allclose(found[f"0.loc_{statistic}"][0], mean, rtol=1e-9)
        np.testing.assert_allclose(found[f"0.scale_{statistic}"][0], variance**0.5, rtol=1e-7)


@pytest.mark.parametrize("case", SPLITS)
def test_unequal_parts_give_the_law_of_the_whole(case: str, ranks: Ranks) -> None:
    found, world = [rank[f"fit, {case}"] for rank in ranks], len(ranks)
    parts = [check_fit.part_of(SPLITS[case], rank, world) for rank in range(world)]
    assert sum(map(len, parts)) == BATCHES
    assert_same_in_all(found)
    in_turn = [part[i] for i in range(BATCHES) for part in parts if i < len(part)]
    assert_law(found[0], alone(in_turn))
    assert_first_layer(found[0], parts)


def test_the_batch_of_syncbatchnorm_is_that_of_all(ranks: Ranks) -> None:
    found = [rank["fit, sync"] for rank in ranks]
    assert_same_in_all(found)
    assert (found[0]["count"], found[0]["size"]) == (BATCHES, SIZE)
    every = check_fit.batches(BATCHES + 1)[:BATCHES]
    assert_law(found[0], alone(every))
    assert_first_layer(found[0], [every])


def test_processes_that_share_a_batch_count_once(ranks: Ranks) -> None:
    found = [rank["fit, sync groups"] for rank in ranks]
    assert_same_in_all(found)
    every = check_fit.batches(BATCHES)
    parts = [every] if len(ranks) == 2 else [every, check_fit.batches(BATCHES + 2)[BATCHES:]]
    assert_first_layer(found[0], parts)
    assert found[0]["count"] == sum(map(len, parts))


@pytest.mark.parametrize("check", ["fit, broken", "fit, sync broken"])
def test_an_error_in_one_process_ends_all(check: str, ranks: Ranks) -> None:
    failure = "ValueError: batch 4 of the loader holds NaN or infinity"
    for number, rank in enumerate(ranks):
        assert rank[check].startswith(failure if number == 1 else f"RuntimeError: process 1 failed: {failure}")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("fit, other sizes", "ValueError: processes see batches of 6 and 8 examples"),
        ("fit, empty", "ValueError: the loader is empty"),
        ("fit, sync mixed", "ValueError: the converted layers disagree about what a batch is: some are SyncBatchNorm"),
    ],
)
def test_what_cannot_be_fitted_is_an_error_in_all(check: str, message: str, ranks: Ranks) -> None:
    assert all(rank[check].startswith(message) for rank in ranks)


def test_tune_chooses_by_all_examples(ranks: Ranks) -> None:
    found = [rank["tune"] for rank in ranks]
    assert all(each == found[0] for each in found)
    expected = check_fit.tune(0, 1)
    assert found[0].keys() == expected.keys()
    assert found[0]["num_examples"] == 90
    for name, value in expected.items():
        assert found[0][name] == pytest.approx(value, rel=1e-9), name
