"""Small runs that the tests of the report share, and what a page says in words."""

from __future__ import annotations

import base64
import io
import re
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import zarr
from PIL import Image

import unrelu
from tests.support import random_network
from unrelu.report import write_report

PIXELS = 64


def generator(outputs: int = PIXELS):
    return random_network((3, 24, outputs), seed=0)


def observations(size: int = 20, outputs: int = PIXELS, noise: float = 0.05):
    rng = np.random.default_rng(1)
    y = generator(outputs)(rng.standard_normal((size, 3)))
    return y + noise * rng.standard_normal(y.shape)


def run(folder: Path, data, outputs: int = PIXELS, **given) -> unrelu.Run:
    """A run of 20 observations in chunks of 6, as a rule."""
    return unrelu.run(generator(outputs), data, folder, **{"method": "lm", "chunk": 6, "workers": 1, **given})


def changed(made: unrelu.Run, name: str, rows, values) -> unrelu.Run:
    """The run, with other numbers of some observations; statuses by their names."""
    if "status" in name:
        values = 1 + made.manifest["statuses"].index(values)
    column = zarr.open_group(made.folder / "results.zarr", mode="r+")[name]
    whole = column[:]
    whole[rows] = values
    column[:] = whole
    return unrelu.open_run(made.folder)


class Page(HTMLParser):
    """The page of a run: its text, and every start tag with its attributes."""

    def __init__(self, made: unrelu.Run) -> None:
        super().__init__()
        self.source = write_report(made.folder).read_text(encoding="utf-8")
        self.parts: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(re.sub(r"(?s)<style>.*?</style>", "", self.source))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.parts.append(data)

    @cached_property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.parts))

    @cached_property
    def shown(self) -> list[int]:
        """The observations of the gallery, in order."""
        return [int(i) for i in re.findall(r"<h4>Observation (\d+) ", self.source)]

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def labels(self) -> set[str]:
        """What the pictures of observations show."""
        return {image["alt"].split(", ", 1)[1] for image in self.all("img")}

    def picture(self, i: int, label: str):
        """The pixels, (H, W, 3), of a picture of observation i."""
        (found,) = (image for image in self.all("img") if image["alt"] == f"observation {i}, {label}")
        content = base64.b64decode(found["src"].removeprefix("data:image/png;base64,"))
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def charts(self) -> list[int]:
        """The observations in each histogram, by its text."""
        drawn = re.findall(r'aria-label="Histogram of [^"]*: ([\d,]+) observation', self.source)
        return [int(n.replace(",", "")) for n in drawn]

    def curves(self, label: str) -> int:
        """How many observations have a plot of this name."""
        return sum(f", {label}: a curve of" in svg.get("aria-label", "") for svg in self.all("svg"))
