"""Noise before BatchNorm or a bias: a dropped channel is a constant, and what readers make of it is not lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import pruning
from dither.pruning import LogNormalNoise
from tests.cases import IMAGE, Net, conv, head
from tests.pruning.test_cases import assert_same

DROPPED = (1, 2, 5)  # of the six channels in every case


@dataclass(frozen=True)
class Constant:
    name: str
    make: Callable[[], nn.Module]
    widths: dict[str, int]  # of every space behind noise, after shrinking: 3 of 6, and one more where it carries
    shape: tuple[int, ...] = IMAGE

    def __str__(self) -> str:
        return self.name

    def inputs(self, seed: int = 1) -> Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def build(self, seed: int = 0) -> nn.Module:
        """Random weights and statistics, and noise that drowns the same half of every layer."""
        torch.manual_seed(seed)
        net = self.make().double().eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, -2.0, 2.0)
                module.bias.data += torch.randn(module.num_features)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        for layer in pruning.gates(net).values():
            drop = torch.isin(torch.arange(layer.num_features) % 6, torch.tensor(DROPPED))
            layer.loc.data = torch.where(drop, -10.0, -0.3 * torch.rand(layer.num_features)).double()
            layer.log_scale.data = torch.where(drop, 2.0, -3.0).double()
        return net


def noise(size: int = 6, **options: int) -> LogNormalNoise:
    return LogNormalNoise(size, **options)


def block(c_in: int, c_out: int) -> list[nn.Module]:
    """Of the authors' VGG: the noise stands before BatchNorm."""
    return [conv(c_in, c_out), noise(c_out), nn.BatchNorm2d(c_out), nn.ReLU()]


def lifted(bias: float = 1.0) -> nn.BatchNorm2d:
    """BatchNorm whose constants are far from zero."""
    norm = nn.BatchNorm2d(6)
    nn.init.constant_(norm.bias, bias)
    return norm


def _shared() -> nn.Module:
    net = Net(
        lambda m, x: m.c(m.bn(m.n(m.a(x)))) + m.d(x),
        a=conv(3, 6),
        n=noise(),
        bn=nn.BatchNorm2d(6),
        c=nn.Conv2d(6, 2, 3),
        d=nn.Conv2d(3, 2, 3),
    )
    net.d.bias = net.c.bias
    return net


def _in_place(m: Net, x: Tensor) -> Tensor:
    y = torch.sigmoid(m.n(m.a(x)))
    top = y[:, :, :4]
    top += 1.0  # half of the positions: not the same number everywhere, until the other half gets it too
    y[:, :, 4:].add_(1.0)
    return m.c(y.relu_())


CASES = [
    Constant(
        "the authors' VGG",
        lambda: nn.Sequential(
            *block(3, 6),
            *block(6, 6),
            nn.MaxPool2d(2),
            *block(6, 6),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 6),
            noise(),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Linear(6, 3),
        ),
        {"0": 4, "4": 4, "9": 3, "15": 3},
    ),
    Constant(
        "a reader that pads",
        lambda: nn.Sequential(conv(3, 6), noise(), nn.BatchNorm2d(6), nn.Sigmoid(), conv(6, 2)),
        {"0": 4},
    ),
    Constant(
        "a reader that does not pad",
        lambda: nn.Sequential(conv(3, 6), noise(), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Conv2d(6, 2, 3)),
        {"0": 3},
    ),
    Constant(
        "a reader without a bias",
        lambda: nn.Sequential(conv(3, 6), noise(), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3, bias=False)),
        {"0": 3},
    ),
    Constant(
        "a reader without a bias whose own channels go too",
        lambda: nn.Sequential(*block(3, 6)[:3], nn.Conv2d(6, 6, 3, bias=False), noise(), nn.ReLU(), nn.Conv2d(6, 2, 1)),
        {"0": 3, "3": 3},
    ),
    Constant(
        "a reader that pads with what is beside it",
        lambda: nn.Sequential(
            conv(3, 6), noise(), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3, padding=1, padding_mode="replicate")
        ),
        {"0": 3},
    ),
    Constant(
        "a transposed convolution reads",
        lambda: nn.Sequential(conv(3, 6), noise(), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 2, 3)),
        {"0": 4},
    ),
    Constant(
        "linear",
        lambda: nn.Sequential(nn.Linear(5, 6), noise(), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3, bias=False)),
        {"0": 3},
        (4, 5),
    ),
    Constant(
        "over positions, a constant is added",
        lambda: Net(
            lambda m, x: m.c(F.gelu(m.n(m.a(x)) + m.shift)),
            a=nn.Linear(5, 6),
            n=noise(dim=-1),
            shift=nn.Parameter(torch.randn(6)),
            c=nn.Linear(6, 3),
        ),
        {"a": 3},
        (2, 7, 5),
    ),
    Constant(
        "one dimension",
        lambda: nn.Sequential(nn.Conv1d(2, 6, 3), noise(), nn.BatchNorm1d(6), nn.Conv1d(6, 3, 2)),
        {"0": 3},
        (2, 2, 12),
    ),
    Constant(
        "sigmoid, cos and a number",
        lambda: Net(lambda m, x: m.c((torch.sigmoid(m.n(m.a(x))) + 1.0).cos()), a=conv(3, 6), n=noise(), c=conv(6, 2)),
        {"a": 4},
    ),
    Constant(
        "ones of the same shape",
        lambda: Net(lambda m, x: m.c((y := m.n(m.a(x))) + torch.ones_like(y)), a=conv(3, 6), n=noise(), c=conv(6, 2)),
        {"a": 4},
    ),
    Constant(
        "depthwise with a bias, before a reader that pads",
        lambda: nn.Sequential(conv(3, 6), noise(), conv(6, 6, groups=6), nn.ReLU6(), conv(6, 2)),
        {"0": 4},
    ),
    Constant(
        "depthwise without padding, twice as many filters",
        lambda: nn.Sequential(
            conv(3, 6), noise(), lifted(), nn.Conv2d(6, 12, 3, groups=6), nn.BatchNorm2d(12), nn.Conv2d(12, 2, 1)
        ),
        {"0": 3},
    ),
    Constant(
        "flattened: a constant for each of many columns",
        lambda: nn.Sequential(conv(3, 6), noise(), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 3)),
        {"0": 3},
    ),
    Constant(
        "two readers, one pads",
        lambda: Net(
            lambda m, x: m.b(y := m.bn(m.n(m.a(x))))[:, :, 1:-1, 1:-1] + m.c(torch.sigmoid(y)),
            a=conv(3, 6),
            n=noise(),
            bn=nn.BatchNorm2d(6),
            b=conv(6, 2),
            c=nn.Conv2d(6, 2, 3),
        ),
        {"a": 4},
    ),
    Constant(
        "two readers that no one channel can serve",
        lambda: Net(
            lambda m, x: m.b(F.relu(y := m.n(m.a(x)) + m.shift)) + m.c(F.relu(-y)),
            a=conv(3, 6),
            n=noise(),
            shift=nn.Parameter(torch.tensor([1.0, 1, -1, 1, -1, 1]).view(6, 1, 1)),
            b=conv(6, 2),
            c=conv(6, 2),
        ),
        {"a": 5},
    ),
    Constant(
        "readers that get zeros need nothing",
        lambda: nn.Sequential(conv(3, 6), noise(), lifted(-30.0), nn.ReLU(), conv(6, 2)),
        {"0": 3},
    ),
    Constant(
        "concatenated with channels that have no noise",
        lambda: Net(
            lambda m, x: m.c(torch.cat([m.bn(m.n(m.a(x))), m.b(x)], 1)),
            a=conv(3, 6),
            n=noise(),
            bn=nn.BatchNorm2d(6),
            b=conv(3, 4),
            c=conv(10, 2),
        ),
        {"a": 4},
    ),
    Constant(
        "concatenated with channels that have other noise",
        lambda: Net(
            lambda m, x: m.c(m.bn(torch.cat([m.m(m.a(x)), m.n(m.b(x))], 1))),
            a=conv(3, 6),
            b=conv(3, 6),
            m=noise(),
            n=noise(),
            bn=nn.BatchNorm2d(12),
            c=nn.Conv2d(12, 2, 3, bias=False),
        ),
        {"a": 3, "b": 3},
    ),
    Constant(
        "noise on both sides of a residual add, BatchNorm on one",
        lambda: Net(
            lambda m, x: m.c(F.relu(m.m(m.a(x)) + m.bn(m.n(m.b(x))))),
            a=conv(3, 6),
            b=conv(3, 6),
            m=noise(),
            n=noise(),
            bn=lifted(9.0),
            c=conv(6, 2),
        ),
        {"a": 4},
    ),
    Constant(
        "a constant times zero",
        lambda: Net(
            lambda m, x: m.head(F.relu(m.bn(m.n(m.a(x)))) * torch.sigmoid(m.b(x))),
            a=conv(3, 6),
            b=conv(3, 6),
            n=noise(),
            bn=lifted(-30.0),
            head=head(6),
        ),
        {"a": 3},
    ),
    Constant(
        "one layer twice",
        lambda: Net(
            lambda m, x: m.c(y := m.bn(m.n(m.a(x)))) + m.c(y.flip(-1)).flip(-1),
            a=conv(3, 6),
            n=noise(),
            bn=nn.BatchNorm2d(6),
            c=nn.Conv2d(6, 2, 3, bias=False),
        ),
        {"a": 3},
    ),
    Constant(
        "a bias that two layers share",
        _shared,
        {"a": 4},
    ),
    Constant(
        "weights without a layer",
        lambda: Net(
            lambda m, x: F.conv2d(m.bn(m.n(m.a(x))), m.w),
            a=conv(3, 6),
            n=noise(),
            bn=nn.BatchNorm2d(6),
            w=nn.Parameter(torch.randn(2, 6, 3, 3)),
        ),
        {"a": 4},
    ),
    Constant(
        "written into a tensor in place",
        lambda: Net(_in_place, a=conv(3, 6), n=noise(), c=conv(6, 2)),
        {"a": 4},
    ),
    Constant(
        "InstanceNorm, upsampling, averages",
        lambda: nn.Sequential(
            conv(3, 6),
            noise(),
            nn.InstanceNorm2d(6, affine=True),
            nn.Softplus(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.AvgPool2d(2),
            conv(6, 2),
        ),
        {"0": 4},
    ),
]


def width(net: nn.Module, layer: str) -> int:
    return len(net.get_submodule(layer).weight)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_removal_is_exact(case: Constant) -> None:
    net, x = case.build(), case.inputs()
    plan = pruning.plan(net, x)
    assert {c.name: len(c.kept) for c in plan.spaces if c.reason is None} == dict.fromkeys(case.widths, 3), str(plan)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    assert {name: width(small, name) for name in case.widths} == case.widths
    assert_same(whole(case.inputs(2)), small(case.inputs(2)))
    assert_same(whole(x[:1]), small(x[:1]))
    assert_same(net(x), small(x))


@pytest.mark.parametrize("case", [c for c in CASES if len(c.shape) == 4 and "flattened" not in c.name], ids=str)
def test_it_is_exact_at_other_sizes(case: Constant) -> None:
    net, x = case.build(), case.inputs()
    plan = pruning.plan(net, x)
    other = torch.randn(3, 3, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert_same(pruning.masked(net, plan)(other), pruning.shrink(net, plan, x)(other))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_fresh_class_computes_the_same_after_loading(case: Constant, tmp_path: Path) -> None:
    net, x = case.build(), case.inputs()
    small = pruning.shrink(net, pruning.plan(net, x), x)
    dither.save(small, tmp_path / "net.safetensors")
    again = dither.load(case.build(seed=7), tmp_path / "net.safetensors").eval()
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)


def test_the_constants_are_those_of_the_formula() -> None:
    """relu(β - γ m / sqrt(v + ε)) behind BatchNorm, times the sum of the kernel, in the bias."""
    net = nn.Sequential(nn.Conv2d(3, 6, 1), noise(), lifted(), nn.ReLU(), nn.Conv2d(6, 2, 3)).double().eval()
    norm, reader = net[2], net[4]
    nn.init.normal_(norm.running_mean)
    with torch.no_grad():
        net[1].log_scale[list(DROPPED)] = 3.0
        constant = (norm.bias - norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()).relu()
        expected = reader.bias + sum(reader.weight[:, i].sum((1, 2)) * constant[i] for i in DROPPED)
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    small = pruning.shrink(net, pruning.plan(net, x), x)
    torch.testing.assert_close(small[4].bias, expected)


def test_a_carrier_takes_what_all_dropped_channels_gave() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), noise(), lifted(), conv(6, 2)).double().eval()
    with torch.no_grad():
        net[1].log_scale[list(DROPPED)] = 3.0
        net[2].bias.copy_(torch.tensor([1.0, 2.0, -4.0, 1.0, 1.0, 3.0]))
    x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    small = pruning.shrink(net, pruning.plan(net, x), x)
    weight = net[3].weight
    merged = (2 * weight[:, 1] - 4 * weight[:, 2] + 3 * weight[:, 5]) / -4  # channel 2 is the strongest
    torch.testing.assert_close(small[3].weight[:, 1], merged)  # and the second of 0, 2, 3, 4
    torch.testing.assert_close(small[2].bias, net[2].bias[[0, 2, 3, 4]])
    assert small[1].scale.tolist()[1] == 0


def test_the_user_network_keeps_its_weights_and_gets_no_bias() -> None:
    case = next(c for c in CASES if c.name == "a reader without a bias")
    net = case.build()
    before = copy.deepcopy(net.state_dict())
    small = pruning.shrink(net, pruning.plan(net, case.inputs()), case.inputs())
    assert net[3].bias is None
    assert small[3].bias is not None
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_a_frozen_reader_gets_a_frozen_bias() -> None:
    case = next(c for c in CASES if c.name == "a reader without a bias")
    net = case.build()
    net[3].requires_grad_(False)
    small = pruning.shrink(net, pruning.plan(net, case.inputs()), case.inputs())
    assert not small[3].bias.requires_grad


def test_single_precision() -> None:
    case = CASES[0]
    net, x = case.build().float(), case.inputs().float()
    plan = pruning.plan(net, x)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert_same(whole(case.inputs(2).float()), small(case.inputs(2).float()))


def test_while_training_goes_on_such_channels_stay() -> None:
    """Their constants change with BatchNorm; the others go, and the end is the same."""
    net = Constant(
        "", lambda: nn.Sequential(*block(3, 6), conv(6, 6), nn.ReLU(), noise(), nn.Conv2d(6, 2, 3)), {}
    ).build()
    x = CASES[0].inputs()
    plan = pruning.plan(net, x)
    optimizer = torch.optim.Adam(net.parameters())
    training, _ = pruning.shrink(net, plan, x, optimizer=optimizer)
    assert [width(training, name) for name in ("0", "4")] == [6, 3]
    small = pruning.shrink(training, pruning.plan(training, x), x)
    assert [width(small, name) for name in ("0", "4")] == [4, 3]
    assert_same(pruning.masked(net, plan)(x), small(x))
