"""Recipes as JSON, and what they refuse."""

import dataclasses
import json

import pytest

from dither.training import Fit, Noise, Recipe, default_recipe, model_names

RECIPE = Recipe(
    model="lenet5",
    data="digits",
    base=Fit(epochs=1, betas=(0.95, 0.999)),
    prune=Fit(epochs=2, shift=1, flip=True),
    noise=Noise(kl_weights={"conv1": 2.0}, features=("fc1",), skip=("conv2",), init_log_scale=-3.0),
    finetune=Fit(epochs=3, weight_decay=1e-4, label_smoothing=0.1),
    mixed_precision="bf16",
    classes=(3, 0, 8),
)


@pytest.mark.parametrize("recipe", [RECIPE, *map(default_recipe, model_names()), default_recipe("a.b:c")])
def test_recipes_survive_json(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", model_names())
def test_every_network_here_has_a_recipe_for_data_of_its_size(name: str) -> None:
    assert default_recipe(name).model == name
    assert default_recipe(name).data == ("digits" if name.startswith("digits") else "ylecun/mnist")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1}, "recipe has the unknown setting 'learning_rate', known are model, data"),
        ({"base": {"epochs": 1, "rate": 2}}, r"recipe.base has the unknown setting 'rate'"),
        ({"base": {}}, "recipe.base: .*epochs"),
        ({"base": 3}, "recipe.base is int, expected a JSON object"),
        ({"base": {"epochs": -1}}, "epochs is -1"),
        ({"base": {"epochs": 1, "lr": 0}}, "lr is 0"),
        ({"base": {"epochs": 1, "betas": [0.9, 1.0]}}, "betas"),
        ({"base": {"epochs": 1, "decay_from": 1.5}}, "decay_from"),
        ({"base": {"epochs": 1, "label_smoothing": 1.0}}, "label_smoothing"),
        ({"noise": {"kl_weights": "flops"}}, "kl_weights is 'flops', expected None, 'macs', 'latency', 'sbpa'"),
        ({"noise": {"batchnorm": "thaw"}}, "expected 'freeze' or 'reestimate'"),
        ({"noise": {"gate_lr": -1.0}}, "gate_lr"),
        ({"mixed_precision": "fp8"}, "mixed_precision is 'fp8'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"validation": -1}, "validation is -1"),
        ({"classes": [1]}, r"classes is \(1,\), expected None or at least two different numbers >= 0"),
        ({"classes": [1, 1]}, r"classes is \(1, 1\)"),
        ({"classes": [-1, 1]}, r"classes is \(-1, 1\)"),
        ({"classes": "01"}, "classes is '01'"),
        ({"classes": [True, 2]}, r"classes is \(True, 2\)"),
    ],
)
def test_settings_that_make_no_sense_are_named(change: dict, message: str) -> None:
    values = json.loads(RECIPE.to_json()) | change
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(json.dumps(values))


def test_a_recipe_from_before_there_were_classes_keeps_all() -> None:
    values = json.loads(RECIPE.to_json())
    del values["classes"]
    assert Recipe.from_json(json.dumps(values)) == dataclasses.replace(RECIPE, classes=None)


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="not valid JSON"):
        Recipe.from_json("{")


def test_the_rate_is_constant_and_then_linear_to_zero() -> None:
    fit = Fit(epochs=1, decay_from=0.25)
    factors = [fit.lr_factor(step, 8) for step in range(9)]
    assert factors == pytest.approx([1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    assert Fit(epochs=1, decay_from=1.0).lr_factor(8, 8) == 1.0


def test_recipes_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPE.seed = 1  # type: ignore[misc]
