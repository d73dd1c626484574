"""The search benchmark on a small scale: its problems, its counts, its tables and files; no time is judged."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from unrelu import invert
from unrelu.cli._app import app
from unrelu_studies.benchmarks.searches import search
from unrelu_studies.benchmarks.searches.search import BLIND, KNOWN, METHODS, inverted, measure_cell
from unrelu_studies.benchmarks.searches.search_cells import MEASUREMENTS, QUICK_CELLS, RANDOM, ZOO, SearchCell, draw


def numpy_output(network, z: np.ndarray) -> np.ndarray:
    """G(z), layer by layer, without PyTorch."""
    for layer in network.layers:
        z = layer.value(z)
    return z


def measured(x: np.ndarray, operator) -> np.ndarray:
    """A x, one row an observation."""
    x = x.reshape(len(x), -1)
    if operator is None:
        return x
    return x * operator.reshape(x.shape) if operator.dtype == bool else x @ operator.T


# --- the problems -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", [SearchCell("mnist-relu", m, 0.1) for m in MEASUREMENTS] + [SearchCell(RANDOM[0], "full", 1e-2)]
)
def test_equal_arguments_draw_equal_problems(cell):
    first, again, other, next_batch = draw(cell, 3, 0, 7), draw(cell, 3, 0, 7), draw(cell, 3, 0, 8), draw(cell, 3, 1, 7)
    assert first.network is again.network
    for name in ("y", "operator", "truth", "target", "oracle"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    for differs in (other, next_batch):
        assert (differs.truth != first.truth).all()
        if cell.measurement not in ("full", "block"):
            assert (differs.operator != first.operator).any()
    assert (next_batch.network is first.network) == (cell.generator in ZOO)


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("generator", ["mnist-relu", "mnist-sigmoid"])
def test_a_success_is_a_fit_as_good_as_the_true_code(generator, measurement):
    noisy, clean = (draw(SearchCell(generator, measurement, noise), 3, 0, 0) for noise in (0.1, 0.0))
    x = numpy_output(noisy.network, noisy.truth)
    seen = noisy.operator if measurement in ("half", "block") else np.ones_like(noisy.y, dtype=bool)
    r = (seen * noisy.y).reshape(3, -1) - measured(x, noisy.operator)
    np.testing.assert_allclose(noisy.target, (1 + 1e-6) * np.square(r).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(noisy.misfit(noisy.truth), np.square(r).sum(axis=1), rtol=1e-9)
    size = np.square(measured(x, clean.operator)).sum(axis=1)
    np.testing.assert_allclose(clean.target, 1e-10 * size, rtol=1e-9)
    assert (clean.misfit(clean.truth) <= 1e-20 * size).all()


@pytest.mark.parametrize("generator", ["mnist-relu", "mnist-dcgan"])
def test_masks_hide_half_of_the_pixels_or_a_block(generator):
    half, block = (draw(SearchCell(generator, name, 0.1), 5, 0, 0) for name in ("half", "block"))
    hidden = ~half.operator.reshape(5, 28, 28)
    assert (hidden.sum(axis=(1, 2)) == 392).all()
    assert (hidden[0] != hidden[1]).any()
    hidden = ~block.operator.reshape(5, 28, 28)
    for image in hidden:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image.sum() == 100
        assert (np.ptp(rows), np.ptp(columns), len(rows), len(columns)) == (9, 9, 10, 10)
    assert len({image.tobytes() for image in hidden}) > 1
    for batch in (half, block):
        changed = replace(batch, y=np.where(batch.operator, batch.y, 1e3))
        np.testing.assert_array_equal(changed.misfit(batch.truth), batch.misfit(batch.truth))


# --- the methods ------------------------------------------------------------------------------------------------------


def test_of_ten_runs_the_best_is_kept():
    batch = draw(SearchCell("mnist-relu", "half", 0.0), 3, 0, 0)
    best = inverted(batch, "lm x10")
    runs = [invert(batch.network, batch.y, "lm", operator=batch.operator, seed=seed) for seed in range(10)]
    np.testing.assert_array_equal(batch.misfit(best.z), np.min([run.fun for run in runs], axis=0))
    assert len(best.statuses) == len(best.success) == 3


def test_a_run_that_broke_down_is_not_the_best(monkeypatch):
    def run(*arguments, seed, **options):
        fun = np.array([np.nan, 10.0 - seed, seed]) if seed else np.array([np.nan, 1.5, np.nan])
        verdict = {"success": np.full(3, seed == 9), "confidence": np.full(3, seed), "p_value": np.full(3, -seed)}
        return SimpleNamespace(fun=fun, z=np.full((3, 2), seed), verdict=np.full(3, f"RUN_{seed}"), **verdict)

    monkeypatch.setattr(search, "invert", run)
    best = inverted(draw(QUICK_CELLS[0], 3, 0, 0), "lm x10")
    assert best.z[1:, 0].tolist() == best.confidence[1:].tolist() == (-best.p_value[1:]).tolist() == [9, 1]
    assert best.statuses[1:] == ["RUN_9", "RUN_1"]
    assert best.success[1:].tolist() == [True, False]


def test_what_a_method_claims_is_counted_apart_from_what_it_found(monkeypatch):
    def run(network, y, **options):
        flags, p = np.array([True, True, False]), np.array([0.5, 0.01, 0.001])
        given = options["noise"] is not None
        return SimpleNamespace(
            fun=np.zeros(3), z=np.zeros((3, 20)), verdict=np.full(3, "MISFIT"), success=flags,
            confidence=np.array([1.0, 0.5, 0.0]), p_value=p if given else np.full(3, np.nan),
        )  # fmt: skip

    monkeypatch.setattr(search, "invert", run)
    blind, known = measure_cell(SearchCell("mnist-relu", "full", 0.1), 3, 20260, (BLIND, KNOWN))
    assert (blind["success"], blind["per_success"]) == (0, math.inf)
    assert (blind["claimed"], blind["confidence"]) == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert math.isnan(blind["fits"])
    assert known["fits"] == pytest.approx(2 / 3)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, str, dict]:
    """A quick run of the command line: its folder, what it printed, and its numbers."""
    folder = tmp_path_factory.mktemp("search") / "out"
    arguments = ["benchmark", "search", "--quick", "--instances", "2", "--output", str(folder)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    text = (folder / "search.json").read_text(encoding="utf-8")
    return folder, done.stdout, json.loads(text, parse_constant=pytest.fail)


@pytest.mark.long
def test_the_quick_run_writes_every_outcome(quick):
    folder, _, numbers = quick
    assert sorted(p.name for p in folder.iterdir()) == ["search.json"]
    assert numbers["command"]["measurement"] == "search"
    rows = numbers["outcomes"]
    assert [(SearchCell(r["generator"], r["measurement"], r["noise"]), r["method"]) for r in rows] == [
        (cell, method) for cell in QUICK_CELLS for method in METHODS if cell.noise or method != KNOWN
    ]
    for row in rows:
        assert (row["fits"] is None) == (row["method"] != KNOWN)
        assert 0 <= row["claimed"] <= 1
        assert (row["instances"], sum(row["statuses"].values())) == (2, 2)
        assert row["milliseconds"] > 0
        assert row["per_success"] == (row["milliseconds"] / row["success"] if row["success"] else None)
    assert all(row["success"] == 1 for row in rows if row["method"] in (BLIND, KNOWN))


def test_the_tables_are_printed_whole(quick):
    text = quick[1]
    for word in ("mnist-relu", "random nets", "auto, noise known", "adam x10"):
        assert word in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_unknown_generators_are_refused(tmp_path):
    arguments = ["benchmark", "search", "--part", "mnist-rely", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert "'mnist-rely' is unknown; use some of mnist-relu," in str(done.exception)
    assert not (tmp_path / "out").exists()
