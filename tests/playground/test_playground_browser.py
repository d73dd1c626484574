"""The playground in a real browser, by its own controls."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.headless import BEYOND, CONTRAST, chromium
from tests.playground.asking import SEVEN, colours, seven
from unrelu import zoo
from unrelu.playground import PictureGenerator, _drawing_answers, serving
from unrelu.runtime.streams import stream


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server():
    digits = PictureGenerator.of("mnist-relu", zoo.load("mnist-relu"), digits=zoo.observations("mnist-relu"))
    with pytest.MonkeyPatch.context() as patched, serving([digits, colours()]) as running:
        patched.setattr(_drawing_answers, "SECONDS", 10.0)  # as other work on the machine takes its share
        yield running


@pytest.fixture
def visit(browser, server):
    """Open the page; what the console says, what is asked of others and what breaks must be nothing at the end."""
    wrong: list[str] = []
    made = []

    def open_page(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        context.set_default_timeout(120_000)
        made.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        own = (server.url, "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(f"asked: {r.url}"))
        page.goto(server.url)
        return Visitor(page)

    yield open_page
    for context in made:
        context.close()
    assert wrong == []


class Visitor:
    """What one does on the page."""

    def __init__(self, page):
        self.page = page
        self.settled()

    def settled(self):
        """Wait until nothing is asked any more."""
        self.page.locator("body[data-state=idle]").wait_for()
        return self

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()
        return self.settled()

    def pick(self, name):
        self.page.get_by_text(name, exact=True).click()
        return self.settled()

    def stroke(self, points):
        box = self.page.locator("#observation").bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for point in at[1:]:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()
        return self.settled()

    def upload(self, path):
        self.page.locator("#upload").set_input_files(path)
        self.page.wait_for_timeout(50)
        return self

    def pixels(self, name):
        """What a canvas shows, (H, W, 3)."""
        png = self.page.evaluate("name => document.getElementById(name).toDataURL()", name).partition(",")[2]
        return np.array(Image.open(io.BytesIO(base64.b64decode(png))), dtype=float)[..., :3]

    def text(self, name):
        return self.page.locator(f"#{name}").inner_text()

    @property
    def facts(self):
        names, texts = (self.page.locator(f"#facts {kind}").all_inner_texts() for kind in ("dt", "dd"))
        return dict(zip(names, texts, strict=True))


HIDDEN = [158, 202, 225]


def test_a_drawn_digit_is_answered(visit):
    visitor = visit()
    assert visitor.text("sentence") == "Draw a picture, let the generator draw one, or upload one."
    assert not visitor.pixels("observation").any()
    visitor.stroke(SEVEN)
    drawn = visitor.pixels("observation")[..., 0] / 255
    assert np.abs(drawn - seven()).mean() < 0.03
    assert visitor.page.get_by_label("Standard deviation").input_value() == "0.2"  # it is stated from the beginning
    assert visitor.text("status") == "NOISE_LEVEL"
    assert "what is left over is less than the stated noise would leave" in visitor.text("sentence")
    visitor.pick("Unknown")
    assert visitor.text("status") == "NO_EXACT_FIT"
    assert list(visitor.facts) == ["Fit", "Residual", "Confidence", "Uniqueness"]
    answered = visitor.pixels("reconstruction")[..., 0] / 255
    assert np.corrcoef(answered.ravel(), drawn.ravel())[0, 1] > 0.7
    assert visitor.text("took").startswith("in ")
    visitor.pick("Erase").stroke([(0.3, 0.28), (0.5, 0.24)])
    assert visitor.pixels("observation").sum() < 0.95 * 765 * drawn.sum()
    visitor.press("Clear")
    assert visitor.text("sentence") == "Draw a picture, let the generator draw one, or upload one."


def test_hiding_and_noise(visit):
    visitor = visit().pick("Unknown")
    visitor.press("Let it draw one")
    assert visitor.text("status") == "EXACT_FIT"
    assert visitor.facts["Fit"] == "exact"
    whole = visitor.pixels("reconstruction")
    visitor.pick("Hide").stroke([(0.2, 0.35), (0.8, 0.35)])
    hidden = (visitor.pixels("observation") == HIDDEN).all(axis=-1)
    assert 20 < hidden.sum() < 200
    assert ((visitor.pixels("residual") == HIDDEN).all(axis=-1) == hidden).all()
    np.testing.assert_allclose(visitor.pixels("reconstruction"), whole, atol=1)
    visitor.page.get_by_label("Add to the picture").fill("0.1")
    visitor.settled()
    assert visitor.text("status") != "EXACT_FIT"
    assert visitor.facts["Fit"] == "not judged: the noise is unknown"
    visitor.pick("Gaussian")
    assert visitor.text("status") == "NOISE_LEVEL"
    assert "less than the stated noise would leave" in visitor.text("sentence")
    visitor.page.get_by_label("Standard deviation").fill("0.1")
    visitor.settled()
    assert visitor.text("sentence").endswith("the stated noise could leave what is left over.")
    assert visitor.page.locator("#verdict").get_attribute("data-kind") == "good"
    visitor.page.get_by_label("Standard deviation").fill("0.05")
    visitor.settled()
    assert visitor.text("status") == "MISFIT"
    assert float(visitor.facts["Fit"].removeprefix("p = ").split()[0].lstrip("<")) < 0.01
    visitor.page.get_by_label("Brush").fill("8")
    visitor.stroke(
        [(0.05, y) for y in np.linspace(0, 1, 5)] + [(x, y) for y in np.linspace(0, 1, 9) for x in (0.0, 1.0)]
    )
    assert visitor.text("sentence") == "Everything is hidden: reveal a part of the picture."
    visitor.press("Reveal all")
    assert visitor.text("status") != ""
    assert not (visitor.pixels("observation") == HIDDEN).all(axis=-1).any()


def test_searching_longer(visit, monkeypatch):
    monkeypatch.setattr(_drawing_answers, "SECONDS", 1e-9)
    visitor = visit().pick("Unknown")
    visitor.press("Let it draw one")
    assert "Search longer" in visitor.text("sentence")
    visitor.press("Search longer")
    assert visitor.text("status") == "EXACT_FIT"
    assert not visitor.page.get_by_role("button", name="Search longer").is_visible()


def test_uploads(visit, tmp_path):
    visitor = visit()
    paper = 255 - np.round(255 * seven(280, 12.5)).astype(np.uint8)
    Image.fromarray(paper).save(tmp_path / "photo.png")
    visitor.upload(tmp_path / "photo.png").settled()
    assert (
        np.abs(visitor.pixels("observation")[..., 0] / 255 - seven()).mean() < 0.03
    )  # bright ink on black, as it draws
    status = visitor.text("status")
    assert status
    (tmp_path / "empty.png").touch()
    with open(tmp_path / "huge.png", "wb") as huge:
        huge.truncate(30 * 2**20)
    (tmp_path / "letter.txt").write_text("no picture")
    Image.new("1", (8000, 8000)).save(tmp_path / "wide.png")
    for name, why in {
        "empty.png": "empty.png is empty (0 bytes): choose a picture, a PNG or JPEG file.",
        "huge.png": "huge.png has 30 MiB, and at most 20 MiB are read: save it smaller.",
        "letter.txt": "letter.txt is no picture that this browser can read: save it as PNG or JPEG.",
        "wide.png": "wide.png has 8000 \u00d7 8000 pixels, and at most 50 million are read: save it smaller.",
    }.items():
        visitor.upload(tmp_path / name)
        visitor.page.locator("#notice", has_text=why).wait_for()
        assert visitor.text("status") == status  # the picture is still there
    visitor.upload(tmp_path / "photo.png").settled()
    visitor.page.locator("#notice").wait_for(state="hidden")


def test_centred_as_the_training_digits_were(visit):
    visitor = visit()
    visitor.stroke([(0.1 + x / 3, 0.1 + y / 3) for x, y in SEVEN]).press("Centre")
    rows, columns = np.nonzero(visitor.pixels("observation")[..., 0] > 50)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(20, abs=2)
    ink = visitor.pixels("observation")[..., 0]
    assert (ink.sum(axis=1) @ np.arange(28)) / ink.sum() == pytest.approx(13.5, abs=0.3)
    visitor.press("Negative")
    assert visitor.pixels("observation").mean() > 128


def test_another_generator(visit):
    visitor = visit()
    visitor.stroke(SEVEN)
    visitor.page.get_by_label("Generator").select_option("colours")
    visitor.settled()
    assert visitor.pixels("observation").shape == (8, 8, 3)
    assert not visitor.page.get_by_text("A real digit").is_visible()
    visitor.press("Let it draw one")
    assert visitor.text("status") == "EXACT_FIT"
    visitor.page.get_by_label("Ink").fill("#ff0000")
    visitor.stroke([(0.1, 0.1), (0.9, 0.9)])
    assert list(visitor.pixels("observation")[4, 4]) == [255, 0, 0]


def test_two_visitors_do_not_mix(visit):
    first, second = visit(), visit()
    first.press("Let it draw one")
    for _ in range(2):
        second.press("A real digit")
    shown = first.pixels("observation"), second.pixels("observation")
    assert np.abs(shown[0] - shown[1]).mean() > 5
    first.pick("Hide")
    second.pick("Gaussian")
    first.page.locator("#observation").click()  # neither waits for the other
    second.page.locator("#level").fill("0.3")
    first.settled()
    second.settled()
    assert first.text("status") == "EXACT_FIT"
    assert second.text("status") in ("NOISE_LEVEL", "MISFIT")  # by the strokes that the residual of a real digit has
    assert (second.pixels("observation") == shown[1]).all()


def test_two_hundred_random_clicks(visit, tmp_path):
    """Anywhere on the page, with files chosen where one is asked for; all works as before after them."""
    Image.fromarray(np.round(255 * seven()).astype(np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "empty.png").touch()
    visitor, rng = visit(), stream("test, clicks on the playground", 0)
    page = visitor.page
    files = [tmp_path / "photo.png", tmp_path / "empty.png"]
    page.on("filechooser", lambda chooser: chooser.set_files(files[int(rng.integers(2))]))
    for _ in range(200):
        page.mouse.click(float(rng.uniform(90, 1190)), float(rng.uniform(10, 950)))
    page.keyboard.press("Escape")
    visitor.settled()
    visitor.page.get_by_label("Generator").select_option("mnist-relu")
    visitor.pick("Unknown")
    page.get_by_label("Add to the picture").fill("0")
    visitor.press("Clear").press("Let it draw one")
    assert visitor.text("status") == "EXACT_FIT"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_it_fits_and_is_readable(visit, width, scheme):
    visitor = visit(width, scheme)
    for step in (lambda: None, lambda: visitor.stroke(SEVEN), lambda: visitor.press("Let it draw one")):
        step()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visitor.page.evaluate(BEYOND, width) == []
        assert visitor.page.evaluate(CONTRAST) == []
