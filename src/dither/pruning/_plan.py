"""plan: decide what stays, before anything is touched."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import Inputs
from ._gates import find_bank, gates, ungate
from ._noise import LogNormalNoise, posterior
from .labels import Space, analyse

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


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
        threshold: Signal-to-noise ratio above which a unit stays.
        multiple_of: What the number of channels that stay was rounded up to.
        network: Fingerprint of the network that the plan is for.
        note: What the reader should know; empty if nothing.
    """

    spaces: tuple[Choice, ...]
    columns: tuple[Choice, ...]
    sites: Mapping[str, tuple[int, ...]]
    threshold: float
    multiple_of: int
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

        Raises:
            ValueError: If a field is missing or unknown.
        """

        def choice(entry: dict[str, Any]) -> Choice:
            tuples: dict[str, Any] = {k: tuple(v) for k, v in entry.items() if isinstance(v, (list, tuple))}
            return Choice(**{**entry, **tuples})

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
        lines.append(f"kept where SNR > {self.threshold:g}, rounded up to multiples of {self.multiple_of}")
        return "\n".join(lines + ([self.note] if self.note else []))


def fingerprint(net: nn.Module) -> str:
    """Of the names and shapes of a network's tensors, gates left out."""
    own = {f"{n}.{p}" for n, m in net.named_modules() if isinstance(m, LogNormalNoise) for p in ("loc", "log_scale")}
    shapes = sorted(
        (name.replace("parametrizations.", "").removesuffix(".original"), tuple(tensor.shape))
        for name, tensor in [*net.named_parameters(), *net.named_buffers()]
        if name not in own and not name.endswith(".0.index")
    )
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def plan(net: nn.Module, example_inputs: Inputs, *, threshold: float = 1.0, multiple_of: int = 1) -> Plan:
    """Decide which channels of a network with noise stay: those whose signal-to-noise ratio is above ``threshold``.

    Nothing is changed. A layer is never emptied: its best channel stays. With ``multiple_of`` the next-best channels
    stay until their number is a multiple.

    Args:
        net: What `attach` returned, trained, or a network with hand-placed `LogNormalNoise`.
        example_inputs: As for `attach`.
        threshold: The paper's criterion is SNR > 1.
        multiple_of: Round the kept channels of each space up to a multiple that the hardware likes.

    Returns:
        The decision; print it.

    Raises:
        ValueError: If the network carries no noise, a parameter of the noise is not finite, or an argument is out of
            range.

    Example:
        >>> from dither.pruning import attach
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> with torch.no_grad():
        ...     _ = gates(net)["0"].log_scale[:12].fill_(3.0)
        >>> plan(net, torch.zeros(1, 8)).widths
        {'0': (4, 16), '2': (4, 4)}
    """
    layers = gates(net)
    if not layers:
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) and train it first.")
    if not threshold >= 0 or multiple_of < 1:
        raise ValueError(
            f"threshold is {threshold} and multiple_of {multiple_of}; give threshold >= 0, multiple_of >= 1."
        )
    bank = find_bank(net)
    snr = _snr(layers)
    analysis = analyse(ungate(copy.deepcopy(net)), example_inputs)
    spaces: list[Choice] = []
    sites = {name: snr[name] > threshold for name in layers if not bank or name not in bank.layers}
    for space in analysis.spaces:
        ratio = _ratio(space, snr)
        if space.reason is not None or ratio is None:
            reason = space.reason or "no noise was put on them (skip)"
            spaces.append(Choice(space.name, tuple(range(space.size)), space.size, None, reason))
            continue
        keep = _keep(ratio, threshold, multiple_of)
        spaces.append(_choice(space.name, ratio, keep))
        for name, at in space.noise.items():
            channel = at.clamp(min=0)
            signal = (snr[name] > threshold) | (ratio[channel] <= threshold)  # or kept although all its noise is large
            sites[name] = torch.where(at >= 0, keep[channel] & signal, sites[name])
    columns = [
        _choice(name, snr[name], _keep(snr[name], threshold, 1))
        for name in (bank.layers if bank else ())
        if name.endswith("[in]")
    ]
    note = ""
    if not any(layer.trained for layer in layers.values()):
        note = "Nothing was learned: all noise is at its initial value, so the plan says nothing about the network."
        warnings.warn(f"{note} Train with loss + pruning.kl(net) / num_data first.", UserWarning, stacklevel=2)
    kept_sites = {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in sites.items()}
    return Plan(tuple(spaces), tuple(columns), kept_sites, threshold, multiple_of, fingerprint(net), note)


@torch.no_grad()
def _snr(layers: Mapping[str, LogNormalNoise]) -> dict[str, Tensor]:
    """The SNR of every layer's units, in one call, on the CPU."""
    for name, layer in layers.items():
        if not all(bool(p.isfinite().all()) for p in layer.parameters()):
            raise ValueError(f'the noise "{name}" has parameters that are not finite; go back to a good checkpoint.')
    ratios = posterior(list(layers.values())).snr.cpu()
    return dict(zip(layers, ratios.split([layer.num_features for layer in layers.values()]), strict=True))


def _ratio(space: Space, snr: Mapping[str, Tensor]) -> Tensor | None:
    """The SNR of each channel of a space; where several layers of noise must all drop it, the largest."""
    if not space.noise:
        return snr.get(space.name)
    ratio = torch.full((space.size,), -math.inf, dtype=torch.float64)
    for name, at in space.noise.items():
        here = at >= 0
        ratio.scatter_reduce_(0, at[here], snr[name][here].double(), "amax")
    return ratio


def _keep(ratio: Tensor, threshold: float, multiple_of: int) -> Tensor:
    """The channels that stay, as a mask: never none, and as many as a multiple wants."""
    count = max(int((ratio > threshold).sum()), 1)
    count = min(math.ceil(count / multiple_of) * multiple_of, len(ratio))
    keep = torch.zeros(len(ratio), dtype=torch.bool)
    keep[ratio.argsort(descending=True, stable=True)[:count]] = True
    return keep


def _choice(name: str, ratio: Tensor, keep: Tensor) -> Choice:
    quantiles = torch.quantile(ratio.double(), torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return Choice(name, tuple(keep.nonzero().flatten().tolist()), len(ratio), tuple(quantiles))
