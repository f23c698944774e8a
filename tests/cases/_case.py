"""What a case is, and the few pieces that almost every network of the table is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dither._inputs import call, map_tensors


@dataclass(frozen=True)
class Case:
    """One network and what must be found in it.

    Attributes:
        name: What is special about it.
        make: A new network, with weights as they come.
        given: What goes in: the shape of one tensor, or a function that draws the inputs.
        removable: The channel spaces that can lose channels, by the name of the layer that writes them first: their
            size, that is how many decisions there are. A space of whole groups of channels counts groups.
        whole: The channel spaces that cannot, with a word of the reason.
        fixed: Those that could, if the code of the network did not fix their width: their size. Only a trial tells.
        dtype: Of parameters and inputs.
    """

    name: str
    make: Callable[[], nn.Module]
    given: tuple[int, ...] | Callable[[], Any]
    removable: Mapping[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:  # the name in test ids: the functions print an address that every worker has another of
        return self.name

    def build(self) -> nn.Module:
        """The network in eval mode, always with the same weights, its statistics not those of a fresh BatchNorm."""
        torch.manual_seed(0)
        net = self.make().to(self.dtype).eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        return net

    def inputs(self, seed: int = 1) -> Any:
        """A tensor, a tuple of positional arguments or a dict of keyword arguments."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = torch.randn(self.given) if isinstance(self.given, tuple) else self.given()
        return map_tensors(lambda t: t.to(self.dtype) if t.is_floating_point() else t, made)

    def run(self, net: nn.Module, seed: int = 1) -> Any:
        """What ``net`` computes on the inputs of ``seed``."""
        return call(net, self.inputs(seed))


class Net(nn.Module):
    """Layers by name and the forward pass as a function of them: ``Net(lambda m, x: m.b(m.a(x)), a=..., b=...)``."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


def conv(c_in: int, c_out: int, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, padding=k // 2, **options)


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


IMAGE, OUTPUT = (2, 3, 8, 8), {"head.2": "returns"}
