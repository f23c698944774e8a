"""fit against two passes in plain Python."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dither import batchnorm, sampling
from dither.batchnorm._observe import channel_statistics
from tests.batchnorm import oracles
from tests.cases import Net

SHAPES = {"1d": (6,), "length": (6, 5), "2d": (6, 4, 3), "3d": (6, 2, 3, 2)}
LAYERS = {"1d": nn.BatchNorm1d, "length": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}


def data(n: int, *shape: int, ratio: float = 0.0, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Skewed channels of different width; mean over standard deviation is ``ratio``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    width = torch.logspace(-1, 1, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    return ((z + 0.2 * z**2 + ratio) * width).to(dtype)


def single(layer: nn.Module) -> nn.Module:
    return batchnorm.convert(nn.Sequential(layer))


def law_of(layer: Any) -> dict[str, np.ndarray]:
    names = ("loc_mean", "scale_mean", "loc_log_var", "scale_log_var")
    return {name: getattr(layer.statistics, name).double().numpy() for name in names}


def assert_law(layer: Any, expected: dict[str, np.ndarray], rtol: float) -> None:
    for name, found in law_of(layer).items():
        np.testing.assert_allclose(found[0], expected[name], rtol=rtol, err_msg=name)


# --- the moments -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0.0, 1e4])
@pytest.mark.parametrize("kind", SHAPES)
def test_moments_are_those_of_two_passes(kind: str, ratio: float) -> None:
    batches = data(25 * 8, *SHAPES[kind], ratio=ratio, dtype=torch.float64).split(8)
    net = single(LAYERS[kind](6)).double()
    batchnorm.fit(net, batches)
    assert_law(net[0], oracles.law([b.numpy() for b in batches]), 1e-8)


@pytest.mark.parametrize("ratio", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_moments_of_a_net_in_low_precision(dtype: torch.dtype, ratio: float) -> None:
    batches = data(25 * 8, 6, 4, 3, ratio=min(ratio, 1e4 if dtype == torch.float32 else 10.0), dtype=dtype).split(8)
    net = single(nn.BatchNorm2d(6)).to(dtype)
    batchnorm.fit(net, batches)
    assert net[0].statistics.loc_mean.dtype == torch.float32
    assert_law(net[0], oracles.law([b.double().numpy() for b in batches]), 1e-6)


def test_layers_see_what_is_normalised_with_the_batch() -> None:
    """Not with the running statistics: these are far away on purpose."""
    model = nn.Sequential(nn.BatchNorm1d(4, eps=1e-3), nn.Linear(4, 5), nn.Tanh(), nn.BatchNorm1d(5)).double()
    model[0].running_mean.fill_(7.0)
    model[0].running_var.fill_(0.01)
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 2.0)
        model[0].bias.uniform_(-1.0, 1.0)
    batches = data(40 * 6, 4, dtype=torch.float64).split(6)
    net = batchnorm.convert(model)
    batchnorm.fit(net, batches)
    weight, bias, matrix, offset = (p.detach().numpy() for p in (*model[0].parameters(), *model[1].parameters()))
    inner = []
    for batch in batches:
        normal = oracles.normalised(batch.numpy(), eps=1e-3) * weight + bias
        inner.append(np.tanh(normal @ matrix.T + offset))
    assert_law(net[3], oracles.law(inner), 1e-9)


def test_dropout_draws_and_everything_else_is_in_eval_mode() -> None:
    seen: list[tuple[bool, bool]] = []

    def forward(m: Any, x: Tensor) -> Tensor:
        seen.append((m.drop.training, m.training))
        return m.bn(m.drop(x))

    net = batchnorm.convert(Net(forward, drop=nn.Dropout(0.5), bn=nn.BatchNorm1d(4)))
    batchnorm.fit(net, torch.ones(10, 32, 4).unbind())
    assert seen == [(True, False)] * 10
    assert bool((net.bn.statistics.scale_mean > 0.1).all())  # constant data: only dropout varies


def test_a_shared_layer_has_a_law_for_each_call() -> None:
    net = batchnorm.convert(Net(lambda m, x: m.bn(m.bn(x) ** 3 + 1), bn=nn.BatchNorm1d(6))).double()
    batches = data(160, 6, dtype=torch.float64).split(8)
    batchnorm.fit(net, batches, records=3)
    assert (net.bn.statistics.sites, net.bn.statistics.records_mean.shape) == (2, (3, 2, 6))
    second = [oracles.normalised(batch.numpy()) ** 3 + 1 for batch in batches]
    for site, inputs in enumerate(([b.numpy() for b in batches], second)):
        for name, expected in oracles.law(inputs).items():
            np.testing.assert_allclose(law_of(net.bn)[name][site], expected, rtol=1e-9, err_msg=name)


def test_calls_in_another_order_than_the_modules() -> None:
    net = batchnorm.convert(Net(lambda m, x: m.b(2 * m.a(m.b(x) ** 3) + x), a=nn.BatchNorm1d(6), b=nn.BatchNorm1d(6)))
    batches = data(160, 6, dtype=torch.float64).split(8)
    batchnorm.fit(net.double(), batches)
    inputs: list[list[np.ndarray]] = [[], [], []]  # of b, of a, of b again
    for x in (batch.numpy() for batch in batches):
        inputs[0].append(x)
        inputs[1].append(oracles.normalised(x) ** 3)
        inputs[2].append(2 * oracles.normalised(inputs[1][-1]) + x)
    for layer, site, seen in ((net.b, 0, inputs[0]), (net.a, 0, inputs[1]), (net.b, 1, inputs[2])):
        for name, expected in oracles.law(seen).items():
            np.testing.assert_allclose(law_of(layer)[name][site], expected, rtol=1e-9, err_msg=name)


def test_a_network_that_calls_the_converted_one_twice_counts_both_passes() -> None:
    inner = batchnorm.convert(nn.Sequential(nn.BatchNorm1d(6))).double()
    pair = Net(lambda m, x: m.inner(x[:8]) + m.inner(x[8:]), inner=inner)
    batches = data(320, 6, dtype=torch.float64).split(16)
    assert batchnorm.fit(pair, batches).num_batches == 40
    assert_law(inner[0], oracles.law([half.numpy() for batch in batches for half in batch.split(8)]), 1e-9)


@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda x: (b for b in x),
        lambda x: [(b, torch.zeros(8)) for b in x],
        lambda x: [[b, torch.zeros(8)] for b in x],
        lambda x: [{"image": b, "label": torch.zeros(8)} for b in x],
        lambda x: [{"input": b} for b in x],
        lambda x: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(list(x))), batch_size=8),
    ],
    ids=["tensors", "generator", "tuples", "lists", "dict of images", "keyword", "DataLoader"],
)
def test_loaders_of_every_kind(make: Any) -> None:
    batches = data(80, 6).split(8)
    net = single(nn.BatchNorm1d(6))
    assert batchnorm.fit(net, make(batches)).num_batches == 10
    assert_law(net[0], oracles.law([b.numpy() for b in batches]), 1e-6)


def test_float32_passes_with_a_corrected_mean_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(64, 6, 5, 5, ratio=1e4)
    mean, var = channel_statistics(x)
    monkeypatch.setattr("dither.batchnorm._observe.has_float64", lambda device: False)
    low_mean, low_var = channel_statistics(x)
    torch.testing.assert_close(low_mean, mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(low_var, var, rtol=1e-5, atol=0)


# --- what stays as it is ---------------------------------------------------------------------------------------------
def odd_modes() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.BatchNorm1d(6))
    net = batchnorm.convert(model).train()
    net[1].eval()
    return net


def snapshot(net: nn.Module) -> tuple[Any, ...]:
    modes = {name: m.training for name, m in net.named_modules() if "statistics" not in name}
    tensors = {name: t.clone() for name, t in net.state_dict().items() if "statistics" not in name}
    return modes, tensors, [getattr(m, "sampling", None) for m in net.modules() if not isinstance(m, nn.Dropout)][:3]


def test_running_statistics_parameters_and_modes_stay() -> None:
    net = odd_modes()
    modes, tensors, draws = snapshot(net)
    batchnorm.fit(net, torch.randn(10, 8, 4).unbind())
    after_modes, after_tensors, after_draws = snapshot(net)
    assert (modes, draws) == (after_modes, after_draws)
    assert all(torch.equal(tensors[name], after_tensors[name]) for name in tensors)
    assert tensors.keys() == after_tensors.keys()
    assert [m.statistics.training for m in (net[1], net[4])] == [False, True]
    assert torch.is_grad_enabled()


def test_a_failure_restores_everything_and_keeps_the_law() -> None:
    net = odd_modes()
    batchnorm.fit(net, torch.randn(10, 8, 4).unbind(), law=batchnorm.Empirical())
    modes, _, draws = snapshot(net)
    law = copy.deepcopy(law_of(net[1]))

    def breaks() -> Iterator[Tensor]:
        yield from torch.randn(5, 8, 4) + 3
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        batchnorm.fit(net, breaks(), law=batchnorm.Factorized())
    assert (modes, draws) == snapshot(net)[::2]
    assert all(np.array_equal(law[name], value) for name, value in law_of(net[1]).items())
    assert net[1].source.law == batchnorm.Empirical()
    assert net[1].source.observer is None
    batchnorm.fit(net, torch.randn(10, 8, 4).unbind())  # and it still works


# --- how much is looked at -------------------------------------------------------------------------------------------
def test_num_batches_stops_without_taking_another() -> None:
    taken: list[int] = []

    def endless() -> Iterator[Tensor]:
        while True:
            taken.append(1)
            yield torch.randn(8, 6)

    report = batchnorm.fit(single(nn.BatchNorm1d(6)), endless(), num_batches=7)
    assert (report.num_batches, len(taken)) == (7, 7)


def test_a_smaller_last_batch_is_left_out() -> None:
    x = data(83, 6)
    net = single(nn.BatchNorm1d(6))
    report = batchnorm.fit(net, x.split(8))
    assert (report.num_batches, report.batch_size, report.left_out) == (10, 8, 3)
    assert "left out: a smaller last batch of 3 examples" in str(report)
    assert_law(net[0], oracles.law([b.numpy() for b in x[:80].split(8)]), 1e-6)


def test_progress_is_told_after_every_batch() -> None:
    calls: list[tuple[int, int | None]] = []
    net = single(nn.BatchNorm1d(6))
    batchnorm.fit(net, data(40, 6).split(8), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]
    calls.clear()
    batchnorm.fit(net, (b for b in data(24, 6).split(8)), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, None) for i in range(1, 4)]
    calls.clear()
    batchnorm.fit(net, data(40, 6).split(8), num_batches=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


@pytest.mark.parametrize(("law", "records", "kept"), [(None, None, 0), (None, 4, 4), (batchnorm.Empirical(), None, 10)])
def test_records_are_the_first_batches(law: Any, records: int | None, kept: int) -> None:
    batches = data(80, 6).split(8)
    net = single(nn.BatchNorm1d(6))
    batchnorm.fit(net, batches, law=law, records=records)
    found = net[0].statistics
    assert found.num_records == kept
    for k in range(kept):
        mean, variance = oracles.channel_statistics(batches[k].numpy())
        np.testing.assert_allclose(found.records_mean[k, 0], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.records_log_var[k, 0], np.log(variance), rtol=1e-5, atol=1e-6)


def test_the_law_is_kept_or_set() -> None:
    net = single(nn.BatchNorm1d(6))
    batchnorm.fit(net, data(80, 6).split(8))
    assert net[0].source.law == batchnorm.Factorized()
    batchnorm.fit(net, data(80, 6).split(8), law=batchnorm.Empirical(joint=False))
    batchnorm.fit(net, data(80, 6).split(8))
    assert net[0].source.law == batchnorm.Empirical(joint=False)
    assert net[0].statistics.num_records == 10


# --- dead channels and layers ----------------------------------------------------------------------------------------
def test_dead_channels_get_no_noise_on_their_variance_and_a_warning() -> None:
    x = data(400, 6)
    x[:, 2] = 3.0  # always constant
    x[8:16, 4] = -1.0  # constant in one batch of fifty
    net = single(nn.BatchNorm1d(6))
    with pytest.warns(UserWarning, match=r"dead channels.* 2 of 6 in '0'"):
        report = batchnorm.fit(net, x.split(8), records=5)
    statistics = net[0].statistics
    assert statistics.scale_log_var[0, [2, 4]].tolist() == [0.0, 0.0]
    variances = [oracles.channel_statistics(b.numpy())[1] for b in x.split(8)]
    assert statistics.loc_log_var[0, 2].item() == pytest.approx(math.log(1e-10))
    assert statistics.loc_log_var[0, 4].item() == pytest.approx(math.log(np.mean([v[4] for v in variances])), rel=1e-6)
    assert torch.equal(statistics.records_log_var[:, 0, 4], statistics.loc_log_var[0, 4].expand(5))
    live = [0, 1, 3, 5]
    expected = oracles.law([b[:, live].numpy() for b in x.split(8)])
    np.testing.assert_allclose(statistics.scale_log_var[0, live], expected["scale_log_var"], rtol=1e-6)
    assert (report.layers[0].dead, "2 dead channels" in str(report)) == (2, True)


def test_a_layer_that_is_never_called_is_reported_and_does_no_harm() -> None:
    net = batchnorm.convert(Net(lambda m, x: m.bn(x), bn=nn.BatchNorm1d(6), auxiliary=nn.BatchNorm1d(3)))
    with pytest.warns(UserWarning, match="no forward pass calls: auxiliary"):
        report = batchnorm.fit(net, data(80, 6).split(8))
    assert (report.unused, [layer.name for layer in report.layers]) == (("auxiliary",), ["bn"])
    with sampling(net.eval()):
        assert not torch.equal(net(torch.ones(2, 6)), net(torch.ones(2, 6)))
