"""The report in a real browser: nothing fails, nothing is fetched, every picture loads, and it fits on a phone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.ecosystem.headless import BEYOND, CONTRAST, chromium
from tests.report.written_pages import observations, run
from unrelu.report import write_report

SIZES = pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (420, "light"), (360, "dark")])
# Shown pictures by page.
PICTURES = {"pictures": 36, "hidden": 33, "measured": 12, "empty": 0}
EVERY = pytest.mark.parametrize("name", PICTURES)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports with everything that a page can have: pictures, hidden entries, curves, errors, long names, no chunk."""
    folder, y, rng = tmp_path_factory.mktemp("reports"), observations(16), np.random.default_rng(0)
    y[3] = np.nan
    names = {"model": "models/" + "x" * 90 + ".onnx", "data": "a-name-" + "that-is-long-" * 8 + "<b>.npy"}
    masks, matrix = rng.random((16, 64)) < 0.7, rng.standard_normal((10, 64))
    made = {
        "pictures": run(folder / "pictures", y, noise="gaussian:0.05", names=names),
        "hidden": run(folder / "hidden", y, masks=masks, callback=lambda progress: progress.done >= 12),
        "measured": run(folder / "measured", observations(16) @ matrix.T, operator=matrix),
        "empty": run(
            folder / "empty", y, callback=lambda progress: True, names={"command": "unrelu run " + 30 * "--x "}
        ),
    }
    return {name: write_report(one.folder) for name, one in made.items()}


@pytest.fixture
def opened(browser, pages):
    """Open a report; what the console says, what is asked for and what breaks must be nothing at the end."""
    wrong, made = [], []

    def open_page(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        made.append(context)
        page, url = context.new_page(), pages[name].as_uri()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:80]}"))
        page.on("request", lambda r: r.url.startswith((url, "data:", "about:")) or wrong.append(f"asked: {r.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in made:
        context.close()
    assert wrong == []


@EVERY
@SIZES
def test_it_fits_is_readable_and_asks_for_nothing(opened, name, width, scheme):
    page = opened(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND, width) == []
    assert page.evaluate(CONTRAST) == []
    outside = """[...document.querySelectorAll("figure > svg")].flatMap(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("path, text")].map(e => e.getBoundingClientRect()).filter(r =>
        r.width && (r.left < box.left - 4 || r.right > box.right + 4 || r.top < box.top - 4 ||
          r.bottom > box.bottom + 4));
    }).length"""
    assert page.evaluate(outside) == 0


@EVERY
@pytest.mark.parametrize("width", [1200, 420])
def test_every_picture_loads_is_large_enough_and_has_a_text(opened, name, width):
    page = opened(name, width)
    images = """[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.alt.length > 0 &&
      i.getBoundingClientRect().width >= 84 && getComputedStyle(i).imageRendering === "pixelated")"""
    assert page.evaluate(images) == [True] * PICTURES[name]
    assert page.evaluate("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")


@EVERY
def test_headings_are_in_order_and_meanings_are_whole(opened, name):
    page = opened(name)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    lost = "[...document.querySelectorAll('a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    assert page.evaluate(lost) == 0
    cut = "[...document.querySelectorAll('td')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert page.evaluate(cut) == 0


def test_it_can_be_printed(opened):
    assert opened("pictures").pdf(format="A4").startswith(b"%PDF")
