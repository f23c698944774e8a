"""LogNormalNoise that the user placed: planned and shrunk by the same code, or refused by the name of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither import pruning
from dither.pruning import FixedScale, LogNormalNoise
from tests.cases import IMAGE, Net, conv, head
from tests.pruning.test_cases import assert_same, drown_half


@dataclass(frozen=True)
class Placed:
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    prunable: dict[str, int]
    folds: bool = True  # whether Eθ moves into the weights

    def inputs(self, seed: int = 1) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double().eval()


def noise(size: int, **options: int) -> LogNormalNoise:
    return LogNormalNoise(size, **options)


def _squash(m: Net, x: Tensor) -> Tensor:
    y = m.n(m.a(x)).clone()
    y[..., :4].tanh_()
    y[..., 4:].tanh_()
    return m.b(y)


EXACT = [
    Placed(
        "convolution, noise, relu, pool, convolution",
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.ReLU(), nn.MaxPool2d(2), conv(6, 2)),
        IMAGE,
        {"0": 6},
    ),
    Placed(
        "linear, noise, linear",
        lambda: nn.Sequential(nn.Linear(5, 8), noise(8), nn.Linear(8, 3)),
        (4, 5),
        {"0": 8},
    ),
    Placed(
        "positions",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.GELU(), noise(8, dim=-1), nn.Linear(8, 3)),
        (2, 7, 5),
        {"0": 8},
    ),
    Placed(
        "one dimension",
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.SiLU(), noise(6), nn.AvgPool1d(2), nn.Conv1d(6, 3, 2)),
        (2, 2, 12),
        {"0": 6},
    ),
    Placed(
        "noise before flatten",
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), noise(6), nn.Flatten(), nn.Linear(384, 3)),
        IMAGE,
        {"0": 6},
    ),
    Placed(
        "after BatchNorm",
        lambda: nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), noise(6), conv(6, 2)),
        IMAGE,
        {"0": 6},
    ),
    Placed(
        "tanh follows",
        lambda: nn.Sequential(nn.Linear(5, 8), noise(8), nn.Tanh(), nn.Linear(8, 3)),
        (4, 5),
        {"0": 8},
        False,
    ),
    Placed(
        "gelu follows",
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.GELU(), conv(6, 2)),
        IMAGE,
        {"0": 6},
        False,
    ),
    Placed(
        "dropout and leaky relu follow",
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.Dropout(), nn.LeakyReLU(), conv(6, 2)),
        IMAGE,
        {"0": 6},
    ),
    Placed(
        "two readers",
        lambda: Net(
            lambda m, x: m.b(y := m.n(m.a(x))) + m.c(F.relu(y)), a=conv(3, 6), n=noise(6), b=conv(6, 2), c=conv(6, 2)
        ),
        IMAGE,
        {"a": 6},
    ),
    Placed(
        "concat of two noises",
        lambda: Net(
            lambda m, x: m.head(torch.cat([m.m(m.a(x)), m.n(m.b(x))], 1)),
            a=conv(3, 4),
            b=conv(3, 6),
            m=noise(4),
            n=noise(6),
            head=head(10),
        ),
        IMAGE,
        {"a": 4, "b": 6},
    ),
    Placed(
        "a depthwise convolution without a bias follows",
        lambda: Net(
            lambda m, x: m.head(m.d(m.n(m.a(x)))),
            a=conv(3, 6),
            n=noise(6),
            d=conv(6, 6, groups=6, bias=False),
            head=head(6),
        ),
        IMAGE,
        {"a": 6},
    ),
    Placed(
        "noise after a residual add",
        lambda: Net(lambda m, x: m.head(m.n(m.a(x) + m.b(x))), a=conv(3, 6), b=conv(3, 6), n=noise(6), head=head(6)),
        IMAGE,
        {"a": 6},
    ),
    Placed(
        "noise on both branches of an add",
        lambda: Net(
            lambda m, x: m.head(m.m(m.a(x)) + m.n(m.b(x))),
            a=conv(3, 6),
            b=conv(3, 6),
            m=noise(6),
            n=noise(6),
            head=head(6),
        ),
        IMAGE,
        {"a": 6},
        False,
    ),
    Placed(
        "the product with a gate",
        lambda: Net(
            lambda m, x: m.head(m.n(m.a(x)) * torch.sigmoid(m.b(x))),
            a=conv(3, 6),
            b=conv(3, 6),
            n=noise(6),
            head=head(6),
        ),
        IMAGE,
        {"a": 6},
    ),
    Placed(
        "swish, written out",
        lambda: Net(lambda m, x: m.b((y := m.n(m.a(x))) * torch.sigmoid(y)), a=conv(3, 6), n=noise(6), b=conv(6, 2)),
        IMAGE,
        {"a": 6},
        False,
    ),
    Placed(
        "softsign, written out",
        lambda: Net(lambda m, x: m.b((y := m.n(m.a(x))) / (1 + y.abs())), a=conv(3, 6), n=noise(6), b=conv(6, 2)),
        IMAGE,
        {"a": 6},
        False,
    ),
    Placed(
        "noise before squeeze and excitation",
        lambda: Net(
            lambda m, x: m.head((y := m.n(m.a(x))) * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))),
            a=conv(3, 6),
            n=noise(6),
            down=conv(6, 4, 1),
            up=conv(4, 6, 1),
            head=head(6),
        ),
        IMAGE,
        {"a": 6},
    ),
    Placed(
        "two noises in a row",
        lambda: nn.Sequential(nn.Linear(5, 8), noise(8), nn.ReLU(), noise(8), nn.Linear(8, 3)),
        (4, 5),
        {"0": 8},
    ),
    Placed(
        "a concat of one part behind two noises and one behind one of them",
        lambda: Net(
            lambda m, x: m.head(torch.cat([m.m(y := m.n(m.a(x))), y], 1)),
            a=conv(3, 6),
            m=noise(6),
            n=noise(6),
            head=head(12),
        ),
        IMAGE,
        {"a": 6},
        False,
    ),
    Placed(
        "a concat of what is behind noise and what is not, noise behind it",
        lambda: Net(
            lambda m, x: m.head(m.m(torch.cat([m.n(y := m.a(x)), y], 1))),
            a=conv(3, 6),
            n=noise(6),
            m=noise(12),
            head=head(12),
        ),
        IMAGE,
        {"a": 6},
        False,
    ),
    Placed(
        "halves that are squashed in place, through views",
        lambda: Net(_squash, a=conv(3, 6), n=noise(6), b=conv(6, 2)),
        IMAGE,
        {"a": 6},
        False,
    ),
]
REFUSED = {
    "on one side of a residual add": (
        lambda: Net(
            lambda m, x: m.c((y := m.a(x)) + m.n(m.b(y))), a=conv(3, 6), b=conv(6, 6), n=noise(6), c=conv(6, 2)
        ),
        r'"[bc]" reads them, but ',
    ),
    "the input is added": (
        lambda: Net(lambda m, x: m.c(m.n(m.a(x)) + x[:, :1]), a=conv(3, 6), n=noise(6), c=conv(6, 2)),
        r'"c" reads them, but add in the network lets a dropped one change with the input',
    ),
    "a constant times a gate": (
        lambda: Net(
            lambda m, x: m.c(torch.sigmoid(m.n(m.a(x))) * m.b(x)), a=conv(3, 6), n=noise(6), b=conv(3, 6), c=conv(6, 2)
        ),
        r'"c" reads them, but mul in the network lets a dropped one change with the input',
    ),
    "a gate for all channels is added": (
        lambda: Net(
            lambda m, x: m.c(m.n(m.a(x)) + m.k(m.b(x))[:, :1]),
            a=conv(3, 6),
            n=noise(6),
            b=conv(3, 2),
            k=noise(2),
            c=conv(6, 2),
        ),
        r'"c" reads them, but add in the network lets a dropped one change with the input',
    ),
    "a depthwise convolution pads a constant with zeros": (
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.Sigmoid(), conv(6, 6, groups=6), conv(6, 2)),
        r'"4" reads them, but convolution in 3 lets a dropped one change with the input',
    ),
    "an average pads a constant with zeros": (
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.Sigmoid(), nn.AvgPool2d(3, padding=1), conv(6, 2)),
        r'"4" reads them, but avg_pool2d in 3',
    ),
    "a sum over positions": (
        lambda: Net(
            lambda m, x: m.c(torch.sigmoid(m.n(m.a(x))).sum((2, 3))), a=conv(3, 6), n=noise(6), c=nn.Linear(6, 2)
        ),
        r'"c" reads them, but sum in the network',
    ),
    "padding with a constant": (
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.ConstantPad2d(1, 0.5), conv(6, 2)),
        r'"3" reads them, but a dropped one is not the same number at every position',
    ),
    "a constant for each position": (
        lambda: Net(lambda m, x: m.c(m.n(m.a(x)) + torch.arange(8.0).to(x)), a=conv(3, 6), n=noise(6), c=conv(6, 2)),
        r'"c" reads them, but a dropped one is not the same number at every position',
    ),
    "one layer reads two constants": (
        lambda: Net(
            lambda m, x: m.c(torch.sigmoid(y := m.n(m.a(x)))) + m.c(torch.cos(y)),
            a=conv(3, 6),
            n=noise(6),
            c=conv(6, 2),
        ),
        r'"c" reads them as other constants in each call',
    ),
    "overwritten with the input": (
        lambda: Net(_overwrite, a=conv(3, 6), b=conv(3, 6), n=noise(6), c=conv(6, 2)),
        r'"c" reads them, but ',
    ),
    "a view of zeros that were written over": (
        lambda: Net(_write_over, a=conv(3, 6), n=noise(6), c=conv(6, 2)),
        r'"c" reads them, but add in the network lets a dropped one change with the input',
    ),
    "one noise called twice": (
        lambda: Net(lambda m, x: m.c(m.n(m.b(m.n(m.a(x))))), a=conv(3, 6), b=conv(6, 6), n=noise(6), c=conv(6, 2)),
        r'"n" is called twice',
    ),
    "a reader that bypasses the noise": (
        lambda: Net(lambda m, x: m.b(m.n(y := m.a(x))) + m.c(y), a=conv(3, 6), n=noise(6), b=conv(6, 2), c=conv(6, 2)),
        r'"c" reads them, but no noise stands before it',
    ),
    "one of two concatenated parts": (
        lambda: Net(lambda m, x: m.c(torch.cat([m.n(y := m.a(x)), y], 1)), a=conv(3, 6), n=noise(6), c=conv(12, 2)),
        r'"c" reads them, but no noise stands before it',
    ),
    "softmax over channels": (
        lambda: nn.Sequential(conv(3, 6), noise(6), nn.Softmax(1), conv(6, 2)),
        r"softmax in 2 mixes them",
    ),
    "the channels are returned": (
        lambda: nn.Sequential(conv(3, 6), nn.ReLU(), noise(6)),
        r"the network returns them",
    ),
}


def _write_over(m: Net, x: Tensor) -> Tensor:
    """The same number everywhere, but another one for other inputs."""
    zeros = x.new_zeros(1, 1, 1, 1)
    view = zeros.view(1, 1, 1)
    zeros.copy_(x.mean())
    return m.c(m.n(m.a(x)) + view)


def _overwrite(m: Net, x: Tensor) -> Tensor:
    """Through a view, which the shadow of the whole has to see."""
    y = torch.relu(m.n(m.a(x)))
    y[:, :, :2] = m.b(x)[:, :, :2]
    return m.c(y)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.name)
def test_removal_is_exact(case: Placed, seed: int) -> None:
    net, x = case.build(), case.inputs()
    drown_half(net, seed)
    plan = pruning.plan(net, x)
    assert {c.name: c.total for c in plan.spaces if c.reason is None} == case.prunable, str(plan)
    assert any(len(c.kept) < c.total for c in plan.spaces)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    assert_same(whole(case.inputs(2)), small(case.inputs(2)))
    assert_same(whole(x[:1]), small(x[:1]))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.name)
def test_eval_is_masked_where_the_plan_keeps_what_the_noise_keeps(case: Placed) -> None:
    net, x = case.build(), case.inputs()
    drown_half(net, 0)
    for layer in pruning.gates(net).values():  # the same units everywhere, so that all noises of a space agree
        layer.loc.data.copy_(torch.where(torch.arange(layer.num_features) % 2 == 0, -0.2, -10.0))
        layer.log_scale.data.copy_(torch.where(torch.arange(layer.num_features) % 2 == 0, -3.0, 2.0))
    assert_same(net(x), pruning.masked(net, pruning.plan(net, x))(x))


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.name)
def test_the_mean_folds_where_the_way_scales_and_stays_where_not(case: Placed) -> None:
    net, x = case.build(), case.inputs()
    drown_half(net, 0)
    small = pruning.shrink(net, pruning.plan(net, x), x)
    assert not any(isinstance(m, LogNormalNoise) for m in small.modules())
    assert any(isinstance(m, FixedScale) for m in small.modules()) != case.folds


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proved_is_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    torch.manual_seed(0)
    net, x = make().double().eval(), torch.randn(IMAGE, dtype=torch.float64)
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    refused = [c for c in plan.spaces if c.total == 6]
    assert refused
    assert all(len(c.kept) == c.total for c in refused)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(plan))
    assert_same(pruning.masked(net, plan)(x), pruning.shrink(net, plan, x)(x))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_noise_still_computes_what_eval_computes(name: str) -> None:
    torch.manual_seed(0)
    net, x = REFUSED[name][0]().double().eval(), torch.randn(IMAGE, dtype=torch.float64)
    drown_half(net, 0)
    assert_same(net(x), pruning.masked(net, pruning.plan(net, x))(x))


def test_random_numbers_are_no_constant() -> None:
    net = Net(lambda m, x: m.c(m.n(m.a(x)) + torch.rand(1)), a=conv(3, 6), n=noise(6), c=conv(6, 2)).double()
    (reason,) = [s.reason for s in pruning.analyse(net, torch.zeros(IMAGE).double()).spaces if s.name == "a"]
    assert reason == '"c" reads them, but add in the network lets a dropped one change with the input'


def test_attach_refuses_a_network_with_hand_placed_noise() -> None:
    with pytest.raises(ValueError, match=r"carries noise already \(1\)"):
        pruning.attach(nn.Sequential(nn.Linear(5, 8), noise(8), nn.Linear(8, 3)), torch.zeros(1, 5))


def test_hand_placed_noise_trains() -> None:
    net = EXACT[0].build().train()
    optimizer = torch.optim.Adam(pruning.param_groups(net, lr=1e-2))
    for _ in range(3):
        optimizer.zero_grad()
        (net(EXACT[0].inputs()).square().mean() + pruning.kl(net) / 100).backward()
        optimizer.step()
    assert pruning.gates(net)["1"].trained
