"""The report in a real browser: nothing fails, nothing is fetched, every picture loads, and it fits on a phone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tests.headless import BEYOND, CONTRAST, chromium
from tests.report.report_runs import observations, run, saved
from unrelu.report import write_report

# What a page may ask for, apart from itself.
OWN = ("data:", "about:")
SIZES = pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (420, "light"), (360, "light"), (360, "dark")])


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports with everything that a page can have: pictures, hidden entries, curves, errors, long names, no chunk."""
    folder = tmp_path_factory.mktemp("reports")
    y = observations(16)
    y[3] = np.nan
    data = saved(folder, y, "a-name-" + "that-is-long-" * 8 + "<b>.npy")
    pictures = run(folder / "pictures", data, noise="gaussian:0.05", names={"model": "models/" + "x" * 90 + ".onnx"})
    masks = saved(folder, np.random.default_rng(0).random((16, 64)) < 0.7, "masks.npy")
    hidden = run(folder / "hidden", data, masks=masks, callback=lambda moment: moment.done >= 12)
    matrix = np.random.default_rng(0).standard_normal((10, 64))
    measured = run(folder / "measured", saved(folder, observations(16) @ matrix.T, "m.npy"), operator=matrix)
    empty = run(folder / "empty", data, callback=lambda moment: True)
    return {
        "pictures": write_report(pictures.folder),
        "hidden": write_report(hidden.folder),
        "measured": write_report(measured.folder, operator=matrix),
        "empty": write_report(empty.folder),
    }


@pytest.fixture
def opened(browser, pages):
    """Open a report; what the console says, what is asked for and what breaks must be nothing at the end."""
    wrong: list[str] = []
    made = []

    def open_page(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        made.append(context)
        page = context.new_page()
        url = pages[name].as_uri()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:80]}"))
        page.on("request", lambda r: None if r.url == url or r.url.startswith(OWN) else wrong.append(f"asked: {r.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in made:
        context.close()
    assert wrong == []


NAMES = ("pictures", "hidden", "measured", "empty")
EVERY = pytest.mark.parametrize("name", NAMES)


@EVERY
@SIZES
def test_it_fits_is_readable_and_asks_for_nothing(opened, name, width, scheme):
    page = opened(name, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(BEYOND, width) == []
    assert page.evaluate(CONTRAST) == []


@EVERY
def test_every_picture_loads_and_has_a_text(opened, name):
    page = opened(name)
    loaded = page.evaluate("[...document.images].map(i => [i.complete && i.naturalWidth > 0, i.alt.length > 0])")
    assert all(all(image) for image in loaded)
    assert len(loaded) == {"pictures": 36, "hidden": 33, "measured": 12, "empty": 0}[name]
    crisp = page.evaluate("[...document.images].every(i => getComputedStyle(i).imageRendering === 'pixelated')")
    assert crisp
    unnamed = page.evaluate(
        "[...document.querySelectorAll('svg')].filter(s => !s.getAttribute('aria-label') && !s.ariaHidden).length"
    )
    assert unnamed == 0


@EVERY
def test_headings_are_in_order(opened, name):
    page = opened(name)
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    targets = page.evaluate(
        "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.getAttribute('href'))).length"
    )
    assert targets == 0


def test_charts_are_drawn_in_their_box(opened):
    page = opened("pictures", 360)
    outside = """[...document.querySelectorAll("figure > svg")].flatMap(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("path, text")].map(e => e.getBoundingClientRect()).filter(r =>
        r.width && (r.left < box.left - 4 || r.right > box.right + 4 || r.top < box.top - 4 ||
          r.bottom > box.bottom + 4));
    }).length"""
    assert page.evaluate(outside) == 0
    assert page.locator("figure > svg").count() > 0


def test_it_can_be_printed(opened):
    assert opened("pictures").pdf(format="A4").startswith(b"%PDF")
