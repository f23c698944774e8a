"""S samples of one network: the same networks for every batch."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from .._inputs import Inputs, call, evaluating, tensors
from .._sampling import Stochastic, sampling, sources
from ._fold import Call, fold, logging, replaced
from ._link import Link, apply
from ._random import GlobalRandom
from ._replay import Diverged, Record, Recording, Replaying


@dataclass(frozen=True)
class Batch:
    """Inputs of one pass, how many rows they have, and the link."""

    inputs: Inputs
    rows: int
    link: Link


class Sampler:
    """A network, its sources and S seeds, and the ways to run samples of it.

    A sample is one network: what its sources drew for it, and a seed for everything that draws from the global
    generator. The seed is set before each pass of that sample.
    """

    def __init__(self, net: nn.Module, num_samples: int, generator: torch.Generator | None) -> None:
        self.net = net
        self.layers = {name: m for name, m in net.named_modules() if isinstance(m, (Stochastic, _DropoutNd))}
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
            training = any(m.training for m in self.net.modules())  # usually not, and then there is less to put back
            stack.enter_context(evaluating(*[self.net] * training))
            for source in self.sources:
                stack.callback(source.release)
                source.prepare(self.num_samples, self._generator)
            stack.enter_context(self._random)
            stack.enter_context(sampling(self.net))
            yield self

    @property
    def draw(self) -> int | None:
        """A number that tells these samples from others; None if nothing draws."""
        return hash(tuple(self._seeds)) if self.layers else None

    def seed(self, sample: int) -> None:
        """Set the global generators to those of a sample."""
        self._random.seed(self._seeds[sample])

    def choose(self, sample: int) -> None:
        """The next pass is one of this sample."""
        for source in self.sources:
            source.choose(sample)
        self.seed(sample)

    def draws(self) -> list[Tensor]:
        """What the sources hold, tensors (S, ...)."""
        return [t for source in self.sources for t in source.tensors()]

    def plain(self, batch: Batch, sample: int) -> Tensor:
        """One pass, (B, ...)."""
        self.choose(sample)
        return self._pass(batch)

    def recorded(self, batch: Batch, sample: int) -> tuple[Tensor, Record]:
        """One pass, and a record of what in it does not depend on the draw.

        Autocast keeps the copies of parameters that it makes; a pass that made some is not like those that follow, and
        is recorded again.
        """
        out, record = self._recorded(batch, sample)
        return self._recorded(batch, sample) if record.casts and keeps_casts(batch) else (out, record)

    def _recorded(self, batch: Batch, sample: int) -> tuple[Tensor, Record]:
        mode = Recording(self.draws())
        with mode:
            self.choose(sample)
            out = self._pass(batch)
        mode.keep(out)
        return out, mode.record

    def replayed(self, batch: Batch, sample: int, record: Record) -> Tensor:
        """One pass with the help of the record.

        Raises:
            Diverged: If it is of no use for this sample.
        """
        mode = Replaying(record)
        with mode:
            self.choose(sample)
            out = self._pass(batch)
        mode.check([out])
        return out

    def looped(self, batch: Batch, samples: range, record: Record | None) -> list[Tensor]:
        """One pass for each sample, replayed where there is a record that helps."""
        out: list[Tensor] = []
        for sample in samples:
            if record is not None:
                try:
                    out.append(self.replayed(batch, sample, record))
                    continue
                except Diverged:
                    record = None
            out.append(self.plain(batch, sample))
        return out

    def calls(self, batch: Batch, sample: int) -> list[Call]:
        """The calls of dropout layers in a pass."""
        found: list[Call] = []
        self.choose(sample)
        with replaced(list(self.layers.values()), logging(found)):
            self._pass(batch)
        return found

    def folded(self, batch: Batch, samples: range, calls: list[Call]) -> Tensor:
        """Several samples in one pass, (len(samples), B, ...)."""
        sizes = [len(source.tensors()) for source in self.sources]

        def run(parts: list[Tensor]) -> Tensor:
            rest = iter(parts)
            for source, size in zip(self.sources, sizes, strict=True):
                source.give([next(rest) for _ in range(size)])
            return self._pass(batch)

        try:
            return fold(run, self.draws(), list(self.layers.values()), calls, self.seed, samples)
        finally:
            for source in self.sources:
                source.give(None)

    def _pass(self, batch: Batch) -> Tensor:
        return apply(batch.link, call(self.net, batch.inputs), batch.rows)


def autocasting(batch: Batch) -> tuple[bool, ...]:
    """Whether autocast is on, for each device of the inputs."""
    return tuple(torch.is_autocast_enabled(kind) for kind in sorted({t.device.type for t in tensors(batch.inputs)}))


def keeps_casts(batch: Batch) -> bool:
    """Whether autocast casts each parameter once, and takes the copy from then on."""
    return any(autocasting(batch)) and torch.is_autocast_cache_enabled()


def describe(module: Any) -> str:
    """The name of the class of a network, for messages."""
    return type(module).__name__
