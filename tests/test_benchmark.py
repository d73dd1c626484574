"""The benchmarks on a small scale: what they write, and that all solvers solve the same program; no time is judged."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import least_violation as reference
from rich.console import Console
from typer.testing import CliRunner

from unrelu import cli
from unrelu.activations import Activation
from unrelu.benchmarks import layers, peers, plot, report
from unrelu.benchmarks.instances import CASES, COMBINATIONS, PROGRAMS, QUICK_CASES, REPORT_SEED, Case, draw, draw_batch
from unrelu.benchmarks.machine import describe
from unrelu.benchmarks.peers import PEERS, Scaled, cholesky, objective
from unrelu.benchmarks.summary import Quartiles, summarise, tables
from unrelu.benchmarks.throughput import measure_throughput
from unrelu.benchmarks.whole_network import measure_network
from unrelu.errors import SolverError
from unrelu.layer import LayerSystem, convex, rows


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, str, dict]:
    """The quick run of the command line: its folder, what it printed, and its numbers."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    done = CliRunner().invoke(cli.app, ["benchmark", "layers", "--quick", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    return (
        folder,
        done.stdout,
        json.loads((folder / "layers.json").read_text(encoding="utf-8"), parse_constant=pytest.fail),
    )


@pytest.fixture(scope="module")
def records(quick) -> list[layers.Record]:
    return [layers.Record(**row) for row in quick[2]["instances"]]


# --- the quick run ----------------------------------------------------------------------------------------------------


def test_the_quick_run_measures_every_combination_of_two_layers(quick, records):
    folder, _, numbers = quick
    assert sorted(p.name for p in folder.iterdir()) == ["layers.json", "layers.png"]
    assert numbers["command"] == {"measurement": "layers", "instances": None, "quick": True, "seed": REPORT_SEED}
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
    assert set(numbers["timed"]) == {"ours", "cholesky", *PEERS}
    assert [(r.layer, r.norm, r.outliers, r.index) for r in records] == [
        (case.name, program.norm, program.outliers, i) for case in QUICK_CASES for program in PROGRAMS for i in range(6)
    ]
    assert [(r.noise, r.bounded) for r in records] == [*COMBINATIONS] * len(QUICK_CASES) * len(PROGRAMS)


def test_every_time_is_positive_and_every_objective_agrees(records):
    for r in records:
        assert len(r.ours_seconds) == 3
        assert len(r.cholesky_seconds) == 5
        assert r.status == "OPTIMAL"
        asked = {"linprog", "highs", *({"linprog_ub"} if r.norm == "l1" else ())}
        assert all(r.ratio(solver) > 0 for solver in (*asked, "cholesky"))
        assert abs(r.difference) <= 1e-6
        for solver in asked:
            assert r.objectives[solver] == pytest.approx(r.objectives["ours"], rel=1e-6, abs=1e-8 * r.scale)


def test_the_summary_is_that_of_the_instances(quick, records):
    summary = quick[2]["summary"]
    assert [(s["norm"], s["outliers"], s["layer"]) for s in summary] == [
        (program.norm, program.outliers, case.name) for program in PROGRAMS for case in QUICK_CASES
    ]
    for s in summary:
        group = [r for r in records if (r.layer, r.norm, r.outliers) == (s["layer"], s["norm"], s["outliers"])]
        ratios = [r.peer_seconds["linprog"] / min(r.ours_seconds) for r in group]
        found = s["ratios"]["linprog"]
        assert found["median"] == pytest.approx(np.median(ratios))
        assert found["lower"] <= found["median"] <= found["upper"]
        assert s["largest_difference"] == max(abs(r.difference) for r in group)
        assert (s["instances"], s["not_optimal"]) == (6, 0)
        assert set(s["milliseconds"]) == {"ours", "ours_first", "cholesky", *PEERS}


def test_the_tables_are_whole_in_100_columns(quick):
    printed = quick[1]
    for word in (
        *(p.name for p in PROGRAMS),
        *(c.name for c in QUICK_CASES),
        "linprog",
        "highspy",
        "cvxopt",
        "Cholesky",
    ):
        assert word in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_existing_results_are_refused_before_anything_is_measured(quick, monkeypatch, capsys):
    folder = quick[0]
    before = (folder / "layers.json").read_bytes()
    monkeypatch.setattr(report, "run", lambda *arguments: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["unrelu", "benchmark", "layers", "--quick", "-o", str(folder)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    refusal = f"error: {folder} exists; choose another folder, or pass --overwrite to replace its results\n"
    assert (end.value.code, capsys.readouterr().err) == (2, refusal)
    assert (folder / "layers.json").read_bytes() == before


def test_an_unknown_measurement_names_the_known_ones(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["unrelu", "benchmark", "speed"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "use one of layers, throughput, network, cold-start" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_has_the_seed_of_the_report():
    assert inspect.signature(cli.benchmark).parameters["seed"].default == REPORT_SEED


# --- instances --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_instances_depend_on_the_seed_and_on_nothing_else(case):
    first, again = (draw(case, PROGRAMS[2], 9, 1) for _ in range(2))
    draw(case, PROGRAMS[0], 0, 1)
    other = draw(case, PROGRAMS[2], 9, 2)
    np.testing.assert_array_equal(first.system.matrix, again.system.matrix)
    np.testing.assert_array_equal(first.rows.target, again.rows.target)
    assert (first.rows.target != other.rows.target).any()
    assert first.system.matrix.shape == (case.n, case.k)


def test_the_programs_of_a_layer_share_their_data_up_to_the_outliers():
    l1, linf, outliers = (draw(CASES[0], program, 4, 0) for program in PROGRAMS)
    np.testing.assert_array_equal(l1.rows.target, linf.rows.target)
    changed = int((outliers.rows.target != l1.rows.target).sum())
    assert changed == round(0.05 * CASES[0].n)


@pytest.mark.parametrize("index", range(12))
def test_noise_and_bounds_are_those_that_are_stated(index):
    instance = draw(QUICK_CASES[1], PROGRAMS[0], index, 0)
    assert (instance.noise, instance.bounded) == COMBINATIONS[index % 6]
    assert instance.rows.threshold == instance.noise * instance.scale
    assert set(instance.system.lower) == {0.0 if instance.bounded else -np.inf}
    assert instance.source == ("digit" if index >= 6 else "random z")


def test_the_observations_of_a_batch_share_their_layer():
    for case in QUICK_CASES:
        system, batch = draw_batch(case, 6, 0)
        assert len({row.target.tobytes() for row in batch}) == 6
        assert {row.target.shape for row in batch} == {(system.n_out,)}


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
    found = {name: run for name, peer in PEERS.items() if (run := peer.solve(scaled)) is not None}
    assert set(found) - {"cvxopt"} == {"linprog", "highs", *({"linprog_ub"} if norm == "l1" else ())}
    for run in found.values():
        assert objective(system, layer_rows, norm, run.h) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_objective_is_recomputed_inside_the_bounds():
    system, layer_rows, h = tiny(0, "relu", True)
    errors = layer_rows.violation(system.matrix @ h)
    assert objective(system, layer_rows, "l1", h) == pytest.approx(errors.sum())
    assert objective(system, layer_rows, "linf", h) == errors.max()
    assert objective(system, layer_rows, "l1", h - 100) == objective(system, layer_rows, "l1", np.zeros(4))


def test_cholesky_solves_the_least_squares_problem():
    rng = np.random.default_rng(0)
    matrix, x = rng.normal(size=(30, 5)), rng.normal(size=30)
    before = matrix.copy(), x.copy()
    _, h = cholesky(matrix, x)
    np.testing.assert_allclose(h, np.linalg.lstsq(matrix, x, rcond=None)[0], rtol=1e-12)
    np.testing.assert_array_equal(matrix, before[0])
    np.testing.assert_array_equal(x, before[1])


def test_cholesky_refuses_dependent_columns():
    with pytest.raises(SolverError, match=r"shape \(30, 2\) has no Cholesky factor"):
        cholesky(np.zeros((30, 2)), np.ones(30))


@contextmanager
def without_cvxopt():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cvxopt", None)
        peers.cvxopt_module.cache_clear()
        yield
    peers.cvxopt_module.cache_clear()


def test_a_missing_cvxopt_is_said_to_be_missing(records):
    with without_cvxopt():
        system, layer_rows, _ = tiny(0, "relu", False)
        assert PEERS["cvxopt"].solve(Scaled.of(system, layer_rows, "l1")) is None
        lacking = [replace(r, peer_seconds={**r.peer_seconds, "cvxopt": None}) for r in records]
        text = io.StringIO()
        for table in tables(summarise(lacking)):
            Console(file=text, width=100).print(table)
    assert "installed" in text.getvalue()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_peer_that_gives_up_has_no_ratio(records):
    failed = [replace(r, objectives={**r.objectives, "linprog": None}, difference=None) for r in records]
    summary = summarise(failed)[0]
    assert summary.ratios["linprog"] is None
    assert summary.largest_difference is None
    assert summary.peer_failures["linprog"] == 6
    assert "linprog 6" in next(tables([summary])).caption
    assert plot.draw(failed, describe()).axes


def test_failures_of_ours_are_counted(monkeypatch):
    def refuse(*arguments):
        raise SolverError("no")

    monkeypatch.setattr(layers, "least_violation", refuse)
    record = layers.measure(draw(CASES[0], PROGRAMS[0], 0, 0))
    assert record.status == "SolverError: no"
    assert record.objectives["ours"] is None
    assert record.ratio("linprog") is None
    assert record.ratio("cholesky") is None
    summary = summarise([record])[0]
    assert (summary.not_optimal, summary.ratios["cholesky"]) == (1, None)


@pytest.mark.parametrize(
    ("answer", "used"),
    [({}, False), ({"engine": "highs"}, True), ({"engine": "exchange"}, False), ({"fallback": True}, True)],
)
def test_the_fallback_is_what_the_answer_says(answer, used):
    assert layers.used_fallback(SimpleNamespace(**answer)) is used


def test_quartiles():
    q = Quartiles.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert (q.median, q.lower, q.upper) == (3.0, 2.0, 4.0)


# --- the other measurements -------------------------------------------------------------------------------------------


def test_throughput_compares_the_same_batch(monkeypatch):
    calls = []

    def many(system, batch, norm, threads):
        calls.append((norm, threads, len(batch)))
        return [convex.least_violation(system, row, norm) for row in batch]

    stub = ModuleType("unrelu.layer.batch")
    stub.least_violation_many = many
    monkeypatch.setitem(sys.modules, "unrelu.layer.batch", stub)
    measured = measure_throughput(2, cases=QUICK_CASES[:1])
    assert [(m.layer, m.norm, m.observations) for m in measured] == [("784x60", "l1", 2), ("784x60", "linf", 2)]
    assert calls == [(norm, threads, 2) for norm in ("l1", "linf") for threads in (2, 1, 2, 1, 2, 1, 2)]
    for m in measured:
        assert m.gain > 0
        assert (m.largest_difference, m.not_optimal, m.fallback) == (0, 0, 0)


def test_the_whole_network_is_inverted_with_both_solvers(monkeypatch):
    engines = []

    @contextmanager
    def engine(name):
        engines.append(name)
        yield

    monkeypatch.setattr(convex, "engine", engine, raising=False)
    measured = measure_network(2)
    assert engines == ["highs", "highs"]
    for m in measured:
        assert m.speedup > 0
        assert abs(m.difference) <= 1e-6


def test_cold_start_runs_two_processes_and_writes_their_times(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    report.run(report.Command("cold-start", None, True, 0), tmp_path, console)
    numbers = json.loads((tmp_path / "cold-start.json").read_text(encoding="utf-8"))
    assert [row["cache"] for row in numbers["processes"]] == ["empty", "filled"]
    for row in numbers["processes"]:
        assert row["process"] > row["importing"] + row["first_l1"] + row["first_linf"] > 0
    assert f"written to {tmp_path}/: cold-start.json" in console.file.getvalue().replace("\n", "")


def test_the_threads_are_limited_only_within_a_measurement():
    code = """
from threadpoolctl import threadpool_info
from unrelu.benchmarks.machine import one_thread
import numpy, scipy.linalg
counts = lambda: {i["num_threads"] for i in threadpool_info()}
before = counts()
with one_thread():
    print(counts())
print(counts() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["{1}", "True"]


def test_a_case_is_drawn_by_its_place():
    with pytest.raises(ValueError, match="not in tuple"):
        draw(Case("other", 10, 2), PROGRAMS[0], 0, 0)
