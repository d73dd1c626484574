"""The benchmarks on a small scale: what they write, and that all solvers solve the same program; no time is judged."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from tests.layerwise.reference import least_violation as reference
from unrelu.cli import process
from unrelu.cli._app import app
from unrelu.errors import InputError, SolverError
from unrelu.layerwise import LayerSystem, rows
from unrelu.models.activations import Activation
from unrelu_studies.benchmarks import REPORT_SEED
from unrelu_studies.benchmarks import benchmark as running
from unrelu_studies.benchmarks.benchmark import Command, execute, load
from unrelu_studies.benchmarks.layer_programs import layers
from unrelu_studies.benchmarks.layer_programs.layer_instances import (
    ALL_CASES,
    CASES,
    COMBINATIONS,
    PROGRAMS,
    QUICK_CASES,
    draw,
)
from unrelu_studies.benchmarks.layer_programs.layers import ratio, summarise
from unrelu_studies.benchmarks.layer_programs.peers import PEERS, Scaled, objective


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, str, dict]:
    """The quick run of the command line: its folder, what it printed, and its numbers."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    done = CliRunner().invoke(app, ["benchmark", "layers", "--quick", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    return (
        folder,
        done.stdout,
        json.loads((folder / "layers.json").read_text(encoding="utf-8"), parse_constant=pytest.fail),
    )


@pytest.fixture(scope="module")
def records(quick) -> list[dict]:
    return quick[2]["instances"]


# --- the quick run ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_quick_run_measures_every_combination_of_two_layers(quick, records):
    folder, _, numbers = quick
    assert sorted(p.name for p in folder.iterdir()) == ["layers.json"]
    given = {"measurement": "layers", "instances": None, "quick": True, "seed": REPORT_SEED, "parts": []}
    assert numbers["command"] == given
    assert set(numbers["machine"]) >= {
        "processor",
        "cores",
        "python",
        "numpy",
        "scipy",
        "numba",
        "highspy",
        "blas",
        "date",
    }
    assert set(numbers["timed"]) == {"ours", *PEERS}
    assert [(r["layer"], r["norm"], r["outliers"], r["index"]) for r in records] == [
        (case.name, program.norm, program.outliers, i) for case in QUICK_CASES for program in PROGRAMS for i in range(6)
    ]
    assert [(r["noise"], r["bounded"]) for r in records] == [*COMBINATIONS] * len(QUICK_CASES) * len(PROGRAMS)


def test_every_time_is_positive_and_every_objective_agrees(records):
    for r in records:
        assert len(r["ours_seconds"]) == 3
        assert (r["status"], r["engine"], r["fallback"]) == ("OPTIMAL", "exchange", False)
        assert all(ratio(r, solver) > 0 for solver in PEERS)
        assert abs(r["difference"]) <= 1e-6
        for solver in PEERS:
            assert r["objectives"][solver] == pytest.approx(r["objectives"]["ours"], rel=1e-6, abs=1e-8 * r["scale"])


def test_the_tables_of_the_page_are_printed_whole(quick):
    printed = quick[1]
    for word in ("784 x 60", "linf: ours", "linprog", "HiGHS", "proved optimal"):
        assert word in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_existing_results_are_refused_before_anything_is_measured(quick, monkeypatch, capsys):
    folder = quick[0]
    before = (folder / "layers.json").read_bytes()
    monkeypatch.setattr(running, "execute", lambda *arguments: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["unrelu", "benchmark", "layers", "--quick", "-o", str(folder)])
    with pytest.raises(SystemExit) as end:
        process.main()
    refusal = f"error: {folder} exists; choose another folder, or pass --overwrite to replace its results\n"
    assert (end.value.code, capsys.readouterr().err) == (2, refusal)
    assert (folder / "layers.json").read_bytes() == before


def test_an_unknown_measurement_names_the_known_ones(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["unrelu", "benchmark", "speed"])
    with pytest.raises(SystemExit):
        process.main()
    assert "use one of layers, first_call, cost, search, certify" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_instances_depend_on_the_seed_and_on_nothing_else(case):
    first, again = (draw(case, PROGRAMS[2], 9, 1) for _ in range(2))
    draw(case, PROGRAMS[0], 0, 1)
    other = draw(case, PROGRAMS[2], 9, 2)
    np.testing.assert_array_equal(first.system.matrix, again.system.matrix)
    np.testing.assert_array_equal(first.rows.target, again.rows.target)
    assert (first.rows.target != other.rows.target).any()
    assert first.system.matrix.shape == (case.n, case.k)


@pytest.mark.parametrize("index", range(12))
def test_noise_and_bounds_are_those_that_are_stated(index):
    instance = draw(QUICK_CASES[0], PROGRAMS[0], index, 0)
    assert (instance.noise, instance.bounded) == COMBINATIONS[index % 6]
    assert instance.rows.threshold == instance.noise * instance.scale
    assert set(instance.system.lower) == {0.0 if instance.bounded else -np.inf}
    assert instance.source == ("digit" if index >= 6 else "random z")


# --- peers ------------------------------------------------------------------------------------------------------------


def tiny(seed: int, activation: str, bounded: bool):
    """A 20 x 4 layer program with its true input and noise level."""
    rng = np.random.default_rng(seed)
    box = (0.0, 1.5) if bounded else (-np.inf, np.inf)
    h = np.clip(np.abs(rng.normal(size=4)), *box)
    system = LayerSystem(
        rng.normal(size=(20, 4)), rng.normal(size=20) / 5, Activation.parse(activation), *(np.full(4, b) for b in box)
    )
    target = system.value(h) + 1e-3 * rng.uniform(-1, 1, 20)
    return system, rows(system, target, 1e-3), h


@pytest.mark.parametrize("norm", ["l1", "linf"])
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    activation=st.sampled_from(("relu", "leaky_relu:0.1", "identity", "tanh")),
    bounded=st.booleans(),
)
def test_the_peers_agree_with_an_interior_point_solver(seed, activation, bounded, norm):
    system, layer_rows, h = tiny(seed, activation, bounded)
    expected = reference(system, layer_rows, norm, h, 1e-3)
    scaled = Scaled.of(system, layer_rows, norm)
    for peer in PEERS.values():
        run = peer.solve(scaled)
        assert objective(system, layer_rows, norm, run.h) == pytest.approx(expected, rel=1e-6, abs=1e-9)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_peer_that_gives_up_has_no_ratio(quick, records):
    failed = [{**r, "objectives": {**r["objectives"], "linprog": None}, "difference": None} for r in records]
    summary = summarise(failed)[0]
    assert summary["ratios"]["linprog"] is None
    assert summary["largest_difference"] is None
    assert summary["peer_failures"]["linprog"] == 6
    assert "| - |" in load("layers").blocks["layers"]({"summary": summarise(failed)})


def test_failures_of_ours_are_counted(monkeypatch):
    def refuse(*arguments):
        raise SolverError("no")

    monkeypatch.setattr(layers, "least_violation", refuse)
    record = layers.measure(draw(CASES[0], PROGRAMS[0], 0, 0))
    assert record["status"] == "SolverError: no"
    assert record["objectives"]["ours"] is None
    assert ratio(record, "linprog") is None
    summary = summarise([record])[0]
    assert (summary["not_optimal"], summary["ratios"]["highs"]) == (1, None)


# --- the other measurements -------------------------------------------------------------------------------------------


@pytest.mark.long
def test_first_call_runs_two_processes_and_says_once_that_kernels_are_compiled(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    assert running.run(Command("first_call", None, True, 0), tmp_path / "out", False, console)
    numbers = json.loads((tmp_path / "out" / "first_call.json").read_text(encoding="utf-8"))
    found = [(row["call"], row["cache"], row["messages"], row["code"]) for row in numbers["rows"]]
    assert found == [("auto", "empty", 1, True), ("auto", "filled", 0, True)]
    assert f"written to {tmp_path}/out/: first_call.json" in console.file.getvalue().replace("\n", "")


# --- a run that is stopped --------------------------------------------------------------------------------------------


def test_a_stopped_benchmark_goes_on(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(running.BENCHMARKS, "counted", "searches.prior")
    counted = running.Benchmark(
        units=lambda command: [(i,) for i in range(4)],
        measure=lambda command, unit: calls.append(unit) or {"unit": unit[0], "missing": float("nan")},
        blocks={},
    )
    command = Command("counted", None, True, 7)
    assert execute(counted, command, tmp_path, lambda done, total: done >= 2) is None
    assert {p.name for p in tmp_path.iterdir()} == {"counted.partial.jsonl"}
    with pytest.raises(InputError, match="seed is 7, asked for is 8"):
        execute(counted, replace(command, seed=8), tmp_path)
    found = execute(counted, command, tmp_path)
    assert sorted(calls) == [(0,), (1,), (2,), (3,)]
    assert found["rows"] == [{"unit": i, "missing": None} for i in range(4)]
    assert found["command"]["seed"] == 7
    assert {p.name for p in tmp_path.iterdir()} == {"counted.json"}


def test_a_benchmark_uses_nothing_that_earlier_runs_have_learned(tmp_path, monkeypatch):
    monkeypatch.setenv("UNRELU_CACHE", str(tmp_path))
    seen = running.Benchmark(
        units=lambda command: [(0,)], measure=lambda command, unit: os.environ["UNRELU_CACHE"], blocks={}
    )
    found = execute(seen, Command("seen", None, True, 7), tmp_path)
    assert found["rows"] != [str(tmp_path)]
    assert not Path(found["rows"][0]).exists()
    assert os.environ["UNRELU_CACHE"] == str(tmp_path)


def test_what_was_begun_is_not_refused(tmp_path, monkeypatch):
    """The folder of a stopped run exists, and holds no results."""
    monkeypatch.setattr(running, "execute", lambda *arguments: None)
    (tmp_path / "prior.partial.jsonl").write_text("")
    console = Console(file=io.StringIO(), width=100)
    assert not running.run(Command("prior", None, True, 0), tmp_path, False, console)
    assert "run it again with the same command to go on" in console.file.getvalue().replace("\n", " ")


def test_the_threads_are_limited_only_within_a_measurement():
    code = """
from threadpoolctl import threadpool_info
from unrelu_studies.kit.timing import one_thread
import numpy, scipy.linalg
counts = lambda: {i["num_threads"] for i in threadpool_info()}
before = counts()
with one_thread():
    print(counts())
print(counts() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{1}", "True"]
