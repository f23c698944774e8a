"""What the networks know about their own mistakes: curves, and the test images that they are least certain about."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..training import Images
from ..training._ask import ask
from ..training._curves import QUANTILES, Curves, curves, least_certain
from ._chart import Axis, Chart, Line, Table, reaching, style
from ._folder import NETWORKS, Folder

_LARGEST = 96  # pixels: larger images are made smaller for the page
_DRAWN = "sampled"
_STARTS = (90, 80, 50, 0)  # where the axis of the answered share may begin, percent
_LOW = 0.03  # of the highest risk: what is lower needs no room


@dataclass(frozen=True)
class Example:
    """A test image and what one method says about it.

    Attributes:
        row: which test image.
        truth: its class.
        picture: a PNG as a data URI; None where the images are not at hand.
        bars: the most probable classes, (name, probability, whether it is the true one).
        notes: entropy and, with samples, mutual information, in words.
    """

    row: int
    truth: str
    picture: str | None
    bars: Sequence[tuple[str, float, bool]]
    notes: str


@dataclass(frozen=True)
class Certainty:
    """What the page says about certainty.

    Attributes:
        charts: reliability, entropies, risk.
        examples: by the name of the method, the images that it is least certain about.
        notes: what is missing, and why.
        asked: how many test images the networks were asked about here; 0 if what `doubt` found was enough.
    """

    charts: Sequence[Chart]
    examples: Mapping[str, Sequence[Example]]
    notes: Sequence[str]
    asked: int = 0


def certainty(folder: Folder, images: Images | None, most: int) -> Certainty:
    """What ``dither doubt`` stored; a network that it was not asked about is asked here, in one pass.

    Args:
        folder: the run.
        images: the test images. None: not at hand.
        most: how many of them a network is asked about here, at most.
    """
    methods: dict[str, Curves] = {}
    uncertain: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    notes: list[str] = []
    asked = 0
    for name, shown in NETWORKS.items():
        if name in folder.curves:
            stored = folder.curves[name]
            methods |= {shown: stored["methods"]["single"], f"{shown}, {_DRAWN}": stored["methods"]["sbn"]}
            uncertain[f"{shown}, {_DRAWN}"] = ("sbn", stored["uncertain"])
        elif name in folder.files and images is not None:
            some = dataclasses.replace(images, pixels=images.pixels[:most], labels=images.labels[:most])
            try:
                answers = ask(folder.network(name), some)
            except (ValueError, RuntimeError, ImportError) as error:
                notes.append(f"The {shown} network cannot be asked: {error}")
                continue
            asked = len(some)
            methods[shown] = curves(answers, some.labels)
            uncertain[shown] = ("single", least_certain({"single": answers}, some.labels, "single"))
    examples = {
        shown: [_example(found, method, images) for found in rows]
        for shown, (method, rows) in reversed(uncertain.items())  # the network that is shipped first
    }
    return Certainty(_charts(methods), examples, notes, asked)


def _charts(methods: Mapping[str, Curves]) -> list[Chart]:
    if not methods:
        return []
    charts = [_reliability(methods), _risk(methods)]
    outside = {name: found for name, found in methods.items() if "unknown" in found}
    highest = max(max(found["known"][-1], found.get("unknown", [0])[-1]) for found in methods.values())
    charts.append(_entropies("known", "Entropy of the test images: left is better", methods, highest))
    if outside:
        charts.append(_entropies("unknown", "Entropy of images it cannot know: right is better", outside, highest))
    return charts


def _reliability(methods: Mapping[str, Curves]) -> Chart:
    lowest = min(100 * row[0] for found in methods.values() for row in found["reliability"])
    low = min(5 * (lowest // 5), 90.0)
    lines = [
        Line(
            f"{name}: ECE {100 * found['ece']:.2g} %",
            [(100 * x, 100 * y) for x, y, _ in found["reliability"]],
            style(i),
            [share for _, _, share in found["reliability"]],
        )
        for i, (name, found) in enumerate(methods.items())
    ]
    table = [
        (name, *(f"{100 * value:.4g}" for value in row))
        for name, found in methods.items()
        for row in found["reliability"]
    ]
    errors = ", ".join(f"{name} {100 * found['ece']:.2g} %" for name, found in methods.items())
    return Chart(
        "reliability",
        "Reliability: how often it is right, by how sure it is",
        f"Mean distance from the diagonal (expected calibration error): {errors}. "
        "Above the diagonal it is not sure enough, below too sure. Dots have the area of their share of the images: "
        "small ones mean little.",
        Axis("confidence, %", low, 100),
        Axis("right, %", 0, 100),
        lines,
        Table(("network", "confidence, %", "right, %", "share of the images, %"), table),
        diagonal=True,
    )


def _risk(methods: Mapping[str, Curves]) -> Chart:
    points = {name: [(100 * c, 100 * r) for c, r in found["risk"]] for name, found in methods.items()}
    # Among the few most certain answers one mistake is a large share: what is beyond the picture is in the table.
    every_point = [point for of_method in points.values() for point in of_method]
    top = max(y for x, y in every_point if x >= 10)
    start = next(s for s in _STARTS if all(y <= _LOW * top for x, y in every_point if x < s))
    every = max(1, len(next(iter(points.values()))) // 10)
    rows = {name: of_method[every - 1 :: every] for name, of_method in points.items()}
    table = [(name, f"{x:.3g}", f"{y:.3g}") for name, of_method in rows.items() for x, y in of_method]
    ends = ", ".join(f"{name} {of_method[-1][1]:.2f} %" for name, of_method in points.items())
    return Chart(
        "risk",
        "Error when the least certain images are left out",
        f"With all images answered: {ends}. Further left only the most certain ones are; low is better.",
        Axis("answered, %", start, 100),
        reaching("wrong, %", [top]),
        [
            Line(name, [p for p in of_method if p[0] >= start], style(i))
            for i, (name, of_method) in enumerate(points.items())
        ],
        Table(("network", "answered, %", "wrong, %"), table),
    )


def _entropies(kind: str, title: str, methods: Mapping[str, Curves], highest: float) -> Chart:
    lines = [
        Line(name, [(0.0, 0.0), *((x, 100 * i / QUANTILES) for i, x in enumerate(found[kind]))], style(number))
        for number, (name, found) in enumerate(methods.items())
    ]
    steps = range(0, QUANTILES + 1, 10)
    table = [[f"{100 * i / QUANTILES:.0f}", *(f"{found[kind][i]:.3g}" for found in methods.values())] for i in steps]
    medians = ", ".join(f"{name} {found[kind][QUANTILES // 2]:.3g}" for name, found in methods.items())
    return Chart(
        f"entropy-{kind}",
        title,
        f"Median entropy in nats: {medians}.",
        reaching("entropy, nats", [highest]),
        Axis("images at or below, %", 0, 100),
        lines,
        Table(("share of the images, %", *(f"{name}: entropy up to" for name in methods)), table),
    )


def _example(found: Mapping[str, Any], method: str, images: Images | None) -> Example:
    names = None if images is None else images.class_names

    def called(number: int) -> str:
        return str(number) if names is None or number >= len(names) else names[number]

    answer = found["answers"][method]
    notes = f"entropy {answer['entropy']:.2f} nats"
    if answer["information"] is not None:
        notes += f", mutual information {answer['information']:.2f}"
    at_hand = images is not None and found["row"] < len(images)
    return Example(
        found["row"],
        called(found["label"]),
        png_uri(images.pixels[found["row"]]) if images is not None and at_hand else None,
        [(called(number), p, number == found["label"]) for number, p in answer["top"]],
        notes,
    )


def png_uri(pixels: Tensor) -> str | None:
    """An image (C, H, W) of bytes as a PNG in a data URI; None if it is neither grey nor RGB.

    Example:
        >>> import torch
        >>> png_uri(torch.zeros(1, 2, 2, dtype=torch.uint8))[:30]
        'data:image/png;base64,iVBORw0K'
    """
    from PIL import Image

    if len(pixels) not in (1, 3):
        return None
    array = pixels.movedim(0, -1).cpu().numpy()
    picture = Image.fromarray(array[:, :, 0] if len(pixels) == 1 else array)
    picture.thumbnail((_LARGEST, _LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
