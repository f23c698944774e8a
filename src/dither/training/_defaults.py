"""Recipes to start from, one for each network here and one for every other."""

from __future__ import annotations

import dataclasses

from ._recipe import Fit, Noise, Recipe

# Chosen on 300 held-out training images: the error of the base network at 15 times fewer multiply-accumulates.
_DIGITS = Recipe(
    model="digits",
    data="digits",
    base=Fit(epochs=20, batch_size=32, lr=3e-3),
    prune=Fit(epochs=40, batch_size=32, lr=3e-3),
    noise=Noise(gate_lr=0.05, kl_weights="macs", kl_weight=0.3, features=("fc1",)),
    finetune=Fit(epochs=15, batch_size=32, lr=2e-3, decay_from=0.0),
)
# A small batch, so that its statistics are noisy. Base: least negative log-likelihood on 300 held-out training images,
# mean of three seeds, among 10 and 20 epochs, rates of 1e-3 and 3e-3, decay from the start and from half-way.
# The KL weight is for all ten classes; docs/cli.md says what it does to five.
_DIGITS_BN = dataclasses.replace(_DIGITS, model="digits_bn", base=Fit(epochs=20, batch_size=16, lr=3e-3))
# Those of studies/pruning_lenet_mnist, whose choice.md has the evidence.
_LENET5 = Recipe(
    model="lenet5",
    data="ylecun/mnist",
    base=Fit(epochs=5, batch_size=125, lr=1e-3),
    prune=Fit(epochs=28, batch_size=125, lr=1e-3, shift=1),
    noise=Noise(
        gate_lr=2e-2, kl_weights={"conv1": 190.0, "conv2": 54.0, "fc1[in]": 5.0, "fc1": 5.0}, features=("fc1",)
    ),
    finetune=Fit(epochs=30, batch_size=125, lr=1e-3, decay_from=0.0, shift=1),
    mixed_precision="bf16",
    channels_last=True,
)
# Those of studies/batchnorm_lenet_mnist and, for pruning, studies/small_and_doubtful.
_LENET5_BN = Recipe(
    model="lenet5_bn",
    data="ylecun/mnist",
    base=Fit(epochs=8, batch_size=16, lr=1e-3, decay_from=0.0),
    prune=Fit(epochs=16, batch_size=125, lr=1e-3),
    noise=dataclasses.replace(_LENET5.noise, batchnorm="reestimate"),
    finetune=Fit(epochs=12, batch_size=16, lr=1e-3, decay_from=0.0),
    channels_last=True,
)
_LENET5_BN_DROPOUT = dataclasses.replace(
    _LENET5_BN, model="lenet5_bn_dropout", base=dataclasses.replace(_LENET5_BN.base, epochs=20)
)
_LENET_500_300 = Recipe(
    model="lenet_500_300",
    data="ylecun/mnist",
    base=Fit(epochs=8, batch_size=100, lr=1e-3),
    prune=Fit(epochs=40, batch_size=100, lr=1e-3, shift=1),
    noise=Noise(gate_lr=2e-2, kl_weights={"fc1[in]": 4.0, "fc1": 8.0, "fc2": 4.0}, features=("fc1",)),
)
_ALL = (_DIGITS, _DIGITS_BN, _LENET5, _LENET5_BN, _LENET5_BN_DROPOUT, _LENET_500_300)
_RECIPES = {recipe.model: recipe for recipe in _ALL}


def default_recipe(model: str) -> Recipe:
    """A recipe to start from: tried settings for the networks here, cautious ones for any other.

    Args:
        model: a name that :func:`dither.training.make_model` takes.

    Returns:
        The recipe; change it with ``dataclasses.replace``.

    Example:
        >>> default_recipe("lenet5").noise.features
        ('fc1',)
    """
    return _RECIPES.get(model) or Recipe(
        model=model, data="digits", base=Fit(epochs=30), prune=Fit(epochs=60), noise=Noise(kl_weights="macs")
    )
