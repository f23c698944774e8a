"""What fit found, to read and to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._moments import MIN_TESTED, Moments, normality_p_value
from ._observe import Observed, dead_channels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.01  # of the test for normality


@dataclass(frozen=True)
class LayerFit:
    r"""The noise of one layer, and how well the laws describe it.

    Attributes:
        name: The layer.
        num_features: Its channels, times the calls in one pass of the network.
        mean_noise: :math:`\mathrm{sd}(\mu_B) / \sqrt{E\sigma_B^2}`, median over channels.
        log_var_noise: :math:`\mathrm{sd}(\log\sigma_B^2)`, median over channels; about the relative noise of σ².
        normal_rejected: Share of channels whose μ_B is not normal, by D'Agostino and Pearson's K² at 1 %; that much is
            expected by chance. NaN with fewer than 20 batches.
        log_normal_rejected: The same for log σ²_B, that is for σ²_B and LogNormal.
        dead: Channels whose variance vanished in some batch. They are left out of everything above.
        mean_sample: Standardised μ_B of the first batches for a few channels, (K, at most 16 for each call).
        log_var_sample: Standardised log σ²_B of the same.
    """

    name: str
    num_features: int
    mean_noise: float
    log_var_noise: float
    normal_rejected: float
    log_normal_rejected: float
    dead: int
    mean_sample: Tensor = field(repr=False, compare=False)
    log_var_sample: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class FitReport:
    """What `fit` found. ``print(report)`` is a table.

    Attributes:
        num_batches: How many batches were looked at, in all processes.
        batch_size: Examples in each.
        seconds: Wall-clock time.
        layers: One entry for each layer that is called.
        unused: Converted layers that no forward pass calls.
        left_out: Examples in a smaller last batch, which was not used.
    """

    num_batches: int
    batch_size: int
    seconds: float
    layers: tuple[LayerFit, ...]
    unused: tuple[str, ...] = ()
    left_out: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know beside the numbers."""
        notes: list[str] = []
        if self.num_batches < 200:
            error = 100 / math.sqrt(2 * (self.num_batches - 1))
            notes.append(f"few batches: standard deviations are known to about {error:.0f} %")
        if self.num_batches < MIN_TESTED:
            notes.append(f"the tests of the laws need {MIN_TESTED} batches")
        if self.left_out:
            notes.append(f"left out: a smaller last batch of {self.left_out} examples")
        if dead := sum(layer.dead for layer in self.layers):
            notes.append(f"{dead} dead channels get no noise on their variance")
        if self.unused:
            notes.append(f"never called, no law: {', '.join(self.unused)}")
        return tuple(notes)

    def __str__(self) -> str:
        width = max([len(layer.name) for layer in self.layers] + [8])
        begin = f"{self.num_batches:,} batches of {self.batch_size} examples in {self.seconds:.1f} s"
        head = f"{'layer':<{width}}  {'channels':>8}  {'dead':>5}  {'noise of μ':>10}  {'of log σ²':>10}"
        lines = [begin, f"{head}  {'Normal':>8}  {'LogNormal':>9}"]
        for layer in self.layers:
            numbers = (
                f"{layer.num_features:>8}  {layer.dead:>5}  {layer.mean_noise:>10.4f}  {layer.log_var_noise:>10.4f}"
            )
            rejected = f"{_percent(layer.normal_rejected):>8}  {_percent(layer.log_normal_rejected):>9}"
            lines.append(f"{layer.name:<{width}}  {numbers}  {rejected}")
        lines.append("noise: sd(μ_B)/σ and sd(log σ²_B), median over channels")
        lines.append("Normal, LogNormal: channels that the law does not fit (K² test at 1 %, chance: 1 %)")
        return "\n".join([*lines, *self.notes])

    def figure(self) -> Figure:
        """Quantiles of the statistics against those of their laws, see `dither.figures.statistics_figure`.

        Raises:
            ImportError: If matplotlib is missing.
        """
        from ..figures import statistics_figure

        return statistics_figure(self)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"


def describe(observed: Observed, moments: Moments) -> tuple[LayerFit, ...]:
    """The entries of the report, in the order of the layers."""
    live = ~dead_channels(moments)
    std = moments.std.view(4, -1)
    mean_noise = std[0] / moments.mean.view(4, -1)[2].sqrt()
    p_values = normality_p_value(moments).view(4, -1)
    samples = _standardised(torch.stack(observed.pictures)) if observed.pictures else torch.empty(0, 2, 0)
    entries: list[LayerFit] = []
    for name, part in observed.columns.items():
        alive = live[part]
        sample = samples[:, :, observed.picture_columns[name]]
        entries.append(
            LayerFit(
                name=name,
                num_features=len(alive),
                mean_noise=_median(mean_noise[part][alive]),
                log_var_noise=_median(std[1, part][alive]),
                normal_rejected=_share_rejected(p_values[0, part][alive]),
                log_normal_rejected=_share_rejected(p_values[1, part][alive]),
                dead=int((~alive).sum()),
                mean_sample=_varying(sample[:, 0]),
                log_var_sample=_varying(sample[:, 1]),
            )
        )
    return tuple(entries)


def _standardised(sample: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1; NaN where a column is constant."""
    return (sample - sample.mean(0)) / sample.std(0)


def _varying(sample: Tensor) -> Tensor:
    return sample[:, torch.isfinite(sample).all(0)].float()


def _median(values: Tensor) -> float:
    return float(values.median()) if len(values) else math.nan


def _share_rejected(p_values: Tensor) -> float:
    tested = p_values[torch.isfinite(p_values)]
    return float((tested < LEVEL).double().mean()) if len(tested) else math.nan
