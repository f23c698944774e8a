"""What a picture of certainty needs, as a few numbers: curves of any number of answers, and the least certain ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..metrics import ece, reliability, risk_coverage
from ._ask import Answers

QUANTILES = 100  # steps of the entropy's distribution
COVERAGES = 50  # points of the risk-coverage curve
SHOWN = 12  # images that are least certain
_TOP = 5  # classes of each

Curves = dict[str, Any]


def curves(answers: Answers, labels: Tensor, outside: Answers | None = None) -> Curves:
    """A reliability diagram, the error against what is answered, and the entropies, as plain numbers.

    Args:
        answers: what a network says about N test images.
        labels: their classes, (N,).
        outside: what it says about images that it cannot know.

    Returns:
        ``ece`` (a share); ``reliability``, rows (confidence, accuracy, share) of the bins that hold something;
        ``risk``, rows (share that is answered, share of these that is wrong); ``known`` and, with ``outside``,
        ``unknown``: the quantiles 0, 1, ..., 100 % of the entropy in nats.

    Example:
        >>> from dither.metrics import entropy
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> found = curves(Answers(probs, entropy(probs)), torch.tensor([0, 1]))
        >>> found["reliability"], found["risk"][-1], found["known"][100]
        ([[0.5, 0.0, 0.5], [0.75, 1.0, 0.5]], [1.0, 0.5], 0.693147)
    """
    wrong = answers.probs.argmax(1) != labels
    coverage, risk = risk_coverage(answers.entropy, wrong)
    picked = (torch.linspace(0, 1, COVERAGES + 1)[1:] * len(labels)).round().long().clamp_min(1).unique() - 1
    found: Curves = {
        "ece": ece(answers.probs, labels),
        "reliability": _rounded(torch.stack(reliability(answers.probs, labels), 1)),
        "risk": _rounded(torch.stack((coverage[picked], risk[picked]), 1)),
        "known": _quantiles(answers.entropy),
    }
    return found if outside is None else {**found, "unknown": _quantiles(outside.entropy)}


def least_certain(answers: Mapping[str, Answers], labels: Tensor, by: str) -> list[dict[str, Any]]:
    """The images with the largest entropy, and what each method says about them.

    Args:
        answers: by the name of the method, about the same N images.
        labels: their classes, (N,).
        by: the method whose entropy counts. Of equal entropies the earlier image comes first.

    Returns:
        Up to 12 of ``row`` (which image), ``label`` and ``answers``: by method ``entropy`` and ``information`` in nats
        (None without samples) and ``top``, up to five pairs (class, probability), the most probable first.

    Example:
        >>> from dither.metrics import entropy
        >>> probs = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        >>> found = least_certain({"single": Answers(probs, entropy(probs))}, torch.tensor([0, 1]), "single")
        >>> found[0]["row"], found[0]["answers"]["single"]["top"]
        (1, [[0, 0.5], [1, 0.5]])
    """
    rows = answers[by].entropy.sort(descending=True, stable=True).indices[:SHOWN].tolist()
    return [
        {
            "row": row,
            "label": int(labels[row]),
            "answers": {method: _answer(asked, row) for method, asked in answers.items()},
        }
        for row in rows
    ]


def _answer(asked: Answers, row: int) -> dict[str, Any]:
    probs, classes = asked.probs[row].double().sort(descending=True, stable=True)
    top = [[number, round(p, 6)] for number, p in zip(classes.tolist(), probs.tolist(), strict=True)][:_TOP]
    information = None if asked.information is None else round(asked.information[row].item(), 6)
    return {"entropy": round(asked.entropy[row].item(), 6), "information": information, "top": top}


def _quantiles(values: Tensor) -> list[float]:
    ordered = values.double().cpu().sort().values  # torch.quantile refuses more than 16 million
    rows = torch.linspace(0, len(ordered) - 1, QUANTILES + 1, dtype=torch.float64).round().long()
    return _rounded(ordered[rows])


def _rounded(values: Tensor) -> Any:
    return values.double().mul(1e6).round().div(1e6).tolist()
