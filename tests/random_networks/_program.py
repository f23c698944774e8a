"""What a random network is: steps as plain data, the layers that they need, and how hypothesis draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.random_networks import _mixing, _noise, _plain, _splitting
from tests.random_networks._made import Drawn, Made

STEPS: dict[str, Callable[[Drawn], Made | None]] = {**_plain.STEPS, **_splitting.STEPS, **_mixing.STEPS, **_noise.STEPS}
SPATIAL = {1: (4,), 2: (4, 4), 3: (2, 2, 2)}
INPUT_CHANNELS = 3


@dataclass(frozen=True)
class Step:
    """One step, by numbers that mean something for every network.

    Attributes:
        op: What to do; a key of ``STEPS``.
        at: The map that it reads, counted back from the last one, modulo their number.
        other: Another map, chosen in the same way among those that fit.
        width: How many channels to write, where the step is free to choose.
        variant: Which of its variants.
    """

    op: str
    at: int = 0
    other: int = 0
    width: int = 4
    variant: int = 0


class Program(nn.Module):
    """The network that runs ``steps`` one after the other; a step that nothing fits is left out.

    Args:
        steps: What to do between the first convolution and the head.
        dims: Spatial dimensions: 1, 2 or 3.
        flat: Whether the head reads all positions or their mean.
    """

    def __init__(self, steps: list[Step], dims: int = 2, flat: bool = False) -> None:
        super().__init__()
        self.drawn, self.dims, self.flat = steps, dims, flat
        self.layers = nn.ModuleList()
        self.nodes: list[tuple[str, tuple[int, ...], list[int], Callable[..., Tensor]]] = []
        self.channels = [INPUT_CHANNELS]
        torch.manual_seed(0)
        for step in [Step("conv", width=8), *steps]:
            self.add(step)
        positions = SPATIAL[dims][0] ** dims
        self.head = nn.Linear(self.channels[-1] * (positions if flat else 1), 4)

    def add(self, step: Step) -> None:
        """Append the map that a step makes, if it fits."""
        at = -1 - step.at % len(self.channels)
        made = STEPS[step.op](Drawn(self, len(self.channels) + at, step))
        if made is not None:
            new = [self.index(layer) for layer in made.layers]
            self.nodes.append((step.op, made.reads, new, made.run))
            self.channels.append(made.channels)

    def index(self, layer: nn.Module) -> int:
        """Where a layer is held; a layer that is used again is held once."""
        for i, held in enumerate(self.layers):
            if held is layer:
                return i
        self.layers.append(layer)
        return len(self.layers) - 1

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for _, reads, layers, run in self.nodes:
            maps.append(run(*[maps[i] for i in reads], *[self.layers[i] for i in layers]))
        y = maps[-1]
        return self.head(y.flatten(1) if self.flat else y.flatten(2).mean(2))

    def example(self, batch: int, seed: int) -> Tensor:
        """A batch of inputs in float64."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, INPUT_CHANNELS, *SPATIAL[self.dims], dtype=torch.float64, generator=generator)

    def build(self) -> Program:
        """In float64 and eval mode, with norms as training leaves them: nothing at its first value."""
        torch.manual_seed(1)
        for module in self.modules():
            if "Norm" in type(module).__name__:
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, 0.5, 1.5)
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
        return self.double().eval()

    def __repr__(self) -> str:
        lines = [
            f"# {i + 1} = {op}({', '.join(map(str, reads))}) -> {self.channels[i + 1]} channels"
            for i, (op, reads, _, _) in enumerate(self.nodes)
        ]
        return "\n".join([f"Program({self.drawn}, dims={self.dims}, flat={self.flat})", *lines])


def programs(noisy: bool = False) -> st.SearchStrategy[Program]:
    """Random networks of up to 12 steps, without noise or with noise placed by hand behind most of them."""
    often = [*_plain.STEPS, *_splitting.STEPS]
    names = st.sampled_from([*often, *often, *often, *_mixing.STEPS])
    at = st.sampled_from([0, 0, 0, 1] if noisy else [0, 1, 2])
    small: Any = st.integers(0, 7)
    step = st.builds(Step, names, at, small, st.sampled_from([4, 6, 8]), small)
    if noisy:
        steps = st.lists(st.tuples(step, st.sampled_from([True, True, False])), min_size=1, max_size=6).map(behind)
    else:
        steps = st.lists(step, min_size=3, max_size=12)
    return st.builds(Program, steps, st.sampled_from([2, 2, 1, 3]), st.booleans())


def behind(drawn: list[tuple[Step, bool]]) -> list[Step]:
    """The steps, with noise behind the first convolution and behind those that are marked."""
    return [Step("noise"), *(s for step, noise in drawn for s in ([step, Step("noise")] if noise else [step]))]
