"""Small runs that the tests of the report share, and what a page says in words."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image

import unrelu
from tests.support import random_network

SEED = 0
PIXELS = 64


def generator(outputs: int = PIXELS):
    return random_network((3, 24, outputs), seed=SEED)


def observations(size: int = 20, outputs: int = PIXELS, noise: float = 0.05):
    rng = np.random.default_rng(1)
    y = generator(outputs)(rng.standard_normal((size, 3)))
    return y + noise * rng.standard_normal(y.shape)


def run(folder: Path, data, outputs: int = PIXELS, **given):
    """A run of 20 observations in chunks of 6, as a rule."""
    given = {"method": "lm", "chunk": 6, "workers": 1, **given}
    return unrelu.run(generator(outputs), data, folder, **given)


def saved(folder: Path, y, name: str = "y.npy") -> Path:
    np.save(folder / name, y)
    return folder / name


class _Words(HTMLParser):
    """The text of a page, every start tag with its attributes, and images by their alt text."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self._inside = ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("style", "script"):
            self._inside = tag

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data):
        if not self._inside:
            self.parts.append(data)


class Page:
    """A written page."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        parser = _Words()
        parser.feed(self.source)
        self.tags = parser.tags
        self.text = re.sub(r"\s+", " ", " ".join(parser.parts))

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def picture(self, alt: str):
        """Its pixels, (H, W, 3)."""
        found = [a for a in self.all("img") if a["alt"] == alt]
        assert len(found) == 1, alt
        content = base64.b64decode(found[0]["src"].removeprefix("data:image/png;base64,"))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def charts(self) -> list[int]:
        """The observations in each histogram, by its text."""
        drawn = re.findall(r'aria-label="Histogram of [^"]*?: ([\d,]+) \w+ from ', self.source)
        return [int(n.replace(",", "")) for n in drawn]

    def curves(self, label: str) -> int:
        """How many observations have a plot of this name."""
        return sum(f", {label}: a curve of" in a.get("aria-label", "") for a in self.all("svg"))
