"""What all the laws approximate: the test example in the company of training examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .._inputs import call, evaluating, split_batch, tensors
from ..prediction import Prediction
from ..prediction._link import Link, apply, check_finite, softmax
from ._source import find_source


def exact_predict(net: nn.Module, x: Any, batches: Iterable[Any], *, link: Link | None = None) -> Prediction:
    r"""Prediction by the definition: each example is put into each training batch, and only its own row is kept.

    .. math:: p(y \mid x) = \mathrm{E}_{B} \; p\big(y \mid x, \mu_{B \cup \{x\}}, \sigma^2_{B \cup \{x\}}\big)

    Every converted layer normalises with the statistics of the M examples that it sees; nothing is approximated, no
    `fit` is needed. S batches and B examples take S · B passes of M examples: this is the oracle for the laws, on small
    networks.

    Args:
        net: What `convert` returned; modes and running statistics stay as they are. Dropout is off.
        x: B examples, as the network takes them.
        batches: S batches of M - 1 training examples: tensors, tuples that begin with the input, or dicts.
        link: From what the network returns to a tensor; None is the softmax over dimension 1.

    Returns:
        One sample for each batch, (S, B, K).

    Raises:
        ValueError: If the net is not converted, there is no batch, a batch has other tensors than ``x``, or outputs are
            not finite.

    Source: Atanov et al. 2018, section 3; Teye et al. 2018. Oracle: ``tests/batchnorm/oracles.py``.

    Example:
        >>> from dither.batchnorm import convert
        >>> net = convert(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)))
        >>> exact_predict(net, torch.randn(5, 3), torch.randn(60, 3).split(15))
        Prediction(4 samples of (5, 2))
    """
    source = find_source(net)
    rows = len(tensors(x)[0]) if tensors(x) else 0
    if not rows:
        raise ValueError("x has no examples")
    linked = softmax if link is None else link
    samples: list[Tensor] = []
    with evaluating(net), source.observing(lambda name, site, seen: None):
        for batch in batches:
            others, _ = split_batch(net, batch)
            samples.append(torch.cat([_last_row(net, _joined(others, x, row), linked) for row in range(rows)]))
    if not samples:
        raise ValueError("batches is empty: one batch of training examples is needed at least")
    stacked = torch.stack(samples)
    check_finite(stacked)
    return Prediction(stacked)


def _last_row(net: nn.Module, inputs: Any, link: Link) -> Tensor:
    return apply(link, call(net, inputs), len(tensors(inputs)[0]))[-1:]


def _joined(others: Any, x: Any, row: int) -> Any:
    """A batch with one row of ``x`` behind it."""
    if isinstance(others, Tensor) and isinstance(x, Tensor):
        if others.shape[1:] != x.shape[1:]:
            raise ValueError(f"the batches hold examples of shape {tuple(others.shape[1:])}, x of {tuple(x.shape[1:])}")
        return torch.cat([others, x[row : row + 1]])
    if isinstance(others, dict) and isinstance(x, dict):
        return {name: _joined(others[name], x[name], row) for name in x}
    if isinstance(others, (list, tuple)) and isinstance(x, (list, tuple)):
        return tuple(_joined(a, b, row) for a, b in zip(others, x, strict=True))
    raise ValueError(f"x is a {type(x).__name__} and the batches hold a {type(others).__name__}: expected the same")
