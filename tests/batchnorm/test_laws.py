"""The laws against the statistics that they were fitted to, against each other and against the exact prediction.

Random tests state their failure rate; a bound is then a quantile, not a tolerance that was tuned.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import dither
from dither import batchnorm
from dither.batchnorm import Bank, Cached, Correlated, Empirical, Factorized, Law, exact_predict
from dither.batchnorm._fitted import Fitted
from dither.batchnorm._source import find_source

FAILURE_RATE = 1e-7  # of one statistical test; there are about 30 in this file
LAWS: list[Law] = [Factorized(), Empirical(), Empirical(joint=False), Correlated(), Correlated(across_layers=False)]


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    return batchnorm.convert(model).double().eval()


def data(count: int, seed: int = 1) -> Tensor:
    """Images that differ in brightness, so that the channels of a batch go up and down together."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(count, 2, 6, 6, generator=generator, dtype=torch.float64)
    return base + torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)


def fitted_net(batch_size: int = 16, batches: int = 400, law: Law | None = None) -> nn.Module:
    net = small_net()
    batchnorm.fit(net, data(batches * batch_size).split(batch_size), records=batches, law=law)
    return net


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fitted_net()


def draws(net: nn.Module, law: Law, count: int) -> tuple[Fitted, Tensor, Tensor]:
    """Means and log variances that a law draws, (S, T)."""
    fitted = find_source(net).fitted()
    mean, var = law.draw(fitted, count, torch.Generator().manual_seed(5))
    return fitted, mean, var.log()


def assert_moments(samples: Tensor, loc: Tensor, scale: Tensor, *, kurtosis: Tensor | float = 3.0) -> None:
    """Sample mean and variance of every column within what chance allows at FAILURE_RATE, over all columns together."""
    n, columns = samples.shape
    z = stats.norm.isf(FAILURE_RATE / (2 * columns))
    assert ((samples.mean(0) - loc).abs() <= z * scale / math.sqrt(n) + 1e-12).all()
    deviation = (samples.var(0) / scale.square() - 1).abs()
    assert (deviation <= z * torch.as_tensor(kurtosis - 1.0).sqrt() / math.sqrt(n) * 1.1).all()


@pytest.mark.parametrize("law", [Factorized(), Correlated(), Correlated(across_layers=False)], ids=str)
def test_margins_are_normal_and_log_normal(net: nn.Module, law: Law) -> None:
    fitted, mean, log_var = draws(net, law, 4000)
    for samples, loc, scale in (
        (mean, fitted.loc_mean, fitted.scale_mean),
        (log_var, fitted.loc_log_var, fitted.scale_log_var),
    ):
        standard = (samples - loc) / scale
        assert_moments(standard, torch.zeros_like(loc), torch.ones_like(loc))
        p_values = [stats.kstest(column.numpy(), "norm").pvalue for column in standard.T]
        assert min(p_values) > FAILURE_RATE / len(p_values)


def test_independent_empirical_and_factorized_share_two_moments(net: nn.Module) -> None:
    fitted, mean, log_var = draws(net, Empirical(joint=False), 20_000)
    records_mean, records_log_var = fitted.records_moved()
    for samples, loc, scale, records in (
        (mean, fitted.loc_mean, fitted.scale_mean, records_mean),
        (log_var, fitted.loc_log_var, fitted.scale_log_var, records_log_var),
    ):
        count = len(records)
        scale = scale * math.sqrt((count - 1) / count)  # drawing from K records has their biased variance
        kurtosis = ((records - loc) / scale).pow(4).mean(0)
        assert_moments(samples, loc, scale, kurtosis=kurtosis)


def test_empirical_draws_are_records(net: nn.Module) -> None:
    fitted, mean, log_var = draws(net, Empirical(), 50)
    records_mean, records_log_var = fitted.records_moved()
    rows = [int((records_mean == m).all(1).nonzero()) for m in mean]
    assert torch.equal(mean, records_mean[rows])
    torch.testing.assert_close(log_var, records_log_var[rows])
    assert len(set(rows)) > 30


def test_independent_empirical_joins_channels_and_not_layers(net: nn.Module) -> None:
    fitted, mean, _ = draws(net, Empirical(joint=False), 50)
    records, _ = fitted.records_moved()
    first, second = fitted.blocks
    rows = [[int((records[:, block] == m[block]).all(1).nonzero()) for m in mean] for block in (first, second)]
    assert sum(a == b for a, b in zip(*rows, strict=True)) < 10


def correlation(samples: Tensor) -> Tensor:
    return torch.corrcoef(samples.T)


def test_correlated_keeps_strong_correlations_and_factorized_does_not(net: nn.Module) -> None:
    fitted, _, _ = draws(net, Factorized(), 1)
    truth = correlation(torch.cat(fitted.records_moved(), 1))
    strong = (truth.abs() > 0.5) & ~torch.eye(len(truth), dtype=torch.bool)
    assert strong.sum() > 20
    found = {
        str(law): correlation(torch.cat(draws(net, law, 20_000)[1:], 1))
        for law in (Factorized(), Correlated(rank=8), Correlated(rank=8, across_layers=False))
    }
    assert (found["Factorized()"][strong].abs() < 6 / math.sqrt(20_000)).all()
    close = (found[str(Correlated(rank=8))] - truth)[strong].abs()
    assert close.mean() < 0.05
    size = len(fitted.loc_mean)
    across = torch.zeros(2 * size, 2 * size, dtype=torch.bool)
    for rows in (fitted.blocks[0], slice(size, size + fitted.blocks[0].stop)):
        for columns in (fitted.blocks[1], slice(size + fitted.blocks[1].start, 2 * size)):
            across[rows, columns] = True
    inside = found[str(Correlated(rank=8, across_layers=False))]
    assert (inside[across].abs() < 6 / math.sqrt(20_000)).all()


def test_correlated_without_directions_is_factorized(net: nn.Module) -> None:
    _, a, b = draws(net, Correlated(rank=0), 10)
    _, c, d = draws(net, Factorized(), 10)
    torch.testing.assert_close(a, c)
    torch.testing.assert_close(b, d)
    _, e, f = draws(net, Correlated(rank=3, shrinkage=1.0), 5000)
    assert (correlation(torch.cat([e, f], 1)) - torch.eye(28)).abs().max() < 6 / math.sqrt(5000)


def shrinkage_by_loops(rows: Tensor) -> float:
    """Schäfer and Strimmer 2005, equations as printed, one pair of variables at a time."""
    n, p = rows.shape
    x = (rows - rows.mean(0)) / rows.std(0)
    variance = total = 0.0
    for i in range(p):
        for j in range(p):
            if i == j:
                continue
            w = x[:, i] * x[:, j]
            r = n / (n - 1) * w.mean()
            variance += float(n / (n - 1) ** 3 * (w - w.mean()).square().sum())
            total += float(r**2)
    return min(1.0, variance / total)


@pytest.mark.parametrize("count", [10, 100])
def test_shrinkage_against_the_printed_formula(count: int) -> None:
    from dither.batchnorm._correlated import _shrinkage, _standardised

    rows = torch.randn(count, 7, dtype=torch.float64) + torch.randn(count, 1, dtype=torch.float64)
    x = _standardised(rows)
    assert _shrinkage(x, x @ x.T) == pytest.approx(shrinkage_by_loops(rows), rel=1e-10)


def test_shrinkage_is_strong_where_there_is_only_chance() -> None:
    from dither.batchnorm._correlated import _shrinkage, _standardised

    x = _standardised(torch.randn(20, 200, dtype=torch.float64))
    assert _shrinkage(x, x @ x.T) > 0.8


def test_rescale_moves_to_the_law_of_the_other_batch_size() -> None:
    """Fitted at 8 and rescaled to 32, against fitted at 32: locations and scales within what chance allows."""
    small, large = fitted_net(8, 2000), fitted_net(32, 2000)
    batchnorm.rescale(small, batch_size=32)
    a, b = find_source(small).fitted(), find_source(large).fitted()
    first = slice(0, 6)  # the first layer's input does not depend on the batch
    z = stats.norm.isf(FAILURE_RATE / 24)
    error = z * b.scale_mean * math.sqrt(2 / 2000)
    assert ((a.loc_mean - b.loc_mean).abs() < 2 * error)[first].all()
    assert ((a.scale_mean / b.scale_mean).log().abs() < z * math.sqrt(1 / 2000) * 1.2)[first].all()
    # log σ² is not exactly normal: 5 % for its scale, and half a standard deviation of one batch for its location.
    assert ((a.scale_log_var / b.scale_log_var).log().abs() < 0.1)[first].all()
    assert ((a.loc_log_var - b.loc_log_var).abs() < 0.1 * b.scale_log_var)[first].all()
    # Without the change of location it would be off by more.
    unmoved = small[1].statistics.loc_log_var[0]
    assert ((unmoved - b.loc_log_var[first]).abs() > 0.5 * b.scale_log_var[first]).any()


def test_a_large_batch_has_no_noise_and_all_the_variance(net: nn.Module) -> None:
    large = batchnorm.rescale(copy.deepcopy(net), batch_size=1e9)
    x = data(512, 7)
    with torch.no_grad():
        values = net[0](data(6400)).transpose(0, 1).flatten(1)
    mean, var = Factorized().draw(find_source(large).fitted(), 3)
    torch.testing.assert_close(mean[0, :6], values.mean(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(var[0, :6], values.var(1), rtol=1e-2, atol=0)
    assert dither.predict(large, x, 4).mutual_information.max() < 1e-6


def test_cached_statistics_by_hand() -> None:
    """A batch of three and the example itself: the statistics of four."""
    net = small_net()
    batch, x = data(6, 2), data(2, 3)
    batchnorm.fit(net, batch.split(3), records=2, law=Cached())
    source = find_source(net)
    source.prepare(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        values, others = net[0](x), net[0](batch).split(3)
    chosen = int((source.tensors()[0][0, :6] - others[1].mean((0, 2, 3))).abs().max() < 1e-9)
    with dither.sampling(net):
        mean, var = source.statistics(net[1], values)
    source.release()
    for row in range(2):
        four = torch.cat([others[chosen], values[row : row + 1]]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(mean[row], four.mean(1))
        torch.testing.assert_close(var[row], four.var(1, correction=0))


@pytest.mark.slow
def test_cached_goes_to_exact_as_batches_grow() -> None:
    """The largest difference of mean probabilities falls at least as fast as 1/M, up to a factor of two."""
    x = data(6, 9)
    difference: list[float] = []
    for size in (8, 64, 512):
        batches = data(16 * size, 4).split(size)
        net = small_net()
        batchnorm.fit(net, batches, records=16, law=Cached())
        exact = exact_predict(net, x, batches).probs
        source = find_source(net)
        source.prepare(1)  # the records one after the other, so that both see the same batches
        records = source.fitted().records
        with torch.no_grad(), dither.sampling(net):
            cached = []
            for k in range(16):
                source.give([t[k] for t in records])
                cached.append(net(x).softmax(1))
        source.give(None)
        source.release()
        difference.append(float((torch.stack(cached) - exact).abs().max()))
    assert difference[0] / difference[1] > 4, difference
    assert difference[1] / difference[2] > 4, difference
    assert difference[2] < 1e-3


def test_all_laws_come_near_the_exact_prediction(net: nn.Module) -> None:
    """Mean probabilities within a tenth; the deterministic network is further away in its certainty."""
    x = data(16, 11)
    truth = exact_predict(net, x, data(100 * 15, 12).split(15)).mean
    for law in LAWS:
        own = batchnorm.set_law(copy.deepcopy(net), law)
        mean = dither.predict(own, x, 200, generator=torch.Generator().manual_seed(0)).mean
        assert (mean - truth).abs().max() < 0.1, law


@pytest.mark.parametrize("law", [*LAWS, Cached()], ids=str)
def test_a_generator_repeats_the_draws(net: nn.Module, law: Law) -> None:
    own = batchnorm.set_law(copy.deepcopy(net), law)
    x = data(3, 13)
    state = torch.get_rng_state()
    first, second = (dither.predict(own, x, 4, generator=torch.Generator().manual_seed(2)).probs for _ in range(2))
    other = dither.predict(own, x, 4, generator=torch.Generator().manual_seed(3)).probs
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_same_draw_for_all_rows_and_a_new_one_for_every_pass(net: nn.Module, law: Law) -> None:
    own = batchnorm.set_law(copy.deepcopy(net), law)
    x = data(1, 13).repeat(5, 1, 1, 1)
    with torch.no_grad(), dither.sampling(own):
        first, second = own(x), own(x)
    torch.testing.assert_close(first, first[:1].expand_as(first))
    assert not torch.equal(first, second)


def test_a_part_that_is_called_alone_draws_anew_too(net: nn.Module) -> None:
    x = data(2, 13)
    head = net[:2]
    with torch.no_grad(), dither.sampling(net):
        assert not torch.equal(head(x), head(x))


def test_bad_input(net: nn.Module) -> None:
    moments_only = small_net()
    batchnorm.fit(moments_only, data(64).split(16))
    batchnorm.set_law(moments_only, Empirical())
    with pytest.raises(RuntimeError, match=r"needs the statistics of single batches, 0 are kept"):
        dither.predict(moments_only, data(2), 3)
    with pytest.raises(ValueError, match="cannot be rescaled"):
        dither.predict(batchnorm.set_law(batchnorm.rescale(copy.deepcopy(net), batch_size=8), Cached()), data(2), 3)
    with pytest.raises(ValueError, match="rank is -1"):
        Correlated(rank=-1)
    with pytest.raises(ValueError, match="shrinkage is 2"):
        Correlated(shrinkage=2)
    with pytest.raises(ValueError, match="frozen"):
        batchnorm.set_law(batchnorm.bank(net, 2), Factorized())
    with pytest.raises(ValueError, match="holds 2 samples, 3 were asked for"):
        dither.predict(batchnorm.bank(net, 2), data(2), 3)
    assert Bank().needs_records


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 2), (2, 3, 2, 3, 2)], ids=str)
def test_given_statistics_normalise_as_torch_does(shape: tuple[int, ...], affine: bool) -> None:
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    net = batchnorm.convert(kind(3, eps=0.3, affine=affine)).double().eval()
    if affine:
        nn.init.normal_(net.weight)
        nn.init.normal_(net.bias)
    batchnorm.fit(net, [torch.randn(8, *shape[1:], dtype=torch.float64) for _ in range(4)])
    x = torch.randn(shape, dtype=torch.float64)
    mean, var = torch.randn(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    source = find_source(net)

    def one(mean: Tensor, var: Tensor) -> Tensor:
        source.give([mean, var])
        return net(x)

    with dither.sampling(net):
        folded = torch.func.vmap(one)(mean, var)
        looped = torch.stack([one(m, v) for m, v in zip(mean, var, strict=True)])
    source.release()
    for found in (folded, looped):
        for sample in range(2):
            truth = nn.functional.batch_norm(x, mean[sample], var[sample], net.weight, net.bias, False, 0.0, 0.3)
            torch.testing.assert_close(found[sample], truth)
