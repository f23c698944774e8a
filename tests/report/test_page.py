"""What the page says, and that it is a page by itself."""

import dataclasses
import hashlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dither.cli import app
from dither.report import make_page
from dither.report._certainty import png_uri
from dither.training import Recipe
from tests.report.conftest import RECIPE

VOID = {"meta", "link", "img", "br", "path", "circle"}


class Parsed(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.within == []
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.within.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.within.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.within:
            self.words += f"{data} "

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def parsed(page: str) -> Parsed:
    return Parsed(page)


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_everything_is_in_the_file(parsed: Parsed) -> None:
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    links = [*parsed.values("src"), *parsed.values("href"), *parsed.values("xlink:href")]
    assert len(links) > 12
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert {link[1:] for link in parsed.values("href") if link.startswith("#")} <= set(parsed.values("id"))
    assert "url(" not in "".join(parsed.values("style"))
    (policy,) = [a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_has_words_and_numbers(parsed: Parsed, page: str) -> None:
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    pictures = [attributes for tag, attributes in parsed.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) == 2 + 4 + 4  # training; certainty; signal-to-noise ratios of conv1, conv2, fc1, fc1[in]
    for attributes in pictures:
        named = (attributes["aria-labelledby"] or "").split()
        assert len(named) == 2
        assert set(named) <= set(ids)
    others = [attributes for tag, attributes in parsed.tags if tag == "svg" and attributes.get("role") != "img"]
    assert {attributes.get("aria-hidden") for attributes in others} == {"true"}
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.S)
    assert len(figures) == len(pictures)
    for figure in figures:
        for part in ("<title", "<desc", "<figcaption>", "<details>", "<table>", "<tbody>"):
            assert part in figure
        assert "nan" not in figure
        assert "inf" not in re.sub("information", "", figure)
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")


def test_it_says_what_the_reports_say(parsed: Parsed, run_folder: Path) -> None:
    records = json.loads((run_folder / "report.json").read_text())["records"]
    small, words = records[-1], parsed.words
    said = [
        f"{small['error_pct']:.2f} %",
        f"{small['macs_ratio']:.1f}x fewer multiply-accumulates",
        f"{records[0]['params']:,} to {small['params']:,}",
        "The network returns them".lower(),
        "Kept by SNR(threshold=1.0), rounded up to multiples of 1.",
        "Only the classes 0, 1, 2, 3, 4 of the data.",
        "unknown: AUROC by entropy",
        "of shape (B, 1, 8, 8)",
        f"{(run_folder / 'small.safetensors').stat().st_size:,} bytes",
    ]
    assert [text for text in said if text not in words] == []
    for name, kept in small["widths"].items():
        assert f"{name} {kept} of {records[0]['widths'][name]} " in words
    assert "(not done)" in words
    assert "dither doubt 'digits run' --small --ood rest" in words


def test_the_history_becomes_the_curves(page: str, run_folder: Path) -> None:
    rows = [json.loads(line) for line in (run_folder / "history.jsonl").read_text().splitlines()]
    errors = re.search(r"<caption>Error on 100 held-out images</caption>.*?</table>", page, flags=re.S)
    assert errors is not None
    cells = re.findall(r"<th scope=\"row\">(.*?)</th><td>(.*?)</td><td>(.*?)</td>", errors[0])
    names = {"base": "original", "prune": "under noise", "finetune": "fine-tuning"}
    assert cells == [(names[row["stretch"]], str(row["epoch"]), f"{row['error_pct']:.2f}") for row in rows]


def test_equal_folders_give_equal_pages_and_stay_as_they_are(page: str, run_folder: Path) -> None:
    before = contents(run_folder)
    assert make_page(run_folder) == page
    assert contents(run_folder) == before


def test_the_lines_that_load_the_network_run(page: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"<pre tabindex=\"0\"><code>(.*?)</code></pre>", page, flags=re.S)
    (code,) = [html.unescape(block) for block in blocks if "dither.load" in block]
    monkeypatch.chdir(run_folder.parent)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["net"](torch.zeros(3, 1, 8, 8)).shape == (3, 5)
    assert not found["net"].training
    assert found["net"].conv1.weight.shape[0] < 16


def test_what_is_missing_is_named_with_the_command_that_makes_it(base_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(base_folder, tmp_path / "run")
    words = Parsed(make_page(tmp_path / "run")).words
    for text in (
        "Not pruned yet.",
        "dither prune run",
        "There is no plan yet.",
        "There is no noise yet.",
        "dither doubt run --ood rest",
        "Least certain test images: original",
        "base.safetensors",
    ):
        assert text in words
    (tmp_path / "run" / "base.safetensors").unlink()
    words = Parsed(make_page(tmp_path / "run")).words
    assert words.count("dither train --out run --recipe run/recipe.json") >= 3
    assert "dither.load" not in words


def test_a_training_that_goes_on_is_shown_as_far_as_it_is(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(run_folder / "recipe.json", folder)
    lines = (run_folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:4]))
    shutil.copy(run_folder / "base.safetensors", folder)
    words = Parsed(make_page(folder)).words
    assert "(under way)" in words
    assert "2 of 3 epochs done." in words
    assert "Signal-to-noise ratios of conv1 by epoch" in words


def test_folders_of_older_versions(run_folder: Path, tmp_path: Path) -> None:
    """Without histograms in the history, and without the curves of dither doubt."""
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoint", "curves.json"))
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in row.items() if k != "snr"} for row in rows]
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    words = Parsed(make_page(folder)).words
    assert "an older dither, which kept no histograms" in words
    assert "which kept no curves; the command does it again. dither doubt run --ood rest" in words
    assert "Reliability" in words


def test_another_recipe_is_noticed(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoint"))
    recipe = dataclasses.replace(RECIPE, noise=dataclasses.replace(RECIPE.noise, threshold=2.0))
    (folder / "recipe.json").write_text(recipe.to_json())
    assert "belongs to the settings before. dither prune run" in Parsed(make_page(folder)).words


def test_images_and_networks_that_are_not_at_hand(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoint"))
    moved = Parsed(make_page(folder, data="./moved"))
    assert "The test images are not at hand (no folder './moved';" in moved.words
    assert "Least certain test images: original, sampled" in moved.words
    assert "img" not in {tag for tag, _ in moved.tags}
    (folder / "recipe.json").write_text(dataclasses.replace(RECIPE, model="gone:Net").to_json())
    assert "The pruned network cannot be asked: cannot import the model 'gone:Net'" in Parsed(make_page(folder)).words


@pytest.mark.parametrize("name", ["history.jsonl", "plan.json", "report.json", "recipe.json", "doubt/curves.json"])
def test_a_damaged_file_is_named(run_folder: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoint"))
    content = (folder / name).read_text()
    (folder / name).write_text(content[: len(content) // 2])
    with pytest.raises(ValueError, match=Path(name).name):
        make_page(folder)


def test_the_command(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", "run", "--images", "50"])
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"run/report.html: \d+ kB in one file, open it in a browser\n", done.stdout)
    written = Parsed((tmp_path / "run" / "report.html").read_text())
    assert "50 of 170 test images" in written.words
    assert len(written.values("alt")) == 24  # those that dither doubt found among all images, too
    for arguments, message in (
        (["nowhere"], "nowhere is no run folder"),
        (["run", "--out", "no/page.html"], "no/page"),
    ):
        done = CliRunner().invoke(app, ["report", *arguments])
        assert done.exit_code == 2
        assert message in done.stderr
    assert Recipe.read("run/recipe.json") == RECIPE


def test_pictures_keep_their_pixels_and_large_ones_become_small() -> None:
    import base64
    import io

    import numpy
    from PIL import Image

    pixels = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    sizes = []
    for image in (pixels, pixels[:1], pixels.repeat_interleave(40, 1).repeat_interleave(40, 2)):
        uri = png_uri(image)
        assert uri is not None
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            sizes.append((picture.mode, picture.size))
            if picture.size == (8, 8):
                again = torch.from_numpy(numpy.array(picture)).reshape(8, 8, -1).movedim(-1, 0)
                assert torch.equal(again, image)
    assert sizes == [("RGB", (8, 8)), ("L", (8, 8)), ("RGB", (96, 96))]
    assert png_uri(torch.zeros(4, 8, 8, dtype=torch.uint8)) is None
