"""plan: decide what stays, before anything is touched."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..._inputs import Inputs
from ..._processes import check_same, check_whole, decided, unwrapped
from ..attaching._trial import fixed_by_code
from ..cutting._cut import twin
from ..cutting._plain import replace_module
from ..labels import Analysis, Space, analyse
from ..noise._check import check_gates
from ..noise._gates import find_bank, gates, ungate
from ..noise._noise import LogNormalNoise, posterior
from ._criteria import SNR, Criterion
from ._plan import Choice, Plan, fingerprint
from ._widths import free_widths

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def plan(
    net: nn.Module,
    example_inputs: Inputs,
    *,
    criterion: Criterion | None = None,
    threshold: float | None = None,
    multiple_of: int | Literal["auto"] = 1,
) -> Plan:
    """Decide which channels of a network with noise stay: those to which the criterion gives a positive score.

    Nothing is changed. A layer is never emptied: its best channel stays. With ``multiple_of`` the next-best channels
    stay until their number is a multiple; with "auto", where a measurement on this machine says that they cost no time.

    In a job of several processes (`torch.distributed`) every process calls this: it is checked that all hold the same
    parameters, the first process decides, and all get its plan. See `dither.alone` for the exception.

    Args:
        net: What `attach` returned, trained, or a network with hand-placed `LogNormalNoise`, or either in
            DistributedDataParallel.
        example_inputs: As for `attach`. With "auto", time is measured on these, at their batch size.
        criterion: What makes a unit stay. If None, the paper's: a signal-to-noise ratio above 1, ``SNR(1.0)``.
        threshold: Short for ``criterion=SNR(threshold)``.
        multiple_of: Round the kept channels of each space up to a multiple that the hardware likes. "auto" measures
            the layers of each space at several widths and keeps as many channels as take no longer.

    Returns:
        The decision; print it.

    Raises:
        ValueError: If the network carries no noise, a parameter of the noise is not finite, an argument is out of
            range, both a criterion and a threshold are given, or the criterion does not give one number to each unit.
            If processes hold different parameters, or shards of them; the first is named.
        RuntimeError: If the first of several processes failed.
        ShrinkError: If noise is placed by hand and two runs of the network without it differ.

    Example:
        >>> from dither.pruning import attach
        >>> net = attach(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
        >>> with torch.no_grad():
        ...     _ = gates(net)["0"].log_scale[:12].fill_(3.0)
        >>> plan(net, torch.zeros(1, 8)).widths
        {'0': (4, 16), '2': (4, 4)}
    """
    if multiple_of != "auto" and (isinstance(multiple_of, str) or multiple_of < 1):
        raise ValueError(f'multiple_of is {multiple_of!r}; give multiple_of >= 1 or "auto".')
    if criterion is not None and threshold is not None:
        raise ValueError(f"got criterion={criterion} and threshold={threshold}; give one of them.")
    judge = criterion or SNR(1.0 if threshold is None else threshold)
    net = unwrapped(net)
    if not gates(net):
        raise ValueError("the network carries no noise; call pruning.attach(model, example_inputs) and train it first.")
    check_whole(net)
    check_same(net)
    return decided(lambda: _plan(net, example_inputs, judge, multiple_of))


def _plan(net: nn.Module, example_inputs: Inputs, criterion: Criterion, multiple_of: int | Literal["auto"]) -> Plan:
    """What `plan` decides, in one process."""
    layers, bank = gates(net), find_bank(net)
    attached = bank.layers if bank else {}
    snr, scores = _judge(layers, criterion)
    analysis = analyse(ungate(twin(net)), example_inputs)
    whole = bank.whole if bank else _fixed(net, analysis, example_inputs)
    spaces = [space for space in analysis.spaces if not _other(space, scores)]
    free = {s.name: s for s in spaces if s.reason is None and s.name not in whole}
    best = {name: score for name, space in free.items() if (score := _best(space, scores)) is not None}
    widths = _widths(net, example_inputs, free, best, multiple_of)
    keep = {name: _first(score, widths[name]) for name, score in best.items()}
    choices = [_choice_of(space, snr, keep, whole) for space in spaces]
    choices += _too_few({n: v for n, v in snr.items() if n in attached and not n.endswith("[in]")}, choices)
    columns = [
        _choice(name, snr[name], _first(scores[name], _wanted(scores[name])))
        for name in attached
        if name.endswith("[in]")
    ]
    own = {name: values for name, values in scores.items() if name not in attached}
    signal = _sites(
        own, [(space, best[space.name], keep[space.name]) for space in spaces if space.name in best], scores
    )
    sites = {name: tuple(mask.nonzero().flatten().tolist()) for name, mask in signal.items()}
    note = "\n".join([*analysis.notes, *_nothing_learned(layers)])
    return Plan(tuple(choices), tuple(columns), sites, repr(criterion), multiple_of, fingerprint(net), note)


def _widths(
    net: nn.Module,
    example_inputs: Inputs,
    spaces: Mapping[str, Space],
    best: Mapping[str, Tensor],
    multiple_of: int | Literal["auto"],
) -> Mapping[str, int]:
    """How many channels stay of every space that carries noise."""
    if multiple_of == "auto":
        wanted = {name: (spaces[name], _rank(score), _wanted(score)) for name, score in best.items()}
        return free_widths(net, example_inputs, wanted)
    return {name: _round_up(_wanted(score), multiple_of, len(score)) for name, score in best.items()}


def _choice_of(space: Space, snr: Mapping[str, Tensor], keep: Mapping[str, Tensor], whole: Mapping[str, str]) -> Choice:
    if space.name in keep:
        return _choice(space.name, _best(space, snr), keep[space.name])
    reason = space.reason or whole.get(space.name) or "no noise was put on them (skip)"
    return Choice(space.name, tuple(range(space.size)), space.size, None, reason)


def _too_few(snr: Mapping[str, Tensor], choices: Sequence[Choice]) -> list[Choice]:
    """Gates whose space is not there: where one channel is left, the label run may see other spaces than before."""
    seen = {choice.name for choice in choices}
    return [
        replace(
            _choice(name, values, torch.ones(len(values), dtype=torch.bool)),
            reason="too few are left to choose from",
        )
        for name, values in snr.items()
        if name not in seen
    ]


def _sites(
    own: Mapping[str, Tensor], spaces: Iterable[tuple[Space, Tensor, Tensor]], scores: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What stays of noise that was placed by hand: what its own score holds, or a space that it shares.

    Args:
        own: scores of that noise.
        spaces: each with the best score of each channel and the mask of what stays.
        scores: of all noise.
    """
    sites = {name: values > 0 for name, values in own.items()}
    for space, best, keep in spaces:
        for name, at in space.noise.items():
            channel = at.clamp(min=0)
            signal = (scores[name] > 0) | (best[channel] <= 0)  # or kept although all its noise is large
            sites[name] = torch.where(at >= 0, keep[channel] & signal, sites[name])
    return sites


def _nothing_learned(layers: Mapping[str, LogNormalNoise]) -> list[str]:
    """A note, and a warning, if no gate was trained."""
    if any(layer.trained for layer in layers.values()):
        return []
    note = "Nothing was learned: all noise is at its initial value, so the plan says nothing about the network."
    warnings.warn(f"{note} Train with loss + pruning.kl(net) / num_data first.", UserWarning, stacklevel=6)
    return [note]


@torch.no_grad()
def _judge(layers: Mapping[str, LogNormalNoise], criterion: Criterion) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The SNR and the score of every layer's units, in one call for all of them, on the CPU."""
    check_gates(layers)
    law = posterior(list(layers.values()))
    ratios, scores = law.snr.cpu(), criterion.score(law).cpu()
    if scores.shape != ratios.shape or bool(scores.isnan().any()):
        raise ValueError(
            f"{criterion} gave scores of shape {tuple(scores.shape)} with {int(scores.isnan().sum())} NaN for "
            f"{len(ratios)} units; it must give one number to each."
        )
    sizes = [layer.num_features for layer in layers.values()]
    snr, score = (dict(zip(layers, values.split(sizes), strict=True)) for values in (ratios, scores))
    return snr, score


def _fixed(net: nn.Module, analysis: Analysis, example_inputs: Inputs) -> dict[str, str]:
    """The spaces under noise placed by hand that the code holds on to: what `attach` finds out for its own gates."""
    bare = twin(net)
    for noise in gates(bare).values():
        replace_module(bare, noise, nn.Identity())
    return fixed_by_code(bare, [s for s in analysis.spaces if s.reason is None and s.noise], example_inputs)


def _best(space: Space, values: Mapping[str, Tensor]) -> Tensor | None:
    """The value of each channel of a space; where several layers of noise must all drop it, the largest."""
    if not space.noise:
        return values.get(space.name)
    best = torch.full((space.size,), -math.inf, dtype=torch.float64)
    for name, at in space.noise.items():
        here = at >= 0
        best.scatter_reduce_(0, at[here], values[name][here].double(), "amax")
    return best


def _wanted(score: Tensor) -> int:
    """How many channels the criterion keeps; never none."""
    return max(int((score > 0).sum()), 1)


def _round_up(count: int, multiple_of: int, size: int) -> int:
    return min(math.ceil(count / multiple_of) * multiple_of, size)


def _other(space: Space, values: Mapping[str, Tensor]) -> bool:
    """Whether a gate has the name of these channels, but was made for others."""
    return not space.noise and space.name in values and len(values[space.name]) != space.size


def _rank(score: Tensor) -> Tensor:
    """The channels, best first."""
    return score.argsort(descending=True, stable=True)


def _first(score: Tensor, count: int) -> Tensor:
    """The best ``count`` channels, as a mask."""
    keep = torch.zeros(len(score), dtype=torch.bool)
    keep[_rank(score)[:count]] = True
    return keep


def _choice(name: str, snr: Tensor | None, keep: Tensor) -> Choice:
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    quantiles = None if snr is None else tuple(torch.quantile(snr.double(), levels).tolist())
    return Choice(name, tuple(keep.nonzero().flatten().tolist()), len(keep), quantiles)
