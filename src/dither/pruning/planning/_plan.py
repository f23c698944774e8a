"""A plan: which channels stay, as a value that can be printed, stored and compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn

from ..noise._noise import LogNormalNoise


@dataclass(frozen=True)
class Choice:
    """What stays of one channel space, or of the input columns of one layer.

    Attributes:
        name: The layer that writes the channels, or ``"layer[in]"`` for the columns of a reader.
        kept: Indices that stay, ascending.
        total: How many there are.
        snr: Quantiles 0, 25, 50, 75, 100 % of the signal-to-noise ratio; None without noise.
        reason: Why nothing can be removed; None where something could.
    """

    name: str
    kept: tuple[int, ...]
    total: int
    snr: tuple[float, ...] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """A decision that can be read, stored and carried out: which channels and columns stay.

    ``print(plan)`` is the table. Attributes:
        spaces: Channel spaces in the order of the forward pass, also those that cannot be touched.
        columns: Input columns of single layers (``features=`` of `attach`).
        sites: Hand-placed noise: the features that it lets through, by module name.
        criterion: What decided, as it was written: ``"SNR(threshold=1.0)"``.
        multiple_of: What the number of channels that stay was rounded up to a multiple of; "auto" if by measured time.
        network: Fingerprint of the network that the plan is for.
        note: What the reader should know; empty if nothing.
    """

    spaces: tuple[Choice, ...]
    columns: tuple[Choice, ...]
    sites: Mapping[str, tuple[int, ...]]
    criterion: str
    multiple_of: int | Literal["auto"]
    network: str
    note: str = ""

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """(kept, total) of every space and every layer's columns, by name."""
        return {c.name: (len(c.kept), c.total) for c in (*self.spaces, *self.columns)}

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` described, also after a trip through JSON.

        Plans of dither 0.2, which knew one criterion, are read too.

        Raises:
            ValueError: If a field is missing or unknown.
        """

        def choice(entry: dict[str, Any]) -> Choice:
            tuples: dict[str, Any] = {k: tuple(v) for k, v in entry.items() if isinstance(v, (list, tuple))}
            return Choice(**{**entry, **tuples})

        if "threshold" in values:
            values = {k: v for k, v in values.items() if k != "threshold"} | {
                "criterion": f"SNR(threshold={values['threshold']})"
            }
        try:
            fields: dict[str, Any] = {
                **values,
                "spaces": tuple(choice(entry) for entry in values["spaces"]),
                "columns": tuple(choice(entry) for entry in values["columns"]),
                "sites": {name: tuple(kept) for name, kept in values["sites"].items()},
            }
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"these values are no plan ({error}); give what Plan.to_dict returned.") from error

    def __str__(self) -> str:
        width = max([len(c.name) for c in (*self.spaces, *self.columns)] + [8])
        lines = [f"{'channels':<{width}}  {'kept/total':>11}   SNR min  25 %   50 %   75 %    max"]
        for c in (*self.spaces, *self.columns):
            quantiles = "  ".join(f"{q:5.3g}" for q in c.snr) if c.snr else "-"
            kept = f"{len(c.kept)}/{c.total}"
            lines.append(f"{c.name:<{width}}  {kept:>11}   {quantiles}" + (f"   whole: {c.reason}" if c.reason else ""))
        rounding = "where that costs no time" if self.multiple_of == "auto" else f"to multiples of {self.multiple_of}"
        lines.append(f"kept by {self.criterion}, rounded up {rounding}")
        return "\n".join(lines + ([self.note] if self.note else []))


def fingerprint(net: nn.Module) -> str:
    """Of the names and shapes of a network's tensors, gates left out."""
    own = {f"{n}.{p}" for n, m in net.named_modules() if isinstance(m, LogNormalNoise) for p in ("loc", "log_scale")}
    shapes = sorted(
        (name.replace("parametrizations.", "").removesuffix(".original"), tuple(tensor.shape))
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]
        if name not in own
    )
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]
