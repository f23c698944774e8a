"""The page in a real browser: no error, no request, no sideways scrolling, dark and on paper."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from dither.report import make_page, write_page
from dither.training import load_images
from tests.report.browser import Browser

HOSTILE = "</title><script>console.error('got in')</script><img src=x onerror=console.error(1)>\"'&"

# Words of pictures that leave their picture, or that stand on each other.
COLLISIONS = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const box = svg.viewBox.baseVal, texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBBox()]);
    texts.forEach(([a, p], i) => {
      if (p.x < -1 || p.x + p.width > box.width + 1 || p.y + p.height > box.height + 4) found.push('outside: ' + a);
      for (const [b, q] of texts.slice(i + 1)) {
        const wide = Math.min(p.x + p.width, q.x + q.width) - Math.max(p.x, q.x);
        const high = Math.min(p.y + p.height, q.y + q.height) - Math.max(p.y, q.y);
        if (wide > 1 && high > 3) found.push(a + ' on ' + b);
      }
    });
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def file(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(run_folder, tmp_path_factory.mktemp("page") / "page.html")


def test_the_browser_sees_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    """What the next test finds nothing of is found where it is."""
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><img src=gone.png><script>console.error('here'); missing()</script>")
    browser.open(bad)
    assert len(browser.logged()) >= 2
    assert [url.rpartition("/")[2] for url in browser.asked_for()] == ["bad.html", "gone.png"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_nothing_is_asked_for_nothing_is_logged_nothing_is_cut_off(
    browser: Browser, file: Path, width: int, dark: bool
) -> None:
    browser.open(file, width=width, dark=dark)
    assert browser.logged() == []
    assert [url.rpartition("/")[2] for url in browser.asked_for()] == ["page.html"]
    assert browser.value("document.compatMode") == "CSS1Compat"
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(COLLISIONS) == []
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.value("document.images.length") >= 12


@pytest.mark.parametrize(
    ("dark", "paper"), [(False, False), (True, False), (True, True)], ids=["light", "dark", "print"]
)
def test_words_and_lines_stand_out_from_the_page(browser: Browser, file: Path, dark: bool, paper: bool) -> None:
    """WCAG 2.1: a contrast of 4.5 for words, 3 for what is drawn. Printing from a dark screen is black on white."""
    browser.open(file, dark=dark, paper=paper)
    colors: dict[str, str] = browser.value(
        "Object.fromEntries(['page','ink','soft','c0','c1','c2','c3','c4','c5'].map("
        "n => [n, getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim()]))"
    )
    assert (luminance(colors["page"]) < 0.1) == (dark and not paper)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == as_rgb(colors["page"])
    for name, needed in [("ink", 7.0), ("soft", 4.5), ("c0", 4.5), *((f"c{i}", 3.0) for i in range(1, 6))]:
        assert contrast(colors[name], colors["page"]) >= needed, name


def test_it_prints(browser: Browser, file: Path, tmp_path: Path) -> None:
    browser.open(file)
    browser.print(tmp_path / "page.pdf")
    content = (tmp_path / "page.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12


def test_names_that_are_code_stay_names(browser: Browser, run_folder: Path, tmp_path: Path) -> None:
    images = load_images("digits", "test").only((0, 1, 2, 3, 4))
    images = dataclasses.replace(images, class_names=tuple(f"{HOSTILE}{i}" for i in range(5)))
    hostile = make_page(run_folder, images=images)
    assert HOSTILE not in hostile
    (tmp_path / "page.html").write_text(hostile)
    browser.open(tmp_path / "page.html", width=390)
    assert browser.logged() == []
    assert browser.value("document.scripts.length") == 0
    assert HOSTILE in browser.value("document.querySelector('.examples h4').textContent")
    assert browser.value("document.documentElement.scrollWidth") <= 390


def channels(color: str) -> list[int]:
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def as_rgb(color: str) -> str:
    return f"rgb({', '.join(map(str, channels(color)))})"


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.1, from #rrggbb."""
    share = torch.tensor(channels(color), dtype=torch.float64) / 255
    linear = torch.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
