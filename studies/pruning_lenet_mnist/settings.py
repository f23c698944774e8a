"""The recipes of the study, chosen on the last 10,000 training images (choice.md has the evidence)."""

from dither.training import default_recipe

# The library's own recipes for these networks: `dither train --model lenet5` is this study.
RECIPES = {net: default_recipe(net) for net in ("lenet5", "lenet_500_300")}

# Order in which the paper writes widths: what each layer reads.
WIDTHS = {"lenet5": ("conv1", "conv2", "fc1[in]", "fc1"), "lenet_500_300": ("fc1[in]", "fc1", "fc2")}
