"""The networks of the zoo: how to build each one with random weights, and what to feed it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dither._inputs import Inputs, map_tensors


@dataclass(frozen=True)
class Entry:
    """One network of the zoo.

    Attributes:
        library: Where it comes from, as the page groups it.
        name: Its name there.
        make: Builds it; the weights are random.
        shape: Of one example without the batch dimension; of token ids where ``vocabulary`` is set.
        classes: Size of the output, to tell the last layer from the others (Torch-Pruning has to be told).
        vocabulary: Number of tokens; 0 for real inputs.
        fixed: Further keyword arguments of the call. With any, or with tokens, inputs are a dict.
        main_input: Name of the input where inputs are a dict.
    """

    library: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 1000
    vocabulary: int = 0
    fixed: tuple[tuple[str, Any], ...] = ()
    main_input: str = ""

    @property
    def key(self) -> str:
        """Unique in the zoo: ``"torchvision/resnet18"``."""
        return f"{self.library}/{self.name}"

    @property
    def recipe(self) -> str:
        """How it is built and fed, as text: another recipe, another network."""
        make = (
            [self.make.func.__qualname__, self.make.args, self.make.keywords] if isinstance(self.make, partial) else []
        )
        return repr((make, self.shape, self.classes, self.vocabulary, self.fixed, self.main_input))

    def inputs(self, batch: int, seed: int) -> Inputs:
        """A batch of random examples in float32."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, *self.shape)
        if self.vocabulary:  # no token 0, which some networks take for padding
            x = torch.randint(1, self.vocabulary, shape, generator=generator)
        else:
            x = torch.randn(shape, generator=generator)
        return {self.main_input: x, **dict(self.fixed)} if self.main_input else x

    def build(self, seed: int) -> nn.Module:
        """The network in eval mode and float32, with weights and statistics that hide nothing; see `randomise`."""
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its library says of its own future is not our subject
            net = self.make().eval()
        randomise(net, seed)
        return net


def doubled(inputs: Inputs) -> Any:
    """``inputs`` in float64; token ids and masks as they are."""
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)


@torch.no_grad()
def randomise(net: nn.Module, seed: int) -> None:
    """Random statistics for BatchNorm, and random values in place of constant ones, in place.

    A fresh network hides errors: its biases are zero, its gains are one, a LayerScale of 1e-6 or a last gain of 0
    switches whole branches off.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(uniform(module.running_var, 0.5, 2.0))
    for parameter in net.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            zero = parameter.numel() > 1 and float(parameter.flatten()[0]) == 0
            parameter.copy_(uniform(parameter, -0.2, 0.2) if zero else uniform(parameter, 0.5, 1.5))


def catalogue() -> Mapping[str, Entry]:
    """Every network of the zoo by key; imports the libraries."""
    from zoo import from_timm, from_torchvision, from_transformers

    found = [*from_torchvision.entries(), *from_timm.entries(), *from_transformers.entries()]
    return {entry.key: entry for entry in found}
