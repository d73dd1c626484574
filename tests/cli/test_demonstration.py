"""The demonstration on a small scale: its tables, its picture, its records."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from unrelu.cli import _demonstration

# What the small demonstration runs: the refinement is in a group before its start, and still runs after it.
GROUPS = (("linf, then lm",), ("least_squares",), ("linf",))


def test_a_small_demonstration(tmp_path, monkeypatch):
    def small(seed):
        return [
            _demonstration.Section("mnist-relu", False, 8, GROUPS, seed),
            _demonstration.Section("mnist-dcgan", True, 1, (("lm",),), seed),
        ]

    monkeypatch.setattr(_demonstration, "sections", small)
    text = io.StringIO()
    done = _demonstration.run_demo(tmp_path, Console(file=text, width=120))

    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(r["model"], r["method"], r["real"]) for r in rows] == [
        *(("mnist-relu", method, False) for method in ("linf", "least_squares", "linf, then lm") for _ in range(8)),
        ("mnist-dcgan", "lm", True),
    ]
    for row in rows:
        assert row["residual_linf"] <= row["residual_l2"] <= row["residual_l1"]
    # The refined residual cannot be above the one that it started from.
    by_method = {m: [r["residual_l2"] for r in rows if r["method"] == m] for m in ("linf, then lm", "linf")}
    assert all(a <= b for a, b in zip(by_method["linf, then lm"], by_method["linf"], strict=True))
    # Time of the refinement includes the time of its start.
    assert (done[0].results["linf, then lm"].seconds > done[0].results["linf"].seconds).all()
    # Noise explains a digit of the generator, and no real one.
    assert done[0].results["linf, then lm"].success.mean() > 0.7
    assert [str(status) for status in done[1].results["lm"].status] == ["MISFIT"]

    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    printed = text.getvalue()
    for word in ("mnist-relu", "latent error", "linf, then lm", "explained", "order of the ranks: holds"):
        assert word in printed


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_the_methods_does_not_depend_on_the_seed(seed):
    section = _demonstration.Section("mnist-relu", False, 12, (("lm", "auto"), ("least_squares",), ("linf",)), seed)
    for method in section.methods:
        section.run(method)
    assert section.in_order


def test_an_order_that_does_not_hold_is_seen():
    section = _demonstration.Section("mnist-relu", False, 8, (("linf",), ("lm",)))
    for method in section.methods:
        section.run(method)
    assert not section.in_order


def test_observations_are_noisy_and_repeatable_and_differ_between_seeds():
    first, second, other = (_demonstration.Section("mnist-relu", True, 3, (), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.observed, second.observed)
    assert not np.array_equal(first.clean, other.clean)
    noise = first.observed - first.clean
    assert abs(noise.std() - 0.1) < 0.01
    assert not np.array_equal(noise, other.observed - other.clean)


def test_every_cell_of_the_picture_has_an_image_or_says_why_not():
    done = [
        _demonstration.Section("mnist-relu", False, 2, (("least_squares", "lm"),), shown=2),
        _demonstration.Section("mnist-dcgan", False, 1, (("lm",),)),
    ]
    for section in done:
        for method in section.methods:
            section.run(method)
    figure = _demonstration.draw(done)
    assert len(figure.axes) == 3 * (1 + 2 + 2)
    for axis in figure.axes:
        assert axis.get_images() or any(text.get_text() for text in axis.texts)
    below = [text.get_text() for axis in figure.axes if axis.get_images() for text in axis.texts]
    assert len(below) == 2 * 2 + 1
    assert all("p " in text for text in below)
    assert ["needs" in t.get_text() for axis in figure.axes for t in axis.texts].count(True) == 1
