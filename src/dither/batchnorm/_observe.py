"""The statistics of every BatchNorm layer, batch by batch, as one long vector per batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._moments import Moments
from ._synchronised import Batch

if TYPE_CHECKING:
    from ._layer import StochasticBatchNorm

PICTURED = 16  # channels of each layer whose single statistics the report shows
PICTURED_BATCHES = 512


class Place(NamedTuple):
    """One call of one layer in a pass of the network."""

    layer: str
    site: int
    width: int
    double: bool  # the layer computes in float64


@dataclass
class Observed:
    """What one process saw. Vectors are μ_B of all places, then log σ²_B, σ²_B, and 1 where the channel was dead.

    Attributes:
        places: What the vectors are made of; empty if there was no batch.
        moments: Of the vectors.
        records: μ_B and log σ²_B of the first batches, in the precision of the network.
        pictures: The same for a few channels, in float64.
        batch_size: Examples per batch; 0 if there was none.
        left_out: Examples in a smaller last batch.
        ranks: The processes whose batches are one batch, for SyncBatchNorm; empty without.
    """

    places: tuple[Place, ...] = ()
    moments: Moments | None = None
    records: list[Tensor] = field(default_factory=list[Tensor])
    pictures: list[Tensor] = field(default_factory=list[Tensor])
    batch_size: int = 0
    left_out: int = 0
    ranks: tuple[int, ...] = ()

    @property
    def sites(self) -> dict[str, int]:
        """How often each layer is called in a pass."""
        return dict(Counter(place.layer for place in self.places))

    @property
    def columns(self) -> dict[str, slice]:
        """Where the channels of each layer stand among all channels side by side: its calls follow one another."""
        return _slices((place.layer, place.width) for place in self.places)

    @property
    def picture_columns(self) -> dict[str, slice]:
        """Where they stand in `pictures`."""
        return _slices((place.layer, min(PICTURED, place.width)) for place in self.places)


def _slices(widths: Iterable[tuple[str, int]]) -> dict[str, slice]:
    found: dict[str, slice] = {}
    end = 0
    for layer, width in widths:
        found[layer] = slice(found[layer].start if layer in found else end, end + width)
        end += width
    return found


def floor(eps: float) -> float:
    """The variance below which a channel counts as dead.

    BatchNorm divides by the root of σ² + ε, so what is far below ε cannot be seen in its output, and the logarithm of
    such a variance is noise.
    """
    return max(eps * eps, 1e-30)


def dead_channels(moments: Moments) -> Tensor:
    """Which channels were dead in some batch, (T,), from the moments of the vectors."""
    return moments.mean.view(4, -1)[3] > 0


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    return device.type != "mps"


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel in two passes, in float64.

    Where the device has no float64, the passes are in float32 and the second corrects the mean of the first.
    """
    dims = [0, *range(2, x.ndim)]
    narrow = not has_float64(x.device)
    wide = x.float() if narrow else x.double()
    center = wide.mean(dims, keepdim=True)
    deviation = wide - center
    found = center.flatten(), deviation.mean(dims), deviation.square().mean(dims)
    mean, rest, square = (t.cpu().double() for t in found) if narrow else found
    return mean + rest, square - rest.square()


def picture_columns(places: Sequence[Place]) -> list[int]:
    """Columns of at most `PICTURED` channels of every place, among all channels side by side."""
    columns: list[int] = []
    begin = 0
    for place in places:
        count = min(PICTURED, place.width)
        columns += [begin + i * place.width // count for i in range(count)]
        begin += place.width
    return columns


class Observer:
    """Collects the statistics of a pass and adds them to what was `Observed` at its end.

    Args:
        layers: The layers by name.
        num_records: Of how many batches to keep the statistics.
        batch: Who holds parts of a batch; None: this process holds it all.
    """

    def __init__(self, layers: Mapping[str, StochasticBatchNorm], num_records: int, batch: Batch | None = None) -> None:
        self._layers, self._batch = layers, batch
        self._order = {name: i for i, name in enumerate(layers)}
        self._num_records = num_records
        self._columns: list[int] = []
        self._pass: dict[tuple[int, int], tuple[Place, Tensor, Tensor]] = {}
        self.observed = Observed()

    def __call__(self, name: str, site: int, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """A layer is called with ``x``: μ_B and σ²_B of the batch, if ``x`` is only a part of it."""
        key = self._order[name], site
        if key in self._pass:  # the converted network is part of a larger one, which calls it again
            self.end_of_pass()
        mean, var = channel_statistics(x)
        if self._batch is not None:
            mean, var = self._batch.united(mean, var, x.numel() // len(mean))
        self._pass[key] = Place(name, site, len(mean), x.dtype == torch.float64), mean, var
        return None if self._batch is None else (mean, var)

    def end_of_pass(self) -> None:
        """All layers were called.

        Raises:
            ValueError: If no layer was, others than before were, or a statistic is not finite.
        """
        entries = [self._pass[key] for key in sorted(self._pass)]
        self._pass = {}
        places, seen = tuple(entry[0] for entry in entries), self.observed
        number = seen.moments.count if seen.moments else 0
        if not places:
            raise ValueError(f"no converted layer is called in a forward pass: {', '.join(self._layers)}")
        if seen.moments and places != seen.places:
            raise ValueError(
                f"batch {number}: {_difference(seen.places, places)}. A law needs the same calls every time"
            )
        vector = self._vector(entries)
        if not bool(torch.isfinite(vector).all()):
            bad = next(p.layer for p, m, v in entries if not bool(torch.isfinite(m + v).all()))
            raise ValueError(
                f"batch {number}: the input of {bad!r} holds NaN or infinity, but that of the network does not; "
                "are its weights finite?"
            )
        seen.places = places
        seen.moments = seen.moments.merge(Moments.of(vector)) if seen.moments else Moments.of(vector)
        half = len(vector) // 2
        if len(seen.records) < self._num_records:
            dtype = torch.float64 if any(place.double for place in places) else torch.float32
            seen.records.append(vector[:half].to("cpu", dtype))
        if len(seen.pictures) < PICTURED_BATCHES:
            columns = torch.tensor(picture_columns(places), device=vector.device)
            seen.pictures.append(vector[:half].view(2, -1)[:, columns].cpu())

    def _vector(self, entries: list[tuple[Place, Tensor, Tensor]]) -> Tensor:
        device = entries[0][1].device
        mean = torch.cat([mean.to(device) for _, mean, _ in entries])
        var = torch.cat([var.to(device) for _, _, var in entries])
        floors = torch.cat([mean.new_full((p.width,), floor(self._layers[p.layer].eps)) for p, *_ in entries])
        raised = torch.maximum(var, floors)
        return torch.cat((mean, raised.log(), raised, (var < floors).double()))


def _difference(before: Sequence[Place], after: Sequence[Place]) -> str:
    """Which layer was called differently."""
    for place in (*before, *after):
        old, new = (sum(p.layer == place.layer for p in places) for places in (before, after))
        if old != new:
            return f"{place.layer!r} is called {new} times in a forward pass, and {old} times in the first"
    return "layers see other shapes or dtypes than in the first"
