"""kl, its weights and the parameter groups."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning import LogNormalNoise
from tests.cases import Net
from tests.pruning import plain

PARAMETERS = [(0.0, -3.0), (-1.0, -1.0), (-3.0, 0.5), (-12.0, 1.5), (2.0, 0.0)]  # loc, log scale


class LeNet5(nn.Module):
    """LeNet-5-Caffe, 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(800, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def two_sites() -> nn.Sequential:
    net = nn.Sequential(LogNormalNoise(5), nn.Linear(5, 2), LogNormalNoise(2)).double()
    with torch.no_grad():
        for layer, values in ((net[0], PARAMETERS), (net[2], PARAMETERS[1:3])):
            layer.loc.copy_(torch.tensor([a for a, _ in values]))
            layer.log_scale.copy_(torch.tensor([b for _, b in values]))
    return net


def oracle(parameters: list[tuple[float, float]], low: float = -20.0, high: float = 0.0) -> float:
    return sum(plain.divergence(loc, math.exp(log_scale), low, high) for loc, log_scale in parameters)


# --- the value -------------------------------------------------------------------------------------------------------
def test_kl_is_the_sum_of_the_oracle() -> None:
    truth = oracle(PARAMETERS) + oracle(PARAMETERS[1:3])
    assert pruning.kl(two_sites()).item() == pytest.approx(truth, rel=1e-8)


def test_kl_is_summed_over_units_and_not_averaged() -> None:
    one, many = LogNormalNoise(1).double(), LogNormalNoise(1000).double()
    assert pruning.kl(many).item() == pytest.approx(1000 * pruning.kl(one).item(), rel=1e-12)


def test_kl_is_in_the_mode_and_the_input_nowhere() -> None:
    net = two_sites()
    assert torch.equal(pruning.kl(net.train()), pruning.kl(net.eval()))


def test_weights_multiply_each_gates_sum() -> None:
    first, second = oracle(PARAMETERS), oracle(PARAMETERS[1:3])
    net = two_sites()
    assert pruning.kl(net, {"0": 3.0, "2": 0.5}).item() == pytest.approx(3 * first + second / 2, rel=1e-8)
    assert pruning.kl(net, {"2": 4.0}).item() == pytest.approx(first + 4 * second, rel=1e-8)
    assert pruning.kl(net, {}).item() == pytest.approx(first + second, rel=1e-8)


def test_autocast_does_not_round_the_divergence() -> None:
    net = nn.Sequential(LogNormalNoise(40), LogNormalNoise(7))
    nn.init.uniform_(net[0].log_scale, -5, 1)
    weights = {"0": 0.37, "1": 1.83}
    expected = pruning.kl(net, weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pruning.kl(net, weights), expected)


def test_layers_may_have_different_bounds() -> None:
    net = nn.Sequential(LogNormalNoise(1, log_low=-2.0, log_high=1.0), LogNormalNoise(1)).double()
    with torch.no_grad():
        for layer in net:
            layer.loc.fill_(-0.5)
            layer.log_scale.fill_(-1.0)
    truth = oracle([(-0.5, -1.0)], -2.0, 1.0) + oracle([(-0.5, -1.0)])
    assert pruning.kl(net).item() == pytest.approx(truth, rel=1e-8)


@pytest.mark.parametrize("name", ["loc", "log_scale"])
def test_gradients_are_differences_of_the_oracle(name: str) -> None:
    net, step = two_sites(), 1e-4
    pruning.kl(net, {"0": 2.0}).backward()
    for i, (loc, log_scale) in enumerate(PARAMETERS):
        shift = (step, 0.0) if name == "loc" else (0.0, step)
        up, down = (oracle([(loc + s * shift[0], log_scale + s * shift[1])]) for s in (1, -1))
        assert float(getattr(net[0], name).grad[i]) == pytest.approx(2 * (up - down) / (2 * step), rel=1e-4, abs=1e-5)


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match=r"weights names \['fc9'\], but the gates are \['0', '2'\]"):
        pruning.kl(two_sites(), {"fc9": 2.0})


# --- parameter groups ------------------------------------------------------------------------------------------------
def attached() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return pruning.attach(model, torch.zeros(2, 5))


def test_groups_cover_every_parameter_once() -> None:
    net = attached()
    groups = pruning.param_groups(net, lr=1e-3)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in net.parameters()}
    assert {id(p) for p in groups[1]["params"]} == {id(p) for g in pruning.gates(net).values() for p in g.parameters()}


def test_noise_learns_ten_times_faster_and_never_decays() -> None:
    rest, noise = pruning.param_groups(attached(), lr=1e-3, weight_decay=0.1)
    assert (rest["lr"], rest["weight_decay"], noise["weight_decay"]) == (1e-3, 0.1, 0.0)
    assert noise["lr"] == pytest.approx(1e-2)
    assert pruning.param_groups(attached(), lr=1e-3, gate_lr=5e-4)[1]["lr"] == 5e-4


def test_frozen_parameters_are_left_out() -> None:
    net = attached()
    net[0].requires_grad_(False)
    assert not {id(p) for p in net[0].parameters()} & {id(p) for p in pruning.param_groups(net, 1e-3)[0]["params"]}


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW], ids=lambda m: m.__name__)
def test_a_training_step_moves_every_parameter(make: type[torch.optim.Optimizer]) -> None:
    net = attached()
    optimizer = make(pruning.param_groups(net, lr=1e-2))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    (net(torch.randn(16, 5)).square().mean() + pruning.kl(net) / 100).backward()
    optimizer.step()
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved | {"0.bias"} == set(before)  # 0.bias: BatchNorm takes it away again


def test_the_divergence_alone_drowns_every_channel() -> None:
    """Without data nothing speaks for a channel: KL falls towards 0 and SNR below 1."""
    net = attached()
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=0.01)[1:])
    for _ in range(150):
        optimizer.zero_grad()
        pruning.kl(net).backward()
        optimizer.step()
    assert bool((pruning.gates(net)["0"].snr < 1).all())


# --- weights for speed -----------------------------------------------------------------------------------------------
def test_mac_weights_of_lenet5_worked_out_by_hand() -> None:
    """conv1: 24² outputs x 25 taps to write a channel, 8² x 25 x 50 to read it; conv2: 8² x 25 x 20 and 16 x 500.

    A unit of fc1 costs 800 + 10, a flattened feature 500, and the cheapest is 1.
    """
    x = torch.zeros(1, 1, 28, 28)
    found = pruning.mac_weights(pruning.attach(LeNet5(), x, features=["fc1"]), x)
    macs = {"conv1": 94_400, "conv2": 40_000, "fc1": 810, "fc1[in]": 500}
    assert found == pytest.approx({name: value / 500 for name, value in macs.items()})


def test_mac_weights_do_not_depend_on_the_batch() -> None:
    net = pruning.attach(LeNet5(), torch.zeros(1, 1, 28, 28))
    weights = [pruning.mac_weights(net, torch.zeros(n, 1, 28, 28)) for n in (1, 3)]
    assert weights[0] == pytest.approx(weights[1])


def test_mac_weights_of_a_residual_stream_count_all_its_layers() -> None:
    """A channel of the stream is written by a and c and read by b and d; 10 rows of 5 and 7 and 3 elsewhere."""
    model = Net(
        lambda m, x: m.d((y := m.a(x)) + m.c(m.b(y))),
        a=nn.Linear(5, 10),
        b=nn.Linear(10, 7),
        c=nn.Linear(7, 10),
        d=nn.Linear(10, 3),
    )
    x = torch.zeros(2, 5)
    found = pruning.mac_weights(pruning.attach(model, x), x)
    assert found == pytest.approx({"a": (5 + 7 + 7 + 3) / 20, "b": 1.0})


def test_sbpa_weights_fall_in_the_order_of_the_layers() -> None:
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.ReLU())], nn.Linear(4, 2))
    net = pruning.attach(model, torch.zeros(1, 4))
    weights = {"0": 10.0, "2": 10.0, "4": 5.0, "6": 5.0, "8": 1.0, "10": 1.0}
    assert pruning.sbpa_weights(net) == weights
    each = pruning.kl(net).item() / 6
    assert pruning.kl(net, pruning.sbpa_weights(net)).item() == pytest.approx(32 * each, rel=1e-5)


@pytest.mark.parametrize(
    "ask",
    [
        pruning.kl,
        lambda net: pruning.param_groups(net, 1e-3),
        lambda net: pruning.mac_weights(net, torch.zeros(1, 4)),
        lambda net: pruning.plan(net, torch.zeros(1, 4)),
    ],
    ids=["kl", "param_groups", "mac_weights", "plan"],
)
def test_a_network_without_noise(ask) -> None:
    with pytest.raises(ValueError, match=r"carries no noise; call pruning\.attach"):
        ask(nn.Linear(4, 2))
