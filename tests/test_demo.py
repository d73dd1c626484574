"""The demonstration on a small scale: its tables, its picture, its records."""

from __future__ import annotations

import io
import json

import numpy as np
from rich.console import Console

from unrelu import demo


def test_a_small_demonstration(tmp_path, monkeypatch):
    small = [
        lambda: demo.Section("mnist-relu", False, 2, ("linf", "linf, then lm", "least_squares")),
        lambda: demo.Section("mnist-dcgan", True, 1, ("lm",)),
    ]
    monkeypatch.setattr(demo, "sections", lambda seed: [make() for make in small])
    text = io.StringIO()
    done = demo.run_demo(tmp_path, Console(file=text, width=120))

    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(r["model"], r["method"], r["real"]) for r in rows] == [
        *(("mnist-relu", method, False) for method in ("linf", "linf, then lm", "least_squares") for _ in range(2)),
        ("mnist-dcgan", "lm", True),
    ]
    for row in rows:
        assert row["residual_linf"] <= row["residual_l2"] <= row["residual_l1"]
    # The refined residual cannot be above the one that it started from.
    by_method = {m: [r["residual_l2"] for r in rows if r["method"] == m] for m in ("linf", "linf, then lm")}
    assert all(a <= b for a, b in zip(by_method["linf, then lm"], by_method["linf"], strict=True))
    # Time of the refinement includes the time of its start.
    assert (done[0].seconds["linf, then lm"] > done[0].seconds["linf"]).all()

    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    printed = text.getvalue()
    for word in ("mnist-relu", "latent error", "linf, then lm", "fits"):
        assert word in printed


def test_observations_are_noisy_and_repeatable():
    first, second = (demo.Section("mnist-relu", True, 3, ()) for _ in range(2))
    np.testing.assert_array_equal(first.observed, second.observed)
    noise = first.observed - first.clean
    assert abs(noise.std() - 0.1) < 0.01


def test_the_picture_has_a_row_an_observation_and_a_column_a_method():
    section = demo.Section("mnist-relu", False, 2, ("least_squares",))
    section.run("least_squares", None)
    figure = demo.draw([section])
    images = [axis.get_images() for axis in figure.axes]
    assert len(images) == 2 * 3
    assert all(len(shown) == 1 for shown in images)
