"""The recipes of the study, chosen on the last 10,000 training images (choice.md has the evidence)."""

from dither.training import Fit, Noise, Recipe

DATA = "ylecun/mnist"

RECIPES = {
    "lenet5": Recipe(
        model="lenet5",
        data=DATA,
        base=Fit(epochs=5, batch_size=250, lr=1e-3),
        prune=Fit(epochs=25, batch_size=125, lr=1e-3),
        noise=Noise(
            gate_lr=2e-2,
            kl_weights={"conv1": 120.0, "conv2": 40.0, "fc1[in]": 4.0, "fc1": 4.0},
            features=("fc1",),
        ),
        finetune=Fit(epochs=20, batch_size=125, lr=1e-3, decay_from=0.0, shift=1),
        mixed_precision="bf16",
        channels_last=True,
    ),
    "lenet_500_300": Recipe(
        model="lenet_500_300",
        data=DATA,
        base=Fit(epochs=8, batch_size=100, lr=1e-3),
        prune=Fit(epochs=40, batch_size=100, lr=1e-3, shift=1),
        noise=Noise(
            gate_lr=2e-2,
            kl_weights={"fc1[in]": 3.0, "fc1": 6.0, "fc2": 3.0},
            features=("fc1",),
        ),
    ),
}

# Order in which the paper writes widths: what each layer reads.
WIDTHS = {"lenet5": ("conv1", "conv2", "fc1[in]", "fc1"), "lenet_500_300": ("fc1[in]", "fc1", "fc2")}
