"""What attach, plan and shrink hold at once: of a large network there is one, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.scaling.memory import PeakBytes, bytes_of
from dither import pruning
from dither.pruning.budget._fill import measured
from dither.pruning.budget._price import price
from dither.pruning.cutting import _cut
from dither.pruning.measuring import _latency
from tests.cases import Net
from tests.pruning.test_cases import assert_same, drown_half

WIDTH, DEPTH = 1024, 4
X = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    layers = [part for _ in range(DEPTH) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    noisy = pruning.attach(network(), X)
    drown_half(noisy, 0)
    return noisy


def storages(net: nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()] if t.numel()}


def test_the_measure() -> None:
    old = torch.zeros(1000)
    with PeakBytes() as memory:
        kept = old.view(10, 100).double()  # 8 kB
        (kept + 1).add_(1)  # 8 kB more, for a moment
        kept[:5].clone()  # 4 kB
    assert (memory.peak, memory.now) == (16000, 8000)


def test_attach_holds_one_network_more() -> None:
    """The one that it returns; the trial has given back what it used."""
    model = network()
    with PeakBytes() as memory:
        pruning.attach(model, X)
    assert memory.peak <= 1.25 * bytes_of(model)


def test_plan_holds_no_network(net: nn.Module) -> None:
    with PeakBytes() as memory:
        pruning.plan(net, X)
    assert memory.peak <= 0.1 * bytes_of(net)


@pytest.mark.parametrize("quantity", ["params", "macs", "latency"])
def test_a_price_holds_no_network(net: nn.Module, quantity: str) -> None:
    """Beside the one with a channel in each space, whose time is measured."""
    with PeakBytes() as memory:
        price(net, X, quantity)
    assert memory.peak <= 0.1 * bytes_of(net)


def test_weights_of_the_divergence_hold_a_layer(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer at most: the halves of the two around a space, whose time is measured."""
    monkeypatch.setattr(_latency, "ROUNDS", (1, 1))
    largest = max(p.numel() * p.element_size() for p in net.parameters())
    for weights, layers in ((pruning.mac_weights, 0.25), (pruning.latency_weights, 1.5)):
        with PeakBytes() as memory:
            weights(net, X)
        assert memory.peak <= layers * largest


def test_a_plan_that_is_measured_holds_what_is_left(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_latency, "ROUNDS", (1, 1))
    plan = pruning.plan(net, X)
    small, largest = pruning.shrink(net, plan, X), max(p.numel() * p.element_size() for p in net.parameters())
    with PeakBytes() as memory:
        measured(net, plan, X, "macs")
    assert memory.peak <= bytes_of(small) + 1.5 * largest
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pruning.plan(net, X, multiple_of="auto")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("optimizer", [False, True])
def test_shrink_holds_what_it_returns_and_one_layer(net: nn.Module, optimizer: bool) -> None:
    plan = pruning.plan(net, X)
    options = {"optimizer": torch.optim.SGD(net.parameters(), lr=0.1)} if optimizer else {}
    with PeakBytes() as memory:
        small = pruning.shrink(net, plan, X, **options)
    small = small[0] if optimizer else small
    largest = max(p.numel() * p.element_size() for p in net.parameters())
    assert bytes_of(small) <= 0.5 * bytes_of(net)
    assert memory.peak <= bytes_of(small) + 1.5 * largest


def test_hand_placed_noise_is_merged_in_one_copy() -> None:
    layers = [(part, pruning.LogNormalNoise(WIDTH)) if isinstance(part, nn.ReLU) else (part,) for part in network()]
    net = nn.Sequential(*(part for both in layers for part in both))
    drown_half(net, 0)
    plan = pruning.plan(net, X)
    with PeakBytes() as memory:
        pruning.shrink(net, plan, X)
    assert memory.peak <= 1.4 * bytes_of(net)


def test_nothing_is_shared(net: nn.Module) -> None:
    """Neither what was cut nor what stays as it was; what is returned can be trained."""
    plan = pruning.plan(net, X)
    small = pruning.shrink(net, plan, X)
    going_on, _ = pruning.shrink(net, plan, X, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    model = network()
    seen: set[int] = set()
    for each in (net, small, going_on, pruning.masked(net, plan), model, pruning.attach(model, X)):
        assert not seen & storages(each)
        seen |= storages(each)


# --- where lower precision cannot tell, and the networks are compared in float64 -------------------------------------
def steep() -> Net:
    """In float32, rounding changes its output by a hundred times the tolerance."""
    return Net(lambda m, x: (1e4 * m.b(m.a(x).relu())).sin(), a=nn.Linear(50, 400), b=nn.Linear(400, 3))


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The differences that were found, each in the dtype of the network first."""
    found: list[float] = []
    compare = _cut._difference

    def noted(*args: object) -> float:
        found.append(compare(*args))
        return found[-1]

    monkeypatch.setattr(_cut, "_difference", noted)
    return found


@pytest.mark.parametrize("optimizer", [False, True])
def test_gates_round_as_the_folded_weights_do(coarse: list[float], optimizer: bool) -> None:
    x = torch.randn(30, 50)
    net = pruning.attach(steep(), x)
    drown_half(net, 0)
    coarse.clear()
    options = {"optimizer": torch.optim.SGD(net.parameters(), lr=0.1)} if optimizer else {}
    pruning.shrink(net, pruning.plan(net, x), x, **options)
    first, second = coarse
    assert first > 1 > second


def test_an_error_shows_in_float64(coarse: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    from dither.pruning.shrinking import _shrink

    def wrong(small: nn.Module, *args: object) -> None:
        fold(small, *args)
        small.b.weight.data[0, 0] += 1e-4

    fold = _shrink.fold_gates
    x = torch.randn(30, 50)
    net = pruning.attach(steep(), x)
    drown_half(net, 0)
    monkeypatch.setattr(_shrink, "fold_gates", wrong)
    with pytest.raises(pruning.ShrinkError, match="differs from the masked one"):
        pruning.shrink(net, pruning.plan(net, x), x)


def test_float64_takes_one_layer_at_a_time() -> None:
    one = network()
    with torch.no_grad(), _cut.InDouble(one), PeakBytes() as memory:
        one(X.double())
    assert memory.peak <= 3 * bytes_of(one[0])


def test_float64_reaches_every_layer() -> None:
    """Weights in lists (recurrent layers), of another module (attention), tied, and one asked for its dtype."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h, _ = m.rnn(x)
        h, _ = m.attention(h, h, h)
        h = m.norm(h.to(m.out.weight.dtype))
        return m.out(h) @ m.out.weight + torch.nn.functional.linear(h, m.embed.weight[:12]).sum()

    torch.manual_seed(0)
    parts = {"rnn": nn.LSTM(8, 12, batch_first=True), "attention": nn.MultiheadAttention(12, 3, batch_first=True)}
    net = Net(forward, **parts, norm=nn.LayerNorm(12), out=nn.Linear(12, 12), embed=nn.Embedding(20, 12))
    x = torch.randn(2, 5, 8)
    one = _cut.twin(net, buffer=_cut.double)
    with torch.no_grad(), _cut.InDouble(one):
        got = one(x.double())
    assert all(p.dtype == torch.float32 for p in net.parameters())
    assert_same(got, net.double()(x.double()))
