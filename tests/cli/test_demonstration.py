"""The demonstration on a small scale: its tables, its picture, its records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.cli.conftest import lines
from unrelu.cli import _demonstration
from unrelu.cli._demonstration import Section, draw


def test_a_small_demonstration(run, monkeypatch):
    def small(seed):
        methods = ("linf", "least_squares", "linf, then lm")
        return [Section("mnist-relu", False, 8, methods, seed), Section("mnist-dcgan", True, 1, ("lm",), seed)]

    monkeypatch.setattr(_demonstration, "sections", small)
    code, printed, err = run("demo", "-o", "out")
    assert (code, "4/4" in err) == (0, True)
    rows = lines()
    assert [(r["model"], r["method"], r["real"]) for r in rows] == [
        *(("mnist-relu", method, False) for method in ("linf", "least_squares", "linf, then lm") for _ in range(8)),
        ("mnist-dcgan", "lm", True),
    ]
    # The refined residual cannot be above the one that it started from, and its time includes that of the start.
    by = {m: [r for r in rows if r["method"] == m] for m in ("linf, then lm", "linf")}
    pairs = list(zip(by["linf, then lm"], by["linf"], strict=True))
    assert all(a["residual_l2"] <= b["residual_l2"] and a["seconds"] > b["seconds"] for a, b in pairs)
    # Noise explains digits of the generator, and no real one.
    assert np.mean([r["success"] for r in by["linf, then lm"]]) > 0.7
    assert rows[-1]["status"] == "MISFIT"
    assert Path("out/grid.png").read_bytes().startswith(b"\x89PNG")
    # The table is in the order of the residuals, and says how the picture's rows are chosen.
    table = [line.split("  ")[1] for line in printed.splitlines()[2:5]]
    assert table == ["linf, then lm", "least_squares", "linf"]
    assert "The picture shows the first observation of each table." in printed


def test_observations_are_noisy_and_repeatable_and_differ_between_seeds():
    first, second, other = (Section("mnist-relu", True, 3, (), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.observed, second.observed)
    assert not np.array_equal(first.clean, other.clean)
    noise = first.observed - first.clean
    assert abs(noise.std() - 0.1) < 0.01
    assert not np.array_equal(noise, other.observed - other.clean)


def test_every_cell_of_the_picture_has_an_image_or_says_why_not():
    done = [Section("mnist-relu", False, 2, ("least_squares", "lm")), Section("mnist-dcgan", False, 1, ("lm",))]
    for section in done:
        for method in section.methods:
            section.run(method)
    figure = draw(done)
    assert len(figure.axes) == 2 * (3 + len(_demonstration.METHODS))
    for axis in figure.axes:
        assert axis.get_images() or any(text.get_text() for text in axis.texts)
    below = [text.get_text() for axis in figure.axes if axis.get_images() for text in axis.texts]
    assert len(below) == 3
    assert all("p " in text for text in below)
