"""Conversion changes nothing that the network does, and can be taken back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dither
from dither import batchnorm
from dither.batchnorm import StochasticBatchNorm
from dither.training import LeNet5BatchNorm

SHAPES: dict[type[nn.Module], list[tuple[int, ...]]] = {
    nn.BatchNorm1d: [(8, 5), (6, 5, 7)],
    nn.BatchNorm2d: [(4, 5, 3, 6)],
    nn.BatchNorm3d: [(3, 5, 2, 4, 3)],
    nn.SyncBatchNorm: [(8, 5), (4, 5, 3, 6)],
}
LAZY = {nn.LazyBatchNorm1d: nn.BatchNorm1d, nn.LazyBatchNorm2d: nn.BatchNorm2d, nn.LazyBatchNorm3d: nn.BatchNorm3d}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"affine": False},
    {"track_running_stats": False},
    {"momentum": None},
    {"momentum": 0.3, "eps": 1e-2},
    {"affine": False, "track_running_stats": False},
]
VARIANTS = [(kind, shape, options) for kind in SHAPES for shape in SHAPES[kind] for options in OPTIONS]
IDS = [f"{kind.__name__}-{len(shape)}d-{i % len(OPTIONS)}" for i, (kind, shape, _) in enumerate(VARIANTS)]


def randomise(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
        for name, buffer in layer.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)


def outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Two training steps' outputs and gradients, then eval outputs and gradients, then everything that is stored."""
    found: list[Tensor] = []
    for training in (True, True, False):
        net.train(training)
        given = x.clone().requires_grad_()
        y = net(given)
        net.zero_grad()
        (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
        found += [y.detach(), given.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
    return [*found, *(t.clone() for t in net.state_dict().values())]


def assert_bitwise(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("kind", "shape", "options"), VARIANTS, ids=IDS)
def test_every_variant_bit_for_bit(kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    layer = kind(shape[1], **options)
    randomise(layer)
    converted = batchnorm.convert(layer)
    assert isinstance(converted, StochasticBatchNorm)
    assert isinstance(converted, kind)
    assert not isinstance(layer, StochasticBatchNorm)
    x = torch.randn(shape) * 3 + 2
    assert_bitwise(outputs(copy.deepcopy(layer), x), outputs(converted, x))


@pytest.mark.parametrize(("kind", "shape", "options"), VARIANTS, ids=IDS)
def test_every_variant_is_given_back(kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    layer = kind(shape[1], **options)
    randomise(layer)
    back = batchnorm.revert(batchnorm.convert(layer))
    assert type(back) is kind
    assert str(back) == str(layer)
    assert vars(back).keys() == vars(layer).keys()
    assert not back._forward_pre_hooks
    x = torch.randn(shape)
    assert_bitwise(outputs(layer, x), outputs(back, x))


@pytest.mark.parametrize("kind", list(LAZY), ids=[kind.__name__ for kind in LAZY])
def test_lazy_layers_become_stochastic(kind: type[nn.Module]) -> None:
    plain = LAZY[kind]
    shape = SHAPES[plain][-1]
    lazy = batchnorm.convert(nn.Sequential(kind()))
    x = torch.randn(shape)
    reference = nn.Sequential(plain(shape[1]))
    assert torch.equal(lazy(x), reference(x))
    assert isinstance(lazy[0], StochasticBatchNorm)
    assert lazy[0].original is plain
    batchnorm.fit(lazy.eval(), [torch.randn(shape) for _ in range(4)])
    with dither.sampling(lazy):
        assert not torch.equal(lazy(x), lazy(x))
    assert type(batchnorm.revert(lazy)[0]) is plain


def test_a_lazy_network_can_be_reverted_before_its_first_pass() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    back = batchnorm.revert(batchnorm.convert(model))
    assert type(back[1]) is nn.LazyBatchNorm2d
    back(torch.randn(2, 3, 5, 5))
    assert type(back[1]) is nn.BatchNorm2d


class Shared(nn.Module):
    """One BatchNorm layer in two places, called twice in a pass, in a nested module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.second = nn.ModuleDict({"inner": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), self.first[1])})

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.second["inner"](x).mean((2, 3))


@pytest.mark.parametrize("make", [LeNet5BatchNorm, Shared], ids=["lenet5", "shared"])
def test_networks_bit_for_bit(make: Callable[[], nn.Module]) -> None:
    model = make()
    x = torch.randn(4, 1, 28, 28) if make is LeNet5BatchNorm else torch.randn(4, 3, 6, 6)
    net = batchnorm.convert(model)
    assert list(net.state_dict()) == list(model.state_dict())
    reference = outputs(copy.deepcopy(model), x)
    assert_bitwise(reference, outputs(net, x))
    assert_bitwise(reference, outputs(batchnorm.revert(batchnorm.convert(model)), x))


def test_a_shared_layer_stays_shared() -> None:
    net = batchnorm.convert(Shared())
    assert net.first[1] is net.second["inner"][1]
    assert list(net.first[1].source.layers) == ["first.1"]
    back = batchnorm.revert(net)
    assert back.first[1] is back.second["inner"][1]
    assert type(back.first[1]) is nn.BatchNorm2d


def test_a_shared_layer_has_a_law_for_each_call() -> None:
    net = batchnorm.convert(Shared()).eval()
    batchnorm.fit(net, [torch.randn(8, 3, 6, 6) + 2 for _ in range(6)])
    statistics = net.first[1].statistics
    assert statistics.loc_mean.shape == (2, 4)
    assert not torch.allclose(statistics.loc_mean[0], statistics.loc_mean[1], atol=1e-3)
    with dither.sampling(net):
        assert torch.isfinite(net(torch.randn(2, 3, 6, 6))).all()


@pytest.mark.parametrize("layers", [["bn1", "bn3"], ("bn2",), "bn1"], ids=str)
def test_only_the_named_layers(layers: Any) -> None:
    net = batchnorm.convert(LeNet5BatchNorm(), layers=layers)
    converted = [name for name, m in net.named_modules() if isinstance(m, StochasticBatchNorm)]
    assert converted == ([layers] if isinstance(layers, str) else list(layers))


def test_a_container_names_what_is_in_it() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(4, 4), nn.BatchNorm1d(4))
    net = batchnorm.convert(model, layers=["0"])
    assert [isinstance(m, StochasticBatchNorm) for m in (net[0][1], net[2])] == [True, False]


def test_a_subclass_keeps_what_it_does_beside() -> None:
    class NormAct(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).relu()

    model = nn.Sequential(NormAct(3)).eval()
    net = batchnorm.convert(model)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(net(x), model(x))
    batchnorm.fit(net, [torch.randn(8, 3, 4, 4) for _ in range(4)])
    with dither.sampling(net):
        first, second = net(x), net(x)
    assert not torch.equal(first, second)
    assert (first >= 0).all()
    assert not net[0].source.foldable
    assert (dither.predict(net, x, 4, link=nn.Identity()).probs >= 0).all()
    batchnorm.fit(net, [torch.randn(8, 3, 4, 4) for _ in range(4)], law=batchnorm.Cached())
    with pytest.raises(RuntimeError, match="'0' is a NormAct with a forward of its own"):
        dither.predict(net, x, 4, link=nn.Identity())


def test_a_fitted_network_survives_copies_and_state_dicts() -> None:
    net = batchnorm.convert(LeNet5BatchNorm()).eval()
    batchnorm.fit(net, [torch.rand(8, 1, 28, 28) for _ in range(5)], records=5)
    x = torch.rand(2, 1, 28, 28)

    def drawn(other: nn.Module) -> Tensor:
        with dither.sampling(other), torch.random.fork_rng():
            torch.manual_seed(3)
            return other(x)

    loaded = batchnorm.convert(LeNet5BatchNorm()).eval()
    missing = loaded.load_state_dict(net.state_dict())
    assert not missing.missing_keys
    assert not missing.unexpected_keys
    copied = copy.deepcopy(net)
    assert copied.bn1.source is copied.bn3.source
    assert copied.bn1.source is not net.bn1.source
    assert torch.equal(drawn(loaded), drawn(net))
    assert torch.equal(drawn(copied), drawn(net))
    assert not torch.equal(drawn(net), net(x))
    back = batchnorm.revert(net)
    assert list(back.state_dict()) == list(LeNet5BatchNorm().state_dict())


def test_running_statistics_are_not_touched_by_sampling() -> None:
    net = batchnorm.convert(LeNet5BatchNorm()).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    batchnorm.fit(net, [torch.rand(8, 1, 28, 28) for _ in range(3)])
    with dither.sampling(net):
        net(torch.rand(2, 1, 28, 28))
    for name, value in before.items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_training_wins_over_sampling() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    net = batchnorm.convert(model).train()
    x = torch.randn(8, 3)
    with dither.sampling(net):
        assert torch.equal(net(x), model.train()(x))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="has no BatchNorm layer"):
        batchnorm.convert(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="has no BatchNorm layer"):
        batchnorm.convert(nn.Sequential(nn.InstanceNorm2d(3), nn.GroupNorm(1, 3)))
    model = LeNet5BatchNorm()
    with pytest.raises(ValueError, match=r"no module 'bn9'; the BatchNorm layers are bn1, bn2, bn3"):
        batchnorm.convert(model, layers=["bn9"])
    with pytest.raises(ValueError, match="'fc1' has no BatchNorm"):
        batchnorm.convert(model, layers=["fc1"])
    with pytest.raises(ValueError, match="names no module"):
        batchnorm.convert(model, layers=[])
    net = batchnorm.convert(model)
    with pytest.raises(ValueError, match="converted already"):
        batchnorm.convert(net)
    with pytest.raises(ValueError, match="nothing to revert"):
        batchnorm.revert(model)
    with pytest.raises(ValueError, match="convert"):
        batchnorm.set_law(model, batchnorm.Factorized())
    with pytest.raises(TypeError, match="Factorized"):
        batchnorm.set_law(net, batchnorm.Factorized)  # pyright: ignore[reportArgumentType]
    with dither.sampling(net.eval()), pytest.raises(RuntimeError, match=r"batchnorm\.fit"):
        net(torch.rand(2, 1, 28, 28))
    with pytest.raises(RuntimeError, match=r"batchnorm\.fit"):
        dither.predict(net, torch.rand(2, 1, 28, 28), 2)


@pytest.mark.slow
def test_compiled_and_exported() -> None:
    model = LeNet5BatchNorm().eval()
    net = batchnorm.convert(model)
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), model(x))
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    batchnorm.fit(net, [torch.rand(8, 1, 28, 28) for _ in range(4)])
    with torch.no_grad(), dither.sampling(net):
        assert not torch.equal(compiled(x), compiled(x))
