"""What all figures share: colors, axes, a legend, and how a figure becomes a file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart with every kind of color blindness. The dashes tell lines apart without any color.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)), "-")
TEXT, GRID, REFERENCE = "#333333", "#e3e8ea", "#8a9499"
FONT = 12.0  # points; 16 pixels high where a figure is 700 wide
WIDTH = 7.5  # inches
_LINE, _HANDLE = 78, 8  # letters that the width holds, and what the sample of a line in the legend takes of them
_DPI = 150

T = TypeVar("T")


def new_figure(
    height: float, rows: int = 1, columns: int = 1, *, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Any]]:
    """A figure without window and global state, right in threads and notebooks too, and its axes.

    Args:
        height: inches; the width is always the same.
        rows: rows of axes; they share x.
        columns: columns of axes; they share y.
        heights: ratio of the heights of the rows.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed; says how to.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"figures need {error.name}: pip install 'dither[train]'") from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    ratios = {"height_ratios": list(heights)} if heights else None
    grid: Any = figure.subplots(
        rows, columns, sharex="col", sharey="row" if columns > 1 else False, squeeze=False, gridspec_kw=ratios
    )
    every = [axes for row in grid for axes in row]
    for axes in every:
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=6, labelsize=FONT - 1, colors=TEXT)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(REFERENCE)
    return figure, every


def label(axes: Any, *, x: str | None = None, y: str | None = None, title: str | None = None) -> None:
    """Axis labels with their units, and a title on the left."""
    if x:
        axes.set_xlabel(x, fontsize=FONT, color=TEXT)
    if y:
        axes.set_ylabel(y, fontsize=FONT, color=TEXT)
    if title:
        axes.set_title(title, fontsize=FONT, loc="left", color=TEXT)


def legend(figure: Figure, axes: Any) -> None:
    """Names of the lines above the axes, where they cover nothing; none for a line without a name."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        wide = [len(name) + _HANDLE for name in names]
        columns = len(names) if sum(wide) <= _LINE else 2 if 2 * max(wide) <= _LINE else 1
        figure.legend(
            handles, names, loc="outside upper left", ncols=columns, frameon=False, fontsize=FONT, labelcolor=TEXT,
            handlelength=2.2, columnspacing=1.4, borderaxespad=0.2,
        )  # fmt: skip


def styled(methods: Mapping[str, T]) -> Iterator[tuple[str, T, dict[str, Any]]]:
    """Name, value, and color and dashes of each method: the same ones in every figure with the same order."""
    for i, (name, value) in enumerate(methods.items()):
        yield name, value, {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}


def by_name(values: Mapping[str, T] | T) -> Mapping[str, T]:
    """One method alone has no name.

    Raises:
        ValueError: If there is no method at all.
    """
    methods: Mapping[str, T] = values if isinstance(values, Mapping) else {"": values}
    if not methods:
        raise ValueError("no method is given, expected at least one line to draw: {name: values}")
    return methods


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file in one step: the old file stays until the new one is complete.

    Args:
        figure: from a function of this package, or any matplotlib figure.
        path: the file; its ending is the format, for example ``.png``, ``.svg``, ``.pdf``. PNG has 150 dots per inch.

    Returns:
        The path.

    Raises:
        ValueError: If matplotlib does not know the ending, or there is none.
        FileNotFoundError: If the folder does not exist.

    Example:
        >>> import tempfile, torch
        >>> from dither.figures import reliability_diagram
        >>> figure = reliability_diagram(torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0, 1]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(figure, Path(folder) / "reliability.png").stat().st_size > 1000
        True
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"cannot write {path.name!r}: the ending names the format, for example .png or .svg")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder of {path} does not exist; make it first")
    partial = path.with_name(f".{path.stem}.partial.{kind}")
    try:
        figure.savefig(partial, dpi=_DPI, format=kind)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
