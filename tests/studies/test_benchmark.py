"""The benchmarks on a small scale: what they write, and that all solvers solve the same program; no time is judged."""

from __future__ import annotations

import inspect
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from tests.layerwise.reference import least_violation as reference
from tests.support import EPS, random_network
from unrelu import Status
from unrelu.cli import process
from unrelu.cli._app import app
from unrelu.errors import InputError, SolverError
from unrelu.layerwise import LayerSystem, LInf, layer_program, rows
from unrelu.models.activations import Activation
from unrelu_studies.benchmarks import REPORT_SEED
from unrelu_studies.benchmarks import benchmark as running
from unrelu_studies.benchmarks.benchmark import Command, execute, load
from unrelu_studies.benchmarks.layer_programs import layer_methods, layers, peers, two_threads, whole_network
from unrelu_studies.benchmarks.layer_programs.layer_instances import (
    ALL_CASES,
    CASES,
    COMBINATIONS,
    PROGRAMS,
    QUICK_CASES,
    Case,
    draw,
    draw_batch,
)
from unrelu_studies.benchmarks.layer_programs.layers import ratio, summarise
from unrelu_studies.benchmarks.layer_programs.peers import PEERS, Scaled, cholesky, objective
from unrelu_studies.benchmarks.layer_programs.whole_network import PublishedLoop, compare, compared
from unrelu_studies.commands import benchmark
from unrelu_studies.kit.markdown_tables import short


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
    assert sorted(p.name for p in folder.iterdir()) == ["layers.json", "layers.png", "layers.svg"]
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
    assert set(numbers["timed"]) == {"ours", "cholesky", *PEERS}
    assert [(r["layer"], r["norm"], r["outliers"], r["index"]) for r in records] == [
        (case.name, program.norm, program.outliers, i) for case in QUICK_CASES for program in PROGRAMS for i in range(6)
    ]
    assert [(r["noise"], r["bounded"]) for r in records] == [*COMBINATIONS] * len(QUICK_CASES) * len(PROGRAMS)


def test_every_time_is_positive_and_every_objective_agrees(records):
    for r in records:
        assert len(r["ours_seconds"]) == 3
        assert len(r["cholesky_seconds"]) == 5
        assert (r["status"], r["engine"], r["fallback"]) == ("OPTIMAL", "exchange", False)
        asked = {"linprog", "highs", *({"linprog_ub"} if r["norm"] == "l1" else ())}
        assert all(ratio(r, solver) > 0 for solver in (*asked, "cholesky"))
        assert abs(r["difference"]) <= 1e-6
        for solver in asked:
            assert r["objectives"][solver] == pytest.approx(r["objectives"]["ours"], rel=1e-6, abs=1e-8 * r["scale"])


def test_the_summary_is_that_of_the_instances(quick, records):
    summary = quick[2]["summary"]
    assert [(s["norm"], s["outliers"], s["layer"]) for s in summary] == [
        (program.norm, program.outliers, case.name) for program in PROGRAMS for case in QUICK_CASES
    ]
    for s in summary:
        group = [r for r in records if (r["layer"], r["norm"], r["outliers"]) == (s["layer"], s["norm"], s["outliers"])]
        ratios = [r["peer_seconds"]["linprog"] / min(r["ours_seconds"]) for r in group]
        found = s["ratios"]["linprog"]
        assert found["median"] == pytest.approx(np.median(ratios))
        assert found["lower"] <= found["median"] <= found["upper"]
        assert s["largest_difference"] == max(abs(r["difference"]) for r in group)
        assert (s["instances"], s["not_optimal"], s["fallback"], s["engines"]) == (6, 0, 0, {"exchange": 6})
        assert set(s["milliseconds"]) == {"ours", "ours_first", "cholesky", *PEERS}


def test_the_tables_of_the_page_are_printed_whole(quick):
    printed = quick[1]
    for word in ("layers l1", "layers linf", "layers outliers", "784 x 60", "linprog", "Cholesky", "proved optimal"):
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
    assert "use one of layers, layer_methods, throughput, network" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_line_has_the_seed_of_the_report():
    assert inspect.signature(benchmark).parameters["seed"].default == REPORT_SEED


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


def test_the_programs_of_a_layer_share_their_data_up_to_the_outliers():
    l1, linf, outliers = (draw(CASES[0], program, 4, 0) for program in PROGRAMS)
    np.testing.assert_array_equal(l1.rows.target, linf.rows.target)
    changed = int((outliers.rows.target != l1.rows.target).sum())
    assert changed == round(0.05 * CASES[0].n)


@pytest.mark.parametrize("index", range(12))
def test_noise_and_bounds_are_those_that_are_stated(index):
    instance = draw(QUICK_CASES[0], PROGRAMS[0], index, 0)
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
    # The normal equations are as ill-conditioned as the square of the matrix.
    rounding = 30 * EPS * np.linalg.cond(matrix) ** 2 * np.linalg.norm(x) / np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(h, np.linalg.lstsq(matrix, x, rcond=None)[0], rtol=0, atol=rounding)
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


def test_a_missing_cvxopt_is_no_peer(records):
    with without_cvxopt():
        system, layer_rows, _ = tiny(0, "relu", False)
        assert PEERS["cvxopt"].solve(Scaled.of(system, layer_rows, "l1")) is None
    lacking = [{**r, "peer_seconds": {**r["peer_seconds"], "cvxopt": None}} for r in records]
    table = load("layers").blocks["layers l1"]({"summary": summarise(lacking)})
    assert "linprog, split" in table
    assert "cvxopt" not in table


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_peer_that_gives_up_has_no_ratio(quick, records):
    failed = [{**r, "objectives": {**r["objectives"], "linprog": None}, "difference": None} for r in records]
    summary = summarise(failed)[0]
    assert summary["ratios"]["linprog"] is None
    assert summary["largest_difference"] is None
    assert summary["peer_failures"]["linprog"] == 6
    assert "linprog, split on" in load("layers").blocks["layers aims"]({"summary": summarise(failed)})
    assert layers.draw_times({**quick[2], "instances": failed}).axes


def test_sources_are_summarised_apart(records):
    zoo_records = [r for r in records if r["layer"] == CASES[1].name and r["norm"] == "linf"]
    sources = ["digit", "random z"] * 3
    mixed = [{**r, "source": s, "difference": d} for r, s, d in zip(zoo_records, sources, range(6), strict=True)]
    failed = [{**mixed[0], "objectives": {**mixed[0]["objectives"], "linprog": None}}, *mixed[1:]]
    whole, *parts = summarise(failed)
    assert (whole["source"], whole["instances"], whole["largest_difference"]) == ("", 6, 5)
    found = [(s["source"], s["instances"], s["largest_difference"]) for s in parts]
    assert found == [("random z", 3, 5), ("digit", 3, 4)]
    table = load("layers").blocks["layers linf"]({"summary": [whole, *parts]})
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| zoo 784 x 60 (6)", "| - random z (3)", "| - digit (3)",
    ]  # fmt: skip


def test_failures_of_ours_are_counted(monkeypatch):
    def refuse(*arguments):
        raise SolverError("no")

    monkeypatch.setattr(layers, "least_violation", refuse)
    record = layers.measure(draw(CASES[0], PROGRAMS[0], 0, 0))
    assert record["status"] == "SolverError: no"
    assert record["objectives"]["ours"] is None
    assert ratio(record, "linprog") is None
    assert ratio(record, "cholesky") is None
    summary = summarise([record])[0]
    assert (summary["not_optimal"], summary["ratios"]["cholesky"]) == (1, None)


def test_an_answer_behind_a_failed_proof_is_a_fallback(monkeypatch):
    """HiGHS gives the answer, and the record says so."""
    optimise = layer_program.optimise

    def without_multipliers(*arguments):
        found = optimise(*arguments)
        return found._replace(multipliers=np.zeros_like(found.multipliers))

    monkeypatch.setattr(layer_program, "optimise", without_multipliers)
    record = layers.measure(draw(CASES[0], PROGRAMS[0], 1, 0))
    assert (record["engine"], record["fallback"], record["status"]) == ("highs", True, "OPTIMAL")
    summary = summarise([record])[0]
    assert (summary["fallback"], summary["engines"]) == (1, {"highs": 1})


def test_numbers_have_two_or_three_digits():
    assert [short(value) for value in (0.123, 1.0, 9.94, 9.96, 123.4)] == ["0.12", "1.0", "9.9", "10", "123"]


def test_quartiles():
    assert layers._quartiles([1.0, 2.0, 3.0, 4.0, 100.0]) == {"median": 3.0, "lower": 2.0, "upper": 4.0}


# --- the other measurements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["l1", "linf"])
def test_layer_methods_solve_one_program_where_the_noise_is_stated(method):
    m = layer_methods.measure(CASES[0], method, 1e-2, 3, 0, 1)
    assert {name: len(seconds) for name, seconds in m["seconds"].items()} == {"program": 1, "stated": 1, "unknown": 1}
    assert m["programs"]["stated"] == 1 < m["programs"]["unknown"] <= 4
    assert m["ratios"]["unknown"] == m["seconds"]["unknown"][0] / m["seconds"]["program"][0]


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_throughput_compares_the_same_batch(norm):
    m = two_threads.measure(QUICK_CASES[1], norm, 2, 0)
    assert (m["layer"], m["norm"], m["observations"]) == ("200x20", norm, 2)
    assert {threads: len(seconds) for threads, seconds in m["seconds"].items()} == {1: 3, 2: 3}
    assert m["gain"] > 0
    assert m["largest_difference"] <= 1e-12
    assert (m["not_optimal"], m["fallback"], m["engines"]) == (0, 0, {"exchange": 2})


def test_the_published_loop_ends_where_our_search_does():
    system, layer_rows, _ = tiny(3, "relu", False)
    search, loop = LInf()(system, layer_rows.target, 1e-5), PublishedLoop()(system, layer_rows.target, 1e-5)
    assert loop.threshold == search.threshold
    assert loop.objective == pytest.approx(search.objective, rel=1e-6)
    # One program at every threshold, with the last of them.
    assert loop.threshold == 1e-5 * 1.2 ** (loop.solves - 1)
    assert loop.solves > search.solves
    assert loop.status is search.status is Status.CONVERGED


def test_a_time_limit_ends_the_published_loop():
    system, layer_rows, _ = tiny(3, "relu", False)
    ended = PublishedLoop()(system, layer_rows.target, time_limit=0.0)
    assert (ended.status, ended.solves) == (Status.TIME_LIMIT, 1)


def test_the_baselines_of_a_network_run_on_highs(monkeypatch):
    """Every program of ours is the kernel's."""
    network = random_network((3, 8, 20))
    y = network(np.ones(3)) + np.random.default_rng(0).uniform(-1e-3, 1e-3, 20)
    solved, by_highs = [], layer_program.by_highs
    monkeypatch.setattr(layer_program, "by_highs", lambda *a: solved.append(1) or by_highs(*a))
    ours, highs, published = compare(network, y, True).values()
    assert len(solved) >= highs["programs"] + published["programs"]
    assert len(ours["seconds"]) == 3
    for run in (highs, published):
        assert len(run["seconds"]) == 1
        assert run["objective"] == pytest.approx(ours["objective"], rel=1e-6)
    assert ours["programs"] == highs["programs"] < published["programs"]


@pytest.fixture(scope="module")
def inverted(tmp_path_factory) -> tuple[str, list[dict]]:
    """What ``unrelu benchmark network`` prints, and its observations."""
    folder = tmp_path_factory.mktemp("network") / "out"
    done = CliRunner().invoke(app, ["benchmark", "network", "--instances", "3", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    return done.stdout, json.loads((folder / "network.json").read_text(encoding="utf-8"))["observations"]


@pytest.mark.long
def test_a_whole_network_is_inverted_in_three_ways(inverted):
    observations = inverted[1]
    assert [m["noise"] for m in observations] == [1e-6, 1e-3, 1e-1]
    for m in observations:
        assert m["published"]["programs"] > m["highs"]["programs"]
        for baseline in ("highs", "published"):
            assert m["compared"][baseline]["ratio"] == m[baseline]["seconds"][0] / min(m["ours"]["seconds"])
            assert abs(m["compared"][baseline]["difference"]) <= 1e-6


@pytest.mark.long
def test_the_network_table_is_printed_whole(inverted):
    printed = inverted[0]
    for word in ("1e-06", "0.001", "0.1", "published", "programs"):
        assert word in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 120


def test_the_published_loop_may_run_on_fewer_observations(monkeypatch):
    monkeypatch.setattr(whole_network, "PUBLISHED", 0)
    part = whole_network.BENCHMARK.measure(Command("network", None, True, 0), (0,))
    assert part["published"] is None
    assert part["compared"]["published"] == {"ratio": None, "difference": None}
    assert part["compared"]["highs"]["ratio"] > 0
    assert "| 1e-06 |" in whole_network.BENCHMARK.blocks["network"]({"observations": [part]})


def test_an_inversion_that_broke_down_has_no_ratio():
    run = {"seconds": [1.0], "programs": 3, "objective": 1e-3, "fun": 1e-3, "status": "CONVERGED"}
    failed = {**run, "objective": float("nan"), "fun": float("nan"), "status": "SOLVER_FAILED"}
    for ours, highs in ((run, failed), (failed, run)):
        assert compared(ours, highs, 1.0) == {"ratio": None, "difference": None}


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


def test_a_case_is_drawn_by_its_place():
    with pytest.raises(ValueError, match="not in tuple"):
        draw(Case("other", 10, 2), PROGRAMS[0], 0, 0)
