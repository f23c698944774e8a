"""freeze: what it answers, that it answers it again, and that an exported graph does too."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import dither
from dither import batchnorm
from dither.batchnorm._freeze import FrozenNet, FrozenNorm
from dither.batchnorm._once import in_turn
from dither.training import LeNet5BatchNorm

SAMPLES = 6
DOCS = Path(__file__).parents[2] / "docs"
# torch 2.13 uses a deprecated class of its own when it copies an exported program.
torch_is_deprecated = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


class Net(nn.Module):
    """Layers by name and the forward pass as a method of a subclass."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class Block(Net):
    def __init__(self, width: int) -> None:
        conv = [nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)]
        super().__init__(conv1=conv[0], bn1=nn.BatchNorm2d(width), conv2=conv[1], bn2=nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Tanh(nn.BatchNorm1d):
    """More than BatchNorm."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).tanh()


class Shared(Net):
    """One layer in two places of the pass, under two names."""

    def __init__(self) -> None:
        bn = nn.BatchNorm1d(4)
        super().__init__(a=nn.Linear(3, 4), bn=bn, b=nn.Linear(4, 4), again=bn, c=nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.again(self.b(F.relu(self.bn(self.a(x))))))


class WritesIntoShared(Net):
    """vmap refuses: what the samples share is written into."""

    def __init__(self) -> None:
        super().__init__(a=nn.Linear(3, 4), bn=nn.BatchNorm1d(4), c=nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = F.elu(self.a(x), inplace=True)
        shared = x * 2
        shared += self.bn(x)
        return self.c(shared)


class Named(Net):
    def __init__(self) -> None:
        super().__init__(a=nn.Linear(3, 4), bn=nn.BatchNorm1d(4, affine=False, track_running_stats=False))
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor, *, twice: bool = False) -> dict[str, Tensor]:
        return {"logits": self.c(self.bn(self.a(x))) * scale * (2 if twice else 1)}


def residual() -> nn.Sequential:
    first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
    return nn.Sequential(*first, Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def one_dimensional() -> nn.Sequential:
    first = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.MaxPool1d(2), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*first, nn.Linear(30, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


def own_forward() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), Tanh(4), nn.Linear(4, 2))


CASES: dict[str, tuple[Any, tuple[int, ...], list[str] | None]] = {
    "lenet": (LeNet5BatchNorm, (1, 28, 28), None),
    "residual, late": (residual, (3, 8, 8), ["4"]),
    "1-D": (one_dimensional, (2, 12), None),
    "own forward": (own_forward, (3,), None),
    "shared": (Shared, (3,), None),
    "in place": (WritesIntoShared, (3,), None),
    "only BatchNorm": (lambda: nn.BatchNorm1d(3), (3,), None),
}
EXPORTED = ["lenet", "residual, late", "1-D", "own forward", "shared", "in place"]


def fitted(name: str) -> tuple[nn.Module, Tensor]:
    """A network of the table, fitted, and some inputs."""
    make, shape, layers = CASES[name]
    model = make()
    for parameter in model.parameters():  # weight and bias of BatchNorm too
        parameter.data += 0.3 * torch.randn_like(parameter)
    net = batchnorm.convert(model.eval(), layers)
    batchnorm.fit(net, [torch.randn(8, *shape) for _ in range(24)])
    return net, torch.randn(5, *shape)


def by_hand(bank: nn.Module, x: Tensor, num_samples: int) -> list[np.ndarray]:
    """The stored statistics of one sample after the other as running statistics of the plain network; scipy."""
    probs: list[np.ndarray] = []
    for s in range(num_samples):
        plain = batchnorm.revert(bank).double().eval()
        for name, layer in bank.named_modules():
            if isinstance(layer, batchnorm.StochasticBatchNorm):
                assert layer.statistics is not None
                target = plain.get_submodule(name)
                target.running_mean = layer.statistics.records_mean[s, 0].double()
                target.running_var = layer.statistics.records_log_var[s, 0].double().exp()
        with torch.no_grad():
            probs.append(plain(x.double().clone()).softmax(1).numpy())
    mean = np.mean(probs, 0)
    entropy = scipy.stats.entropy(mean, axis=1)
    return [mean, entropy, entropy - np.mean([scipy.stats.entropy(p, axis=1) for p in probs], 0)]


def assert_same(found: Any, expected: Any, atol: float = 1e-5) -> None:
    assert len(found) == 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=0, check_dtype=False)


@pytest.mark.parametrize("name", CASES)
def test_it_answers_what_predict_answers(name: str) -> None:
    net, x = fitted(name)
    bank = batchnorm.bank(net, SAMPLES)
    frozen = batchnorm.freeze(bank, SAMPLES)
    prediction = dither.predict(bank, x.clone(), SAMPLES)
    assert float(prediction.mutual_information.min()) > 1e-6  # the samples do differ
    with torch.no_grad():
        assert_same(frozen(x.clone()), (prediction.mean, prediction.entropy, prediction.mutual_information))
    assert frozen.folded == (name != "in place")


@pytest.mark.parametrize("name", [name for name in CASES if name != "shared"])
def test_it_answers_what_single_passes_give(name: str) -> None:
    net, x = fitted(name)
    bank = batchnorm.bank(net, SAMPLES)
    with torch.no_grad():
        assert_same(batchnorm.freeze(bank, 4)(x.clone()), by_hand(bank, x, 4))


@pytest.mark.parametrize("name", CASES)
def test_one_sample_after_the_other_gives_the_same(name: str) -> None:
    net, x = fitted(name)
    frozen = batchnorm.freeze(net, SAMPLES)
    with torch.no_grad():
        expected = frozen(x.clone())
        frozen.folded = False
        assert_same(frozen(x.clone()), expected, 1e-6)
        with torch.inference_mode():
            assert_same(frozen(x.clone()), expected, 1e-6)


def test_draws_are_those_of_a_bank() -> None:
    net, x = fitted("1-D")
    batchnorm.set_law(net, batchnorm.Factorized())
    bank = batchnorm.bank(net, SAMPLES, generator=torch.Generator().manual_seed(3))
    frozen = batchnorm.freeze(net, SAMPLES, generator=torch.Generator().manual_seed(3))
    other = batchnorm.freeze(net, SAMPLES, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert_same(frozen(x), batchnorm.freeze(bank, SAMPLES)(x), 0)
        assert not torch.allclose(frozen(x)[0], other(x)[0], atol=1e-4)


def test_other_inputs_and_outputs() -> None:
    model = Named()
    x, scale = torch.randn(5, 3), torch.rand(5, 1)
    net = batchnorm.convert(model)
    batchnorm.fit(net, [((torch.randn(8, 3), torch.ones(8, 1)), None) for _ in range(20)])
    bank = batchnorm.bank(net, SAMPLES).eval()
    expected = dither.predict(bank, {"x": x, "scale": scale, "twice": True}, SAMPLES)
    wanted = expected.mean, expected.entropy, expected.mutual_information
    with torch.no_grad():
        assert_same(batchnorm.freeze(bank, SAMPLES)(x, scale, twice=True), wanted, 1e-6)
        own = batchnorm.freeze(bank, SAMPLES, link=lambda out: (2 * out["logits"]).softmax(1))
        assert_same(own(x, scale), wanted, 1e-6)


def test_a_wrapped_network_and_one_for_images_of_classes() -> None:
    inner = batchnorm.convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)).eval())
    batchnorm.fit(inner, [torch.randn(4, 3, 6, 6) for _ in range(20)])
    bank, x = batchnorm.bank(nn.Sequential(nn.Identity(), inner), SAMPLES).eval(), torch.randn(2, 3, 6, 6)
    expected = dither.predict(bank, x, SAMPLES)
    found = batchnorm.freeze(bank, SAMPLES)(x)
    assert found[0].shape == (2, 3, 6, 6)
    assert found[1].shape == found[2].shape == (2, 6, 6)
    assert_same(found, (expected.mean, expected.entropy, expected.mutual_information), 1e-6)


def test_hooks_of_a_layer_are_kept() -> None:
    model = own_forward()
    model[1] = nn.BatchNorm1d(4)
    model[1].register_forward_hook(lambda module, args, out: out.sin())
    net = batchnorm.convert(model.eval())
    batchnorm.fit(net, [torch.randn(8, 3) for _ in range(20)])
    bank, x = batchnorm.bank(net, SAMPLES), torch.randn(5, 3)
    expected = dither.predict(bank, x, SAMPLES)
    found = batchnorm.freeze(bank, SAMPLES)(x)
    assert_same(found, (expected.mean, expected.entropy, expected.mutual_information), 1e-6)


def test_it_is_plain_and_the_net_is_left_alone() -> None:
    net, x = fitted("lenet")
    before = {name: t.clone() for name, t in net.state_dict().items()}
    net.train()
    frozen = batchnorm.freeze(net, SAMPLES)
    assert net.training
    assert not any(module.training for module in frozen.modules())
    assert not any(isinstance(m, dither.Stochastic) or m._forward_pre_hooks for m in frozen.modules())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    state = torch.get_rng_state()
    frozen(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert frozen.state_dict()["net.bn1.scale"].shape == (SAMPLES, 1, 20)


def test_copies_and_state_dict_hold_the_draws() -> None:
    net, x = fitted("1-D")
    frozen, other = batchnorm.freeze(net, SAMPLES), batchnorm.freeze(net, SAMPLES)
    with torch.no_grad():
        expected = frozen(x)
        assert_same(copy.deepcopy(frozen)(x), expected, 0)
        assert not torch.equal(other(x)[0], expected[0])
        other.load_state_dict(frozen.state_dict())
        assert_same(other(x), expected, 0)


def test_half_precision_and_double() -> None:
    net, x = fitted("1-D")
    bank = batchnorm.bank(net, SAMPLES)
    with torch.no_grad():
        wide = batchnorm.freeze(bank, SAMPLES).double()(x.double())
        narrow = batchnorm.freeze(bank, SAMPLES).bfloat16()(x.bfloat16())
    assert [t.dtype for t in wide] == [torch.float64] * 3
    assert [t.dtype for t in narrow] == [torch.float32] * 3  # the softmax is taken in float32
    assert_same(narrow, wide, 0.05)


def test_probabilities_of_zero_have_no_entropy() -> None:
    net, x = fitted("own forward")
    frozen = batchnorm.freeze(net, SAMPLES, link=lambda logits: (1e6 * logits).softmax(1))
    with torch.no_grad():
        mean, entropy, information = frozen(x)
    assert float(mean.min()) == 0
    assert all(bool(torch.isfinite(t).all()) for t in (mean, entropy, information))


class Rows(TorchDispatchMode):
    """Notes how many rows each call of an operator sees, below vmap."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator = operator
        self.seen: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.operator:
            self.seen.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("folded", [True, False])
def test_what_does_not_depend_on_the_draw_is_computed_once(folded: bool) -> None:
    net, x = fitted("residual, late")
    frozen = batchnorm.freeze(net, SAMPLES)
    frozen.folded = folded
    with Rows(torch.ops.aten.convolution.default) as rows:
        frozen(x)
    # The first one, both of the first block, and the first of the second block come before a draw.
    assert rows.seen == [5] * 4 + ([5 * SAMPLES] if folded else [5] * SAMPLES)


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_dynamic_batch(name: str) -> None:
    net, x = fitted(name)
    frozen = batchnorm.freeze(net, SAMPLES)
    program = torch.export.export(frozen, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    other = torch.cat([x, x.flip(0)])
    with torch.no_grad():
        for inputs in (other, other[:1]):
            assert_same(program.module()(inputs.clone()), frozen(inputs.clone()), 1e-6)
    if name == "residual, late":
        convolutions = [node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default]
        assert len(convolutions) == 4 + SAMPLES


def test_an_exported_program_survives_its_file(tmp_path: Path) -> None:
    net, x = fitted("1-D")
    frozen = batchnorm.freeze(net, SAMPLES)
    torch.export.save(torch.export.export(frozen, (x,)), tmp_path / "frozen.pt2")
    assert_same(torch.export.load(tmp_path / "frozen.pt2").module()(x), frozen(x), 1e-6)


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
def test_strict_export() -> None:
    net, x = fitted("1-D")
    frozen = batchnorm.freeze(net, SAMPLES)
    program = torch.export.export(frozen, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=True)
    assert_same(program.module()(x[:2]), frozen(x[:2]), 1e-6)


@torch_is_deprecated
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_with_a_dynamic_batch(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, x = fitted(name)
    frozen = batchnorm.freeze(net, SAMPLES)
    names = ["mean_probs", "entropy", "mutual_information"]
    file = tmp_path / "frozen.onnx"
    torch.onnx.export(
        frozen,
        (x,),
        file,
        dynamo=True,
        dynamic_shapes=({0: "batch"},),
        input_names=["x"],
        output_names=names,
        verbose=False,
    )
    session = runtime.InferenceSession(file)
    assert [output.name for output in session.get_outputs()] == names
    other = torch.cat([x, x.flip(0)])
    with torch.no_grad():
        for inputs in (other, other[:1]):
            assert_same(session.run(None, {"x": inputs.numpy()}), frozen(inputs.clone()))


@pytest.mark.slow
def test_compile() -> None:
    net, x = fitted("1-D")
    frozen = batchnorm.freeze(net, SAMPLES)
    with torch.no_grad():
        assert_same(torch.compile(frozen, fullgraph=True)(x), frozen(x), 1e-6)


def test_dropout_and_noise_are_refused() -> None:
    net = batchnorm.convert(LeNet5BatchNorm(dropout=0.5).eval())
    batchnorm.fit(net, [torch.randn(4, 1, 28, 28) for _ in range(3)])
    with pytest.raises(ValueError, match=r"'dropout' is dropout with p = 0.5.*set its p to 0"):
        batchnorm.freeze(net, 4)
    net.get_submodule("dropout").p = 0.0
    assert isinstance(batchnorm.freeze(net, 4), FrozenNet)
    noisy = nn.Sequential(dither.pruning.LogNormalNoise(3), nn.BatchNorm1d(3))
    net = batchnorm.convert(noisy)
    with pytest.raises(ValueError, match=r"'0' is noise that dither.predict samples.*shrink"):
        batchnorm.freeze(net, 4)


def test_wrong_use_is_named() -> None:
    net, x = fitted("1-D")
    with pytest.raises(ValueError, match="no StochasticBatchNorm"):
        batchnorm.freeze(one_dimensional(), 4)
    with pytest.raises(RuntimeError, match=r"call dither\.batchnorm\.fit"):
        batchnorm.freeze(batchnorm.convert(one_dimensional()), 4)
    for made in (net, batchnorm.bank(net, 2)):
        with pytest.raises(ValueError, match="num_samples is 0"):
            batchnorm.freeze(made, 0)
    with pytest.raises(ValueError, match="holds 2 samples, 3 were asked for"):
        batchnorm.freeze(batchnorm.bank(net, 2), 3)
    batchnorm.fit(net, [torch.randn(8, 2, 12) for _ in range(4)], law=batchnorm.Cached())
    with pytest.raises(ValueError, match="cannot be stored"):
        batchnorm.freeze(net, 2)
    batchnorm.set_law(net, batchnorm.Factorized())
    with pytest.raises(RuntimeError, match=r"size|channels|shape"):
        batchnorm.freeze(net, 2)(x[:, :1])


def test_a_layer_counts_its_calls() -> None:
    layer = FrozenNorm(scale=torch.tensor([[1.0], [2.0]])[None], shift=torch.zeros(1, 2, 1))
    one = copy.deepcopy(layer)
    one.scale, one.shift = layer.scale[0], layer.shift[0]
    x = torch.ones(3, 1)
    assert [float(one(x)[0]) for _ in range(3)] == [1, 2, 1]
    one.begin()
    assert float(one(x)[0]) == 1


def prefix_with_writes(x: Tensor, d: Tensor) -> Tensor:
    y = torch.sin(x)
    y.mul_(3)
    z = y.view(-1)
    z[1:3] = 7.0
    return torch.relu(torch.cos(y)[:2] + 1) * d


def writes_the_draw(x: Tensor, d: Tensor) -> Tensor:
    y = torch.sin(x)
    part = y[:2]
    part.copy_(d * part)
    return y + torch.cos(y)


def reads_before_a_write(x: Tensor, d: Tensor) -> Tensor:
    y = torch.sin(x)
    early = y * d
    y.add_(1)
    return early + y


def branches(x: Tensor, d: Tensor) -> Tensor:
    y = torch.sin(x)
    out = d * 1 if float(d) > 1.5 else torch.zeros(())
    if float(d) > 2.5:
        out = out + y.sum()  # of values that were overwritten at the end of the first pass
    y.add_(1)
    return out + y


def equal_calls(x: Tensor, d: Tensor) -> Tensor:
    first, second = torch.sin(x), torch.sin(x)
    first.add_(1)
    return (first + second) * d


def own_function(x: Tensor, d: Tensor) -> Tensor:
    return torch.sin(x)[..., : x.shape[0]] + torch.stack([x, x]).sum(0) * torch.full((1,), 2.0) + d.item()


@pytest.mark.parametrize(
    ("run", "sines"),
    [
        (prefix_with_writes, 1),
        (writes_the_draw, 4),
        (reads_before_a_write, 4),
        (branches, None),
        (equal_calls, 2),
        (own_function, 1),
    ],
)
def test_passes_share_what_they_can_and_are_right(run: Any, sines: int | None) -> None:
    x, draws = torch.randn(4), [torch.tensor(float(s)) for s in range(1, 5)]
    kept = x.clone()
    expected = [run(x.clone(), d) for d in draws]
    with Rows(torch.ops.aten.sin.default) as rows:
        found = in_turn(lambda draw: run(x, draw["d"]), [{"d": d} for d in draws])
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    torch.testing.assert_close(x, kept, atol=0, rtol=0)
    assert sines is None or len(rows.seen) == sines


def test_a_pass_that_broke_off_leaves_nothing_behind() -> None:
    net, x = fitted("shared")
    frozen = batchnorm.freeze(net, SAMPLES)
    expected = frozen(x)
    between = frozen.net.get_submodule("b")

    def fail(module: nn.Module, args: Any) -> None:
        raise RuntimeError("between the two calls")

    handle = between.register_forward_pre_hook(fail)
    for folded in (True, False):  # three passes in all: an even number would count the calls back to zero
        frozen.folded = folded
        with pytest.raises(RuntimeError, match="between the two calls"):
            frozen(x)
    handle.remove()
    frozen.folded = True
    assert_same(frozen(x), expected, 0)
    with pytest.raises(RuntimeError, match="shape"):
        frozen(x[:, :2])
    assert frozen.folded  # it was not vmap that failed
    assert_same(frozen(x), expected, 0)


@torch_is_deprecated
def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "freeze.md").read_text(encoding="utf-8"), re.M | re.S)
    scope: dict[str, Any] = {}
    exec(compile(example, "docs/freeze.md", "exec"), scope)
    found = runtime.InferenceSession("frozen.onnx").run(None, {"x": scope["x"].numpy()})
    assert_same(found, scope["frozen"](scope["x"]), 1e-5)
