"""How the signal-to-noise ratios of the gates are spread, in few numbers: a row of the history for every epoch."""

from __future__ import annotations

from torch import nn

from ..pruning import gates

PER_DECADE = 8
LOWEST, HIGHEST = -8, 23  # bins: 0.1 to 1,000; noise alone has a ratio of 0.33, and gates begin near 250


def snr_histograms(net: nn.Module) -> dict[str, dict[str, int]]:
    r"""Units by signal-to-noise ratio, on a logarithmic scale, for every gate.

    Bin k holds :math:`10^{k/8} \le \mathrm{SNR} < 10^{(k+1)/8}`, so bins from 0 on are kept by a threshold of 1. The
    first bin (-8) and the last (23) hold what is beyond them, too. Empty bins are left out.

    Args:
        net: a network with gates, see `dither.pruning.attach`.

    Returns:
        By the name of the gate, {bin: number of units}, as JSON has it: keys are text.

    Example:
        >>> import torch
        >>> from dither import pruning
        >>> net = pruning.attach(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(1, 3))
        >>> _ = pruning.gates(net)["0"].log_scale.data[:1].fill_(5.0)     # wide noise: one unit drowns
        >>> snr_histograms(net)
        {'0': {'-4': 1, '19': 3}}
    """
    found: dict[str, dict[str, int]] = {}
    for name, layer in gates(net).items():
        bins = (layer.snr.double().log10() * PER_DECADE).floor().clamp(LOWEST, HIGHEST)
        numbers, counts = bins.long().cpu().unique(return_counts=True)
        found[name] = {str(number): count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}
    return found
