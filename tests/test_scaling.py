"""The benchmark of scaling: it runs in tiny sizes, its measures measure, and its exponents are exponents."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.report import HERE
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.measure import LARGE, SERIES
from benchmarks.scaling.memory import RESET, resident
from benchmarks.scaling.page import HEADER, TRAINING, draw, exponent, fits, large, worst

ON_LINUX = pytest.mark.skipif(not RESET.exists(), reason="the peak of the resident set is read from /proc")


def record(name: str, size: Any, x: float, *steps: str, power: float = 1.0) -> dict[str, Any]:
    spent = {"seconds": 2 * x**power, "tensors": 3 * x**power, "resident": 4 * x**power}
    return {"series": name, "size": size, "x": x, "bytes": x**power, "kept": 0.5, **dict.fromkeys(steps, spent)}


PIPELINE = ("forward", "attach", "plan", "shrink", "shrink nothing")
RECORDS = [
    *(record(name, n, n, *PIPELINE) for name in ("layers", "width", "channels") for n in (10, 100)),
    *(record(name, n, n, "forward", "analyse", power=0.5) for name in ("tokens", "pixels") for n in (10, 100)),
    *(record("training", n, n, *TRAINING) for n in (10, 100)),
    *(record(name, n, n, "predict") for name in ("samples", "rows") for n in (10, 100)),
    record("decoder", "float32", 1e9, *PIPELINE),
    record("description", "meta", 7e9, "analyse"),
]


@ON_LINUX
@pytest.mark.slow
def test_smoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    written = [HERE / "README.md", scaling.PAGE, *HERE.glob("results/*")]
    before = {path: path.read_bytes() for path in written}
    monkeypatch.setattr(sys, "argv", ["scaling", "--smoke", "--threads", "1"])
    scaling.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("|") == len(HEADER) + 1
    assert {line.split("|")[2].strip() for line in lines[2:] if "|" in line} == {*PIPELINE[1:], "analyse", "predict"}
    assert "shrink holds at most" in lines[-1]
    assert before == {path: path.read_bytes() for path in written}
    assert all("<!-- bench:scaling -->" in path.read_text(encoding="utf-8") for path in written[:2])


@ON_LINUX
def test_the_peak_of_the_resident_set_is_what_was_held() -> None:
    size = 64 << 20
    for _ in range(2):  # the second time, too: the peak starts again
        (_, most) = resident(lambda: torch.ones(size, dtype=torch.uint8).max())
        assert 0.9 * size < most < 1.5 * size
    assert resident(lambda: None)[1] < 0.2 * size


def test_exponents() -> None:
    assert exponent([1, 10, 100], [5, 50, 500]) == pytest.approx(1)
    assert exponent([1, 2, 8], [3, 12, 192]) == pytest.approx(2)
    assert exponent([1, 10], [7, 7]) == 0
    assert math.isnan(exponent([3], [4]))


def test_the_tables_say_what_was_measured() -> None:
    rows = {(row[0], row[1]): row for row in fits(RECORDS)[1:]}
    assert rows["decoder: layers", "attach"][5:] == ["1.00", "1.00", "200.00", "0.0", "0.0"]
    assert rows["decoder: tokens", "analyse"][5:7] == ["0.50", "0.50"]
    assert {row[0] for row in rows.values()} | {SERIES["training"].grows} == {
        series.grows for series in SERIES.values()
    }
    assert [row[0] for row in large(RECORDS)[1:]] == 5 * [LARGE["decoder"].grows] + [LARGE["description"].grows]
    assert large(RECORDS)[2][3:] == ["2000000000.0", "4.00", "5.00"]  # the network and three, or four, times its bytes
    assert large(RECORDS)[-1][4:] == ["21000 MB", "28000 MB"]  # there is no network to count beside it
    assert worst(RECORDS) == 4


def test_the_figure(tmp_path: Path) -> None:
    draw(RECORDS, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
