"""S samples of one network: the same networks for every batch."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._inputs import Inputs, call, evaluating
from .._sampling import Stochastic, sampling, sources
from ._link import Link, apply, check_finite
from ._random import GlobalRandom


class Sampler:
    """A network, its sources and S seeds.

    A sample is one network: what its sources drew for it, and a seed for everything that draws from the global
    generator. The seed is set before each pass of that sample.
    """

    def __init__(self, net: nn.Module, num_samples: int, generator: torch.Generator | None) -> None:
        self.net = net
        self.layers = stochastic_layers(net)
        self.num_samples = num_samples if self.layers else 1
        self.sources = sources(net)
        self._generator = generator
        self._seeds: list[int] = []
        self._random = GlobalRandom(t.device for t in (*net.parameters(), *net.buffers()))

    @contextmanager
    def ready(self) -> Generator[Sampler]:
        """The network in eval mode, drawing, without gradients; everything as before at the end."""
        device = self._generator.device if self._generator is not None else None
        seeds = torch.randint(2**63 - 1, (self.num_samples,), generator=self._generator, device=device)
        self._seeds = seeds.tolist()
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.net))
            for source in self.sources:
                stack.callback(source.release)
                source.prepare(self.num_samples, self._generator)
            stack.enter_context(self._random)
            stack.enter_context(sampling(self.net))
            yield self

    def samples(self, inputs: Inputs, link: Link, rows: int) -> Tensor:
        """Outputs for a batch, (S, B, ...)."""
        out: list[Tensor] = []
        for sample, seed in enumerate(self._seeds):
            self._choose(sample, seed)
            out.append(apply(link, call(self.net, inputs), rows))
        stacked = torch.stack(out)
        check_finite(stacked)
        return stacked

    def _choose(self, sample: int, seed: int) -> None:
        for source in self.sources:
            source.choose(sample)
        self._random.seed(seed)


def stochastic_layers(net: nn.Module) -> dict[str, nn.Module]:
    """What `dither.sampling` lets draw, by name."""
    return {name: m for name, m in net.named_modules() if isinstance(m, (Stochastic, _DropoutNd))}


def warn_of_training(net: nn.Module) -> None:
    """Say that modules in train mode were put into eval mode. Dropout may have been left on, for this very purpose."""
    training = [name for name, m in net.named_modules() if m.training and not isinstance(m, _DropoutNd)]
    if training:
        which = "the network" if training[0] == "" else f'"{training[0]}"'
        warnings.warn(
            f"{which} is in train mode: predict runs it in eval mode with its stochastic layers drawing, and puts the "
            "mode back. Call net.eval() first to silence this.",
            stacklevel=3,
        )


def describe(module: Any) -> str:
    """The name of the class of a network, for messages."""
    return type(module).__name__
