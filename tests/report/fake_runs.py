"""Runs without a folder that the tests of the report share, and what a page says in words."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from unrelu.errors import InputError
from unrelu.result import Status

QUESTION = {"model": "a-model.onnx", "data": "y.npy", "method": "lm", "noise": "gaussian:0.05", "seed": "7"}
LATENT = 3


def smooth(size: int, n: int, seed: int = 0) -> np.ndarray:
    """Outputs (size, n) whose neighbours are alike."""
    z = np.random.default_rng(seed).standard_normal((size, 3))
    return z @ np.sin(np.arange(n) * np.array([[0.1], [0.23], [0.31]]))


class FakeRun:
    """What the page asks of a run, from arrays: by default 20 pictures of 8 x 8 pixels, of which the last two fail."""

    def __init__(
        self, size: int = 20, shape=(64,), data=None, noise: bool = True, chunk: int = 6, done=None, **columns
    ):
        n, m, rng = int(np.prod(shape)), int(np.prod(data or shape)), np.random.default_rng(1)
        residual = rng.standard_normal((size, m)) * np.linspace(0.03, 0.08, size)[:, None]
        p = np.where(np.arange(size) < size - 2, 0.5, 1e-9)
        self.columns = {
            "reconstructions": smooth(size, n).reshape(size, *shape),
            "residuals": residual.reshape(size, *(data or shape)),
            "codes": rng.standard_normal((size, LATENT)),
            "status": np.where(p < 0.01, "MISFIT", "NOISE_LEVEL"),
            "success": p > 0.01, "p_value": p, "p_size": p, "p_largest": p + 0.1, "p_structure": p + 0.2,
            "confidence": np.full(size, 0.5), "objective": (residual**2).sum(axis=1), "nit": np.arange(size) + 1,
            "residual_l2": np.linalg.norm(residual, axis=1), "residual_l1": np.abs(residual).sum(axis=1),
            "residual_linf": np.abs(residual).max(axis=1), "freedom": np.zeros(size, int),
            "rank": np.where(np.arange(size) < 3, 2, LATENT), "identifiable": np.arange(size) >= 3,
            "seconds": np.full(size, 0.1), **columns,
        }  # fmt: skip
        self.folder, self.names, self.size, self.noise_stated = Path("out"), [], size, noise
        self.running, self.mixed, self.chunks = False, None, -(-size // chunk)
        self.manifest: dict[str, Any] = {
            "norm": None, "operator": None, "masks": None,
            "about": {
                "model": "a-model.onnx", "data": "y.npy", "question": dict(QUESTION), "machine": {"unrelu": "0.1", "torch": "2"},
                "objective": "squared l2 residual", "expected": {"residual_l2": 0.4} if noise else {}, "uniform_p": True,
                "layerwise": False,
            },
        }  # fmt: skip
        spans = [(start, min(start + chunk, size)) for start in range(0, size, chunk)][: None if done is None else done]
        self.records = {
            i: SimpleNamespace(
                chunk=i, start=start, stop=stop, seconds=4.0, worker=f"a:{i % 2}", at=1000.0 + 4 * (i // 2),
                errors={}, messages={}, names={},
            )
            for i, (start, stop) in enumerate(spans)
        }  # fmt: skip

    @property
    def indices(self) -> np.ndarray:
        return np.concatenate([np.arange(0), *(np.arange(r.start, r.stop) for r in self.records.values())])

    @property
    def done(self) -> int:
        return len(self.indices)

    @property
    def finished(self) -> bool:
        return self.done == self.size

    @property
    def errors(self) -> dict[int, str]:
        return {i: text for record in self.records.values() for i, text in record.errors.items()}

    @property
    def success(self) -> int:
        return int(self.column("success").sum())

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(self.column("status").tolist()))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if name not in self.columns:
            raise InputError(name)
        return self.columns[name][start:stop]

    def column(self, name: str) -> np.ndarray:
        return self.read(name)[self.indices]

    def failed(self, errors: dict[int, str]) -> FakeRun:
        """The run, with errors in place of some observations."""
        self.records[0].errors.update(errors)
        for i in errors:
            for name, values in self.columns.items():
                if values.dtype.kind == "f":
                    values[i] = np.nan
            for name, value in (("status", "ERROR"), ("success", False), ("rank", -1), ("identifiable", False)):
                self.columns[name] = self.columns[name].astype(object if name == "status" else self.columns[name].dtype)
                self.columns[name][i] = value
        return self

    def sampled(self, **statuses: list[int]) -> FakeRun:
        """The run with posteriors, all MIXED but those that are named by their status."""
        rng, size = np.random.default_rng(2), self.size
        std = rng.uniform(0.1, 0.2, (size, LATENT))
        ended = np.full(size, "MIXED", dtype=object)
        for name, places in statuses.items():
            ended[places] = name
        self.columns |= {
            "posterior_status": ended, "mean": np.zeros((size, LATENT)), "std": std, "lower": -2 * std, "upper": 2 * std,
            "reconstruction_std": rng.uniform(0, 0.1, self.columns["reconstructions"].shape),
            "rhat": np.where(ended == "MIXED", 1.001, 1.5), "ess": np.where(ended == "MIXED", 900.0, 12.0),
            "tail_ess": np.full(size, 700.0),
        }  # fmt: skip
        self.mixed = int((self.column("posterior_status") == Status.MIXED.name).sum())
        return self


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

    def __init__(self, source: str) -> None:
        self.source = source
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
