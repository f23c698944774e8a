"""Where lines and words stand in a picture, and the curves behind them."""

import json
import math

import pytest
import torch

from dither import metrics
from dither.report._chart import Axis, Chart, Line, Table, reaching
from dither.report._snr import heats
from dither.training._ask import Answers
from dither.training._curves import curves, least_certain


def test_values_stand_where_the_axes_say() -> None:
    chart = Chart("key", "", "", Axis("x", 0, 10), Axis("y", 1, 100, log=True), [], Table((), []), diagonal=True)
    frame = chart.frame
    assert (chart.left(0), chart.left(10), chart.left(2.5)) == (frame.left, frame.right, frame.left + 364 / 4)
    assert (chart.top(1), chart.top(100), chart.top(10)) == (frame.bottom, frame.top, (frame.bottom + frame.top) / 2)
    assert (chart.left(-5), chart.left(50), chart.top(0)) == (frame.left, frame.right, frame.bottom)
    assert chart.path(Line("a", [(0, 1), (10, 100)])) == "M40 216L404 24"
    assert chart.dots(Line("a", [(0, 1)], sizes=[0.25])) == [(40, 216, 5)]


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 100), [0, 20, 40, 60, 80, 100]),
        (Axis("", 90, 100), [90, 92, 94, 96, 98, 100]),
        (Axis("", 0, 0.9), [0, 0.2, 0.4, 0.6, 0.8]),
        (Axis("", 0.4, 60, log=True), [0.5, 1, 2, 5, 10, 20, 50]),
        (Axis("", 0.01, 90, log=True), [0.01, 0.1, 1, 10]),
    ],
)
def test_ticks_are_round_and_within_the_range(axis: Axis, ticks: list[float]) -> None:
    assert axis.ticks == pytest.approx(ticks)


def test_small_errors_beside_large_ones_get_a_logarithmic_axis() -> None:
    assert reaching("e", [90.0, 0.5, 0.0], log_from=0.1) == Axis("e", 0.05, 90.0, log=True)
    assert reaching("e", [9.0, 0.5], log_from=0.1) == Axis("e", 0, 1.05 * 9)
    assert reaching("e", [0.0]) == Axis("e", 0, 1)


def test_cells_stand_above_or_below_the_threshold() -> None:
    rows = [
        {"epoch": 1, "snr": {"conv": {"12": 4}}, "kept": {"conv": 4}},
        {"epoch": 2, "snr": {"conv": {"-4": 3, "12": 1}}, "kept": {"conv": 1}},
    ]
    (heat,) = heats(rows, threshold=1.0)
    assert list(heat.bins) == list(range(-4, 13))
    # Column and row of each cell; the top row is bin 12 and row 16 is bin -4. All four units: the darkest of 6 shades.
    assert heat.shades == [("dropped", 6, "M1 16h1v1h-1z"), ("kept", 3, "M1 0h1v1h-1z"), ("kept", 6, "M0 0h1v1h-1z")]
    down = heat.scale[1]
    assert heat.threshold_at == pytest.approx(heat.frame.top + 13 * down, abs=0.1)  # between bins 0 and -1
    assert [words for _, words in heat.ticks] == ["1", "10"]
    assert [row[:3] for row in heat.table.rows] == [["1", "4", "0"], ["2", "1", "3"]]
    assert float(heat.table.rows[1][3]) == pytest.approx(10 ** (-3.5 / 8), rel=0.05)
    (higher,) = heats(rows, threshold=50.0)
    assert {kind for kind, _, _ in higher.shades} == {"dropped"}
    assert heats([{"epoch": 1, "kept": {}}], 1.0) == []


def test_curves_are_those_of_the_metrics() -> None:
    probs = torch.rand(1000, 4).pow(6)
    probs = probs / probs.sum(1, keepdim=True)
    labels = torch.randint(0, 4, (1000,))
    answers = Answers(probs, metrics.entropy(probs))
    outside = Answers(probs[:10], answers.entropy[:10] + 1)
    found = json.loads(json.dumps(curves(answers, labels, outside)))
    assert found["ece"] == metrics.ece(probs, labels)
    torch.testing.assert_close(
        torch.tensor(found["reliability"], dtype=torch.float64).T,
        torch.stack(metrics.reliability(probs, labels)),
        atol=1e-6,
        rtol=0,
    )
    wrong = probs.argmax(1) != labels
    order = answers.entropy.sort().indices
    for coverage, risk in found["risk"]:
        first = order[: round(coverage * 1000)]
        assert risk == pytest.approx(wrong[first].double().mean().item(), abs=1e-6)
    assert found["risk"][-1][0] == 1
    for percent in (0, 25, 50, 100):
        share = (answers.entropy <= found["known"][percent] + 1e-6).double().mean().item()
        assert share == pytest.approx(percent / 100, abs=2e-3)
    assert found["unknown"][0] == pytest.approx(outside.entropy.min().item(), abs=1e-6)
    assert "unknown" not in curves(answers, labels)


def test_the_least_certain_come_first_with_their_probabilities() -> None:
    probs = torch.rand(40, 7)
    probs = probs / probs.sum(1, keepdim=True)
    probs[30] = probs[3]
    answers = Answers(probs, metrics.entropy(probs), torch.arange(40.0))
    found = least_certain({"a": Answers(probs.flip(1), answers.entropy), "b": answers}, torch.arange(40) % 7, "b")
    entropies = [row["answers"]["b"]["entropy"] for row in found]
    assert entropies == sorted(entropies, reverse=True)
    assert len(found) == 12
    assert entropies[-1] >= answers.entropy.sort(descending=True).values[12].item() - 1e-6
    for row in found:
        top = row["answers"]["b"]["top"]
        assert len(top) == 5
        assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
        for number, p in top:
            assert p == pytest.approx(probs[row["row"], number].item(), abs=1e-6)
        assert row["answers"]["a"]["top"][0][0] == 6 - top[0][0]
        assert row["answers"]["b"]["information"] == row["row"]
        assert row["answers"]["a"]["information"] is None
        assert row["label"] == row["row"] % 7
    rows = [row["row"] for row in found]
    if 3 in rows:
        assert rows[rows.index(3) + 1] == 30
    assert math.isfinite(sum(entropies))
