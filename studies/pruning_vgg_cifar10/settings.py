"""What is trained. Choices were made on the last 5,000 training images (choice.md)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dither.training import Fit, Noise, Recipe


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        title: for people.
        noise: how it is pruned. None: the base network, trained on for as many epochs without noise.
    """

    title: str
    noise: Noise | None


@dataclass(frozen=True)
class Plan:
    """One network of the study.

    Attributes:
        model: as :func:`dither.training.make_model` takes it.
        title: for people.
        rows: by name; all start from the same trained network.
        base: training of that network.
        prune: training under noise.
        finetune: training of what is left.
        validation: held-out training images.
        data: for the recipes; the images may come from a local copy.
        shown: the row whose network is kept, and sampled; None is none.
    """

    model: str
    title: str
    rows: dict[str, Row]
    base: Fit
    prune: Fit
    finetune: Fit
    validation: int = 5000
    data: str = "uoft-cs/cifar10"
    shown: str | None = None

    def base_recipe(self, seed: int) -> Recipe:
        return Recipe(
            self.model,
            self.data,
            base=self.base,
            prune=dataclasses.replace(self.prune, epochs=0),
            validation=self.validation,
            seed=seed,
            mixed_precision="bf16",
            channels_last=True,
        )

    def recipe(self, row: str, seed: int) -> Recipe:
        recipe, noise = self.base_recipe(seed), self.rows[row].noise
        if noise is None:
            epochs = self.prune.epochs + self.finetune.epochs
            return dataclasses.replace(recipe, finetune=dataclasses.replace(self.finetune, epochs=epochs))
        return dataclasses.replace(recipe, prune=self.prune, noise=noise, finetune=self.finetune)


BASE = Fit(epochs=20, batch_size=125, lr=1e-3, decay_from=0.0, weight_decay=0.05, shift=4, flip=True)
PRUNE = dataclasses.replace(BASE, epochs=10, decay_from=0.5)
FINETUNE = dataclasses.replace(BASE, epochs=8)
NOISE = Noise(gate_lr=2e-2, batchnorm="reestimate", shrink_every=2)
ROWS = {
    "longer": Row("trained on, no noise", None),
    "sbp": Row("SBP", dataclasses.replace(NOISE, kl_weight=10.0)),
    "sbpa": Row("SBPa, weights by hand", dataclasses.replace(NOISE, kl_weights="sbpa", kl_weight=10.0)),
    "macs": Row("SBP, weights by MACs", dataclasses.replace(NOISE, kl_weights="macs", kl_weight=0.08)),
    "latency": Row("SBP, weights by time", dataclasses.replace(NOISE, kl_weights="latency", kl_weight=1.5)),
}
# At the full width an epoch takes six minutes, and four times as many channels share the work of a layer: fewer epochs,
# and half of the factors on the measured weights (choice.md).
FULL_ROWS = ROWS | {
    "macs": Row("SBP, weights by MACs", dataclasses.replace(NOISE, kl_weights="macs", kl_weight=0.04)),
    "latency": Row("SBP, weights by time", dataclasses.replace(NOISE, kl_weights="latency", kl_weight=0.75)),
    "gentle": Row("SBP, weights by time, gentle", dataclasses.replace(NOISE, kl_weights="latency", kl_weight=0.2)),
}
# Half of the width ends under 0.08 as narrow as a quarter does. A quarter of the factor puts 1 to 33 on a channel,
# around the 10 that plain SBP puts on each; it stays short of 2.3 times, and so there is one between (choice.md).
HALF_ROWS = ROWS | {
    "macs_gentle": Row("SBP, weights by MACs, gentle", dataclasses.replace(NOISE, kl_weights="macs", kl_weight=0.03)),
    "macs_gentler": Row("SBP, weights by MACs, gentler", dataclasses.replace(NOISE, kl_weights="macs", kl_weight=0.02)),
}
PLANS = {
    "full": Plan(
        "studies.networks:vgg16",
        "VGG-like",
        FULL_ROWS,
        dataclasses.replace(BASE, epochs=12),
        dataclasses.replace(PRUNE, epochs=8),
        FINETUNE,
        shown="latency",
    ),
    "half": Plan("studies.networks:vgg16_half", "VGG-like, half width", HALF_ROWS, BASE, PRUNE, FINETUNE),
    "quarter": Plan("studies.networks:vgg16_quarter", "VGG-like, quarter width", ROWS, BASE, PRUNE, FINETUNE),
}
_SHORT = Fit(epochs=2, batch_size=100)
# Gates that hurry, so that there is something to remove after 22 steps.
_HURRY = dataclasses.replace(NOISE, gate_lr=0.5, kl_weight=0.05, shrink_every=0)
SMOKE = Plan(
    "studies.networks:vgg16_tiny",
    "VGG-like, a sixteenth of the width",
    {"longer": ROWS["longer"], "sbp": Row("SBP", _HURRY)},
    base=_SHORT,
    prune=_SHORT,
    finetune=dataclasses.replace(_SHORT, epochs=1),
    validation=300,
    data="digits",
    shown="sbp",
)
