"""Draws that are kept: reproducible, independent of the batch, and with the moments that were asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dither
from dither import batchnorm
from dither.batchnorm import Bank, Correlated, Empirical, Factorized, Law
from dither.batchnorm._source import find_source
from tests.batchnorm.test_laws import data, fitted_net, small_net


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fitted_net(batches=100)


@pytest.mark.parametrize("law", [Factorized(), Correlated(), Empirical(), Empirical(joint=False)], ids=str)
def test_predictions_repeat_and_do_not_depend_on_the_batch(net: nn.Module, law: Law) -> None:
    frozen = batchnorm.bank(batchnorm.set_law(copy.deepcopy(net), law), 6)
    assert isinstance(find_source(frozen).law, Bank)
    assert find_source(net).law == Factorized()
    x = data(7, 3)
    all_at_once = dither.predict(frozen, x, 6)
    assert torch.equal(
        all_at_once.probs, dither.predict(frozen, x, 6, generator=torch.Generator().manual_seed(9)).probs
    )
    one_by_one = torch.cat([dither.predict(frozen, one[None], 6).probs for one in x], 1)
    torch.testing.assert_close(one_by_one, all_at_once.probs, rtol=1e-10, atol=1e-12)
    fewer = dither.predict(frozen, x, 2)
    torch.testing.assert_close(fewer.probs, all_at_once.probs[:2], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("antithetic", "matched"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("num_samples", [8, 7])
def test_moments_of_the_draws(net: nn.Module, antithetic: bool, matched: bool, num_samples: int) -> None:
    frozen = batchnorm.bank(net, num_samples, antithetic=antithetic, moment_matched=matched)
    fitted, stored = find_source(net).fitted(), find_source(frozen).fitted()
    mean, log_var = stored.records_moved()
    pairs = (mean, fitted.loc_mean, fitted.scale_mean), (log_var, fitted.loc_log_var, fitted.scale_log_var)
    for samples, loc, scale in pairs:
        z = (samples - loc) / scale
        if matched or num_samples % 2 == 0:
            torch.testing.assert_close(z.mean(0), torch.zeros_like(loc), rtol=0, atol=1e-9)
        if matched:
            torch.testing.assert_close(z.square().mean(0), torch.ones_like(loc), rtol=1e-9, atol=0)
        if antithetic and num_samples % 2 == 0:
            torch.testing.assert_close(z[0::2], -z[1::2], rtol=0, atol=1e-9)


def test_the_noise_of_a_rescaled_network_is_kept(net: nn.Module) -> None:
    small = batchnorm.rescale(copy.deepcopy(net), batch_size=4)
    frozen = batchnorm.bank(small, 8)
    a, b = find_source(small).fitted(), find_source(frozen).fitted()
    assert b.ratio == 1
    torch.testing.assert_close(a.scale_mean, b.records.mean.square().mean(0).sub(a.loc_mean.square()).sqrt())


def test_state_dict_keeps_the_draws(net: nn.Module) -> None:
    frozen = batchnorm.bank(net, 4)
    loaded = batchnorm.set_law(small_net(), Bank())
    loaded.load_state_dict(frozen.state_dict())
    kept, expected = loaded.state_dict(), frozen.state_dict()
    assert kept.keys() == expected.keys()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    # Equal numbers at other addresses: float64 sums may be added up in another order, so the last bit is not asked for.
    x = data(3, 3)
    probs = dither.predict(frozen, x, 4).probs
    torch.testing.assert_close(dither.predict(loaded, x, 4).probs, probs, rtol=1e-13, atol=1e-13)


def test_careful_draws_have_a_smaller_error(net: nn.Module) -> None:
    """Error of the mean over 30 banks of 8 samples, against 4,000 plain samples: at most 0.7 of that of plain draws."""
    x = data(40, 5)
    truth = dither.predict(net, x, 4000, generator=torch.Generator().manual_seed(1)).mean
    error = {}
    for careful in (True, False):
        generator = torch.Generator().manual_seed(2)
        banks = (
            batchnorm.bank(net, 8, antithetic=careful, moment_matched=careful, generator=generator) for _ in range(30)
        )
        error[careful] = sum(float((dither.predict(b, x, 8).mean - truth).square().mean()) for b in banks)
    assert error[True] < 0.5 * error[False]


def test_bad_input(net: nn.Module) -> None:
    with pytest.raises(ValueError, match="num_samples is 0"):
        batchnorm.bank(net, 0)
    with pytest.raises(ValueError, match="a bank already"):
        batchnorm.bank(batchnorm.bank(net, 2), 2)
    with pytest.raises(ValueError, match="looks at the example"):
        batchnorm.bank(batchnorm.set_law(copy.deepcopy(net), batchnorm.Cached()), 2)
    with pytest.raises(RuntimeError, match="fit"):
        batchnorm.bank(small_net(), 2)
    with pytest.raises(ValueError, match="convert"):
        batchnorm.bank(nn.Linear(2, 2), 2)
