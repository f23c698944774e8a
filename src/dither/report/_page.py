"""The page: what is in the folder, put into the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import __version__
from .._files import write_atomically
from ..training import Images
from ._certainty import certainty
from ._folder import Folder
from ._snr import heats
from ._story import left, loading, steps, tiles
from ._training import training_charts

MOST = 10_000  # test images that the networks are asked about


def make_page(folder: str | Path, *, data: str | None = None, images: Images | None = None, most: int = MOST) -> str:
    """The page of a run folder as HTML: what is there, and which command makes what is not.

    Nothing in the folder is changed, and nothing is trained; it may be asked for while the run goes on. Networks that
    ``dither doubt`` has not looked at are asked about the test images, on the CPU, once. Equal folders
    give equal pages.

    Args:
        folder: a run folder, see `dither.training.Run`.
        data: where the images are now, if that is another place than the recipe says.
        images: the test images, if they are in memory already, with the classes that the network knows.
        most: how many of the test images the networks are asked about.

    Returns:
        One HTML document with everything in it: no script, no font and no picture is fetched.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If a file in it is damaged, or ``most`` is less than 1.
    """
    if most < 1:
        raise ValueError(f"most is {most}, expected a number of images >= 1")
    found = Folder.read(Path(folder))
    notes: list[str] = []
    if images is None:
        try:
            images = found.test_images(data)
        except (ValueError, OSError) as error:
            notes.append(f"The test images are not at hand ({error}). dither report {found.command} --data says where.")
    known = certainty(found, images, most)
    report = found.report
    threshold = found.recipe.noise.threshold
    return _render(
        folder=found,
        recipe=found.recipe,
        report=report,
        table=[row for row in report.rows() if not row[0].startswith("width of ")] if report else [],
        plan=found.plan,
        choices=[] if found.plan is None else [*found.plan.spaces, *found.plan.columns],
        steps=steps(found),
        tiles=tiles(found),
        left=left(found),
        training=training_charts(found.history, found.plan),
        heats=heats([row for row in found.history if row["stretch"] == "prune"], threshold),
        noisy=any(row["stretch"] == "prune" for row in found.history),
        certainty=known,
        count=0 if images is None else len(images),
        notes=[*notes, *known.notes],
        code=loading(found),
        shape=None if images is None else tuple(images.pixels.shape[1:]),
        version=__version__,
    )


def write_page(folder: str | Path, path: str | Path | None = None, **options: Any) -> Path:
    """Writes the page of a run folder to a file, in one step.

    Args:
        folder: a run folder.
        path: the file. None: ``report.html`` in the folder.
        options: of `make_page`.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If a file in it is damaged.
        OSError: If the page cannot be written.
    """
    path = Path(folder) / "report.html" if path is None else Path(path)
    write_atomically(path, make_page(folder, **options).encode())
    return path


def _render(**values: Any) -> str:
    """The template with these values; every one of them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(values)
