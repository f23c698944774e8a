"""Bad input: each error says what was got, what was expected and how to repair it; nothing is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dither
from dither import pruning
from tests.pruning.test_cases import drown_half

X = torch.zeros(2, 5)


def mlp(hidden: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def attached(hidden: int = 8) -> nn.Module:
    net = pruning.attach(mlp(hidden), X)
    drown_half(net, 0)
    return net


class FixedView(nn.Module):
    """The classic: the number of features is written into the forward pass."""

    def __init__(self, sizes: tuple[int, ...] = (-1, 800)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 50, 5)
        self.fc, self.sizes = nn.Linear(800, 10), sizes

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv(x))
        h = h.view(*self.sizes)  # the line
        return self.fc(h)


# --- the model -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model", [nn.Linear(5, 3), nn.Sequential(nn.Linear(5, 3), nn.Softmax(1)), nn.ReLU(), nn.Identity()], ids=str
)
def test_a_model_without_prunable_channels(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no channel of this model can be removed"):
        pruning.attach(model, X)


def test_the_reasons_are_listed() -> None:
    with pytest.raises(ValueError, match=r"layer_norm in 1 normalises over them"):
        pruning.attach(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)), X)


@pytest.mark.parametrize("sizes", [(-1, 800), (2, 800)], ids=str)
def test_a_view_that_fixes_a_width(sizes: tuple[int, ...]) -> None:
    """The module, the file, the line, the code, and what to write instead."""
    pattern = (
        r'(?s)conv +50 .*in module "FixedView".*test_bad_input\.py:\d+ `h = h\.view\(\*self\.sizes\).*x\.flatten\(1\)'
    )
    with pytest.raises(pruning.ShrinkError, match=pattern) as error:
        pruning.attach(FixedView(sizes), torch.zeros(2, 1, 8, 8))
    line = int(str(error.value).partition("test_bad_input.py:")[2].split()[0])
    assert "# the line" in Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))


def quantised() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), torch.ao.nn.quantized.Linear(8, 3))


KINDS: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.trace(mlp(), X), "is scripted or traced; give the Python module"),
    "quantised": (quantised, "is quantised, a Linear; remove channels first"),
    "meta": (lambda: mlp().to("meta"), '"0.weight" is on the meta device'),
    "lazy": (lazy, '"0.weight" has no shape yet; run the model once'),
    "complex": (lambda: mlp().to(torch.complex64), r'"0.weight" holds torch.complex64; noise needs'),
    "old weight norm": (
        lambda: nn.utils.weight_norm(nn.Linear(5, 3)),
        "use torch.nn.utils.parametrizations.weight_norm",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch warns of all of these itself
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_models_that_are_refused(kind: str) -> None:
    make, message = KINDS[kind]
    with pytest.raises(ValueError, match=message):
        pruning.attach(make(), X)


def test_integer_parameters() -> None:
    model = mlp()
    model.steps = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(ValueError, match=r'"steps" holds torch.int64; noise needs'):
        pruning.attach(model, X)


def test_a_compiled_model_is_unwrapped() -> None:
    model: Any = torch.compile(mlp(), backend="eager")
    net = pruning.attach(model, X)
    assert type(net) is nn.Sequential
    assert list(pruning.gates(net)) == ["0"]


def test_a_model_that_needs_keywords_shows_its_signature() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = mlp()

        def forward(self, *, pixels: Tensor, scale: float = 1.0) -> Tensor:
            return self.layers(pixels * scale)

    model = Keyword()
    with pytest.raises(ValueError, match=r"called as Keyword\.forward\(\*, pixels: .*Tensor.*, scale: .* = 1\.0\)"):
        pruning.attach(model, X)
    assert list(pruning.gates(pruning.attach(model, {"pixels": X}))) == ["layers.0"]


PARAMETRIZED = [
    nn.utils.parametrizations.weight_norm,
    nn.utils.parametrizations.spectral_norm,
    nn.utils.parametrizations.orthogonal,
]


@pytest.mark.parametrize("norm", PARAMETRIZED, ids=lambda f: f.__name__)
def test_parametrized_layers_are_baked(norm: Any, tmp_path: Path) -> None:
    """Same function, plain parameters; the given model keeps its own, and a file goes into a fresh instance."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), norm(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 3)).double()

    model: Any = build().eval()
    x = torch.randn(4, 5).double()
    before = model(x)
    net = pruning.attach(model, x)
    assert list(pruning.gates(net)) == ["0", "2"]
    assert nn.utils.parametrize.is_parametrized(model[2])
    assert torch.equal(model(x), before)
    drown_half(net, 0)
    plan = pruning.plan(net, x)
    whole, small = pruning.masked(net, plan), pruning.shrink(net, plan, x)
    torch.testing.assert_close(whole(x), small(x), rtol=0, atol=1e-12)
    dither.save(small, tmp_path / "net.safetensors")
    assert torch.equal(dither.load(build(), tmp_path / "net.safetensors").eval()(x), small(x))


def test_a_frozen_parametrized_layer_stays_frozen() -> None:
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[2]).requires_grad_(False)
    net: Any = pruning.attach(model, X)
    assert not net[2].parametrizations.weight.original.requires_grad
    assert net[0].weight.requires_grad


def test_attaching_twice() -> None:
    with pytest.raises(ValueError, match=r"carries noise already \(0\); attach to the model without it"):
        pruning.attach(attached(), X)


def test_training_noise_on_a_shrunk_network_is_not_attaching_twice() -> None:
    net = attached()
    assert pruning.gates(pruning.attach(pruning.shrink(net, pruning.plan(net, X), X), X))


# --- arguments -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(2, 7), (torch.zeros(2, 7),), {"input": torch.zeros(2, 7)}],
    ids=["tensor", "tuple", "dict"],
)
def test_example_inputs_of_a_wrong_shape(inputs: Any) -> None:
    pattern = r'does not run on the example inputs \(shapes \[\(2, 7\)\]\): in "0", .*Give inputs as you give them'
    with pytest.raises(ValueError, match=pattern):
        pruning.attach(mlp(), inputs)


@pytest.mark.parametrize(
    "inputs", [(X, X), {"colour": X}, torch.zeros(2, 5, dtype=torch.int64)], ids=["2", "name", "int"]
)
def test_example_inputs_of_a_wrong_kind(inputs: Any) -> None:
    with pytest.raises(ValueError, match="does not run on the example inputs"):
        pruning.attach(mlp(), inputs)


@pytest.mark.parametrize("options", [{"skip": ["fc9"]}, {"features": ["fc9"]}], ids=str)
def test_names_of_layers_that_are_not_there(options: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r'no layer "fc9"; it has 0, 1, 2'):
        pruning.attach(mlp(), X, **options)


def test_features_of_a_layer_that_is_not_linear() -> None:
    with pytest.raises(ValueError, match=r'features names "1", a ReLU'):
        pruning.attach(mlp(), X, features=["1"])


def test_the_model_survives_every_error() -> None:
    model = FixedView().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(pruning.ShrinkError, match="fixes a size"):
        pruning.attach(model, torch.zeros(2, 1, 8, 8))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training
    assert not any(nn.utils.parametrize.is_parametrized(m) for m in model.modules())


# --- plans -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("carry_out", [pruning.masked, lambda net, plan: pruning.shrink(net, plan, X)])
def test_a_plan_of_another_network(carry_out: Any) -> None:
    with pytest.raises(ValueError, match=r"plan was made for another network.*call pruning\.plan"):
        carry_out(attached(), pruning.plan(attached(6), X))


def test_a_plan_for_the_model_without_its_noise() -> None:
    net = attached()
    plan = pruning.plan(net, X)
    with pytest.raises(ValueError, match=r"made for another network.*or its noise"):
        pruning.shrink(mlp(), plan, X)


def test_a_plan_of_the_same_model_attached_otherwise() -> None:
    """Equal tensors, other gates: what the plan says of its columns has no noise here."""
    with_columns = pruning.attach(mlp(), X, features=True)
    drown_half(with_columns, 0)
    with pytest.raises(ValueError, match=r"made for another network.*or its noise"):
        pruning.shrink(attached(), pruning.plan(with_columns, X), X)
    with pytest.raises(ValueError, match=r"made for another network.*or its noise"):
        pruning.shrink(with_columns, pruning.plan(attached(), X), X)


def test_untrained_noise_is_told() -> None:
    with pytest.warns(UserWarning, match=r"Nothing was learned.*Train with loss \+ pruning\.kl"):
        pruning.plan(pruning.attach(mlp(), X), X)
