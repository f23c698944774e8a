"""The figures draw the metrics, name their axes and units, and leave no state behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dither import figures, metrics


def classifier(count: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 4
    logits = torch.randn(count, 4, generator=generator)
    logits[torch.arange(count), target] += 4 * torch.rand(count, generator=generator)
    return logits.softmax(1), target


PROBS, TARGET = classifier()
OTHER = classifier(seed=1)[0]


def lines(axes: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.get_lines()}


def names(figure: Any) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def every_figure() -> dict[str, Any]:
    doubt, wrong = metrics.entropy(PROBS), PROBS.argmax(1) != TARGET
    samples = metrics.nll_by_samples(torch.stack([PROBS, OTHER, PROBS, OTHER]), TARGET)
    return {
        "reliability": figures.reliability_diagram({"a": PROBS, "b": OTHER}, TARGET),
        "ecdf": figures.entropy_ecdf({"a": doubt, "b": 1.1 * doubt}, {"a": 2 * doubt, "b": 3 * doubt}),
        "risk": figures.risk_coverage({"a": (doubt, wrong), "b": (-doubt, wrong)}),
        "samples": figures.nll_by_samples({"a": samples, "b": samples}, single=0.5),
    }


# --- what is drawn ---------------------------------------------------------------------------------------------------
def test_reliability_draws_the_bins() -> None:
    figure = figures.reliability_diagram(PROBS, TARGET, num_bins=10)
    confidence, right, share = metrics.reliability(PROBS, TARGET, 10)
    main, below = figure.axes
    (name,) = names(figure)
    assert name == f"ECE {100 * metrics.ece(PROBS, TARGET, 10):.2g} %"
    np.testing.assert_allclose(lines(main)[name], (100 * confidence, 100 * right), rtol=1e-6)
    (only,) = below.get_lines()
    np.testing.assert_allclose(only.get_ydata(), 100 * share, rtol=1e-6)
    assert below.get_xlim()[0] <= 100 * confidence.min()
    assert below.get_ylim()[0] < 100 * share.min()


def test_reliability_intervals_are_wilsons() -> None:
    """Against scipy; of one answer that was right the interval is not a point."""
    from scipy.stats import binomtest

    probs, target = torch.tensor([[0.9, 0.1]] * 10), torch.tensor([0] * 7 + [1] * 3)
    figure = figures.reliability_diagram(probs, target)
    (bars,) = figure.axes[0].collections
    ((_, low), (_, high)) = bars.get_segments()[0]
    truth = binomtest(7, 10).proportion_ci(0.95, "wilson")
    assert (low / 100, high / 100) == pytest.approx((truth.low, truth.high), abs=1e-4)


def test_ecdf_draws_both_kinds() -> None:
    inside, outside = metrics.entropy(PROBS), 2 * metrics.entropy(OTHER)
    figure = figures.entropy_ecdf({"net": inside}, {"net": outside}, names=("digits", "letters"))
    for axes, values, title in zip(figure.axes, (inside, outside), ("digits: left", "letters: right"), strict=True):
        x, share = lines(axes)["net"]
        np.testing.assert_allclose(x[1:], metrics.ecdf(values)[0])
        np.testing.assert_allclose(share[1:], 100 * metrics.ecdf(values)[1])
        assert axes.get_title("left") == f"{title} is better"
        assert axes.get_xlim() == (0, pytest.approx(outside.max().item()))


def test_risk_draws_the_curve_and_shows_all_that_rises() -> None:
    doubt, wrong = metrics.entropy(PROBS), PROBS.argmax(1) != TARGET
    figure = figures.risk_coverage({"net": (doubt, wrong)})
    (name,) = names(figure)
    assert name == f"net: area {100 * metrics.aurc(doubt, wrong):.3g} %"
    coverage, risk = metrics.risk_coverage(doubt, wrong)
    np.testing.assert_allclose(lines(figure.axes[0])[name], (100 * coverage, 100 * risk))
    assert figure.axes[0].get_ylim()[1] > 100 * risk[-1]


@pytest.mark.parametrize(("first_error", "start"), [(999, 99), (985, 98), (960, 95), (700, 50), (10, 0)])
def test_risk_leaves_out_a_stretch_without_errors(first_error: int, start: float) -> None:
    wrong = torch.arange(1000) >= first_error
    wrong[first_error + 1 :] = False
    axes = figures.risk_coverage({"net": (torch.arange(1000.0), wrong)}).axes[0]
    assert axes.get_xlim()[0] == start


def test_samples_draws_line_band_and_the_single_network() -> None:
    numbers, mean, spread = torch.tensor([1, 4]), torch.tensor([0.5, 0.4]), torch.tensor([0.02, 0.01])
    figure = figures.nll_by_samples({"SBN": (numbers, mean, spread)}, single=0.45)
    (axes,) = figure.axes
    np.testing.assert_allclose(lines(axes)["SBN"], (numbers, mean), rtol=1e-6)
    np.testing.assert_allclose(lines(axes)["without sampling"][1], [0.45, 0.45])
    (band,) = axes.collections
    edges = band.get_paths()[0].get_extents()
    assert (edges.y0, edges.y1) == pytest.approx((0.39, 0.52))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]


@pytest.mark.parametrize("name", ["reliability", "ecdf", "risk", "samples"])
def test_every_axis_says_its_unit_and_lines_differ_without_color(name: str) -> None:
    figure = every_figure()[name]
    outer = figure.axes[-1]
    assert outer.get_xlabel().endswith((", %", ", nats", "samples"))
    assert figure.axes[0].get_ylabel().endswith((", %", ", nats"))
    first, second = [line for line in figure.axes[0].get_lines() if line.get_label()[:1] in {"a", "b"}]
    assert first.get_color() != second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert len(names(figure)) >= 2


@pytest.mark.parametrize("count", [1, 4, 9])
def test_legends_of_any_length_stay_inside(count: int) -> None:
    doubt = metrics.entropy(PROBS)
    methods = {f"a method with a long name {i}": doubt for i in range(count)}
    figure: Any = figures.entropy_ecdf(methods, methods)
    figure.canvas.draw()
    box, size = figure.legends[0].get_window_extent(), figure.bbox
    assert box.x0 >= 0
    assert box.x1 <= size.x1
    assert box.y1 <= size.y1


# --- the ends of the range -------------------------------------------------------------------------------------------
def test_perfect_and_single_examples_can_be_drawn(tmp_path: Path) -> None:
    one, sure, zero = torch.tensor([0]), torch.tensor([[1.0, 0.0]]), torch.zeros(1)
    drawn = [
        figures.reliability_diagram(sure, one),
        figures.entropy_ecdf(zero, zero),
        figures.risk_coverage({"net": (zero, zero)}),
        figures.nll_by_samples({"net": (torch.tensor([1]), zero, zero)}),
    ]
    for i, figure in enumerate(drawn):
        figures.save(figure, tmp_path / f"{i}.png")


# --- files -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["reliability", "ecdf", "risk", "samples"])
def test_saved_pictures_are_wide_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    for run in ("first", "second"):
        assert figures.save(every_figure()[name], tmp_path / f"{run}.png") == tmp_path / f"{run}.png"
    first, second = ((tmp_path / f"{run}.png").read_bytes() for run in ("first", "second"))
    assert first == second
    assert int.from_bytes(first[16:20], "big") == 1125  # width in the PNG header
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "second.png"]


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure: Any = every_figure()["risk"]
    path = figures.save(figure, tmp_path / "risk.svg")
    before = path.read_bytes()

    def full(partial: Path, **_: Any) -> None:
        partial.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="no space left"):
        figures.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_names_of_files_that_cannot_be(tmp_path: Path) -> None:
    figure = every_figure()["risk"]
    for name in ("risk", "risk.txt"):
        with pytest.raises(ValueError, match=f"cannot write '{name}': the ending names the format"):
            figures.save(figure, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"the folder of .* does not exist; make it first"):
        figures.save(figure, tmp_path / "no" / "risk.png")


# --- errors ----------------------------------------------------------------------------------------------------------
def test_errors() -> None:
    for draw in (
        lambda: figures.reliability_diagram({}, TARGET),
        lambda: figures.entropy_ecdf({}, {}),
        lambda: figures.risk_coverage({}),
        lambda: figures.nll_by_samples({}),
    ):
        with pytest.raises(ValueError, match="no method is given, expected at least one line"):
            draw()
    with pytest.raises(ValueError, match=r"inside has the methods \['a'\] and outside \['b'\], expected the same"):
        figures.entropy_ecdf({"a": torch.ones(2)}, {"b": torch.ones(2)})
    with pytest.raises(ValueError, match=r"'a' has \(1, 2, 2\) numbers, values and spreads"):
        figures.nll_by_samples({"a": (torch.ones(1), torch.ones(2), torch.ones(2))})
    with pytest.raises(ValueError, match=r"probs are no probabilities"):
        figures.reliability_diagram(PROBS.log(), TARGET)


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_neither_a_window_nor_global_state() -> None:
    code = (
        "import sys, torch; from dither import figures; print('matplotlib' in sys.modules)\n"
        "figures.entropy_ecdf(torch.ones(2), torch.ones(2)); print('matplotlib.pyplot' in sys.modules)"
    )
    assert python(code).split() == ["False", "False"]


def test_missing_matplotlib_says_what_to_install() -> None:
    code = (
        "import sys, torch; sys.modules['matplotlib'] = None\n"
        "from dither import figures\n"
        "try: figures.entropy_ecdf(torch.ones(2), torch.ones(2))\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert "pip install 'dither[train]'" in python(code)
