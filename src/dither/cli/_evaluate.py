"""``dither evaluate``: error and negative log-likelihood of what a run left, or of a saved network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ._common import Threads, clear_errors, make_console


def evaluate(
    target: Annotated[Path, typer.Argument(help="Run folder, or a .safetensors file of dither.")],
    model: Annotated[Optional[str], typer.Option(help="Network that the file belongs to; default: as it says.")] = None,  # noqa: UP045 (typer on 3.10)
    data: Annotated[Optional[str], typer.Option(help="Data to use; default: what it was trained on.")] = None,  # noqa: UP045
    split: Annotated[str, typer.Option(help="Split of the data.")] = "test",
    threads: Threads = None,
) -> None:
    """Measure error and negative log-likelihood."""
    with clear_errors():
        import torch
        from rich.table import Table

        import dither
        from dither._checkpoint import read_header
        from dither.training import Images, load_images, make_model
        from dither.training import evaluate as measure

        if threads is not None:
            torch.set_num_threads(threads)
        if target.is_dir():
            files = [path for name in ("base", "small") if (path := target / f"{name}.safetensors").exists()]
            if not files:
                raise FileNotFoundError(f"{target} has neither base.safetensors nor small.safetensors")
        else:
            files = [target]
        loaded: dict[str, Images] = {}
        table = Table("network", "data", "images", "error", "negative log-likelihood")
        for path in files:
            says = read_header(path).metadata
            name, source = model or says.get("model"), data or says.get("data")
            if name is None or source is None:
                missing = "--model" if name is None else "--data"
                raise ValueError(f"{path} does not say what {missing[2:]} it belongs to; give {missing}")
            classes = says.get("classes")
            net = dither.load(make_model(name, classes and len(classes)), path)
            if source not in loaded:
                images = load_images(source, split)
                loaded[source] = images.only(classes) if classes else images
            score = measure(net, loaded[source])
            table.add_row(str(path), source, f"{score.count:,}", f"{score.error_pct:.2f} %", f"{score.nll:.4f}")
        make_console().print(table)
