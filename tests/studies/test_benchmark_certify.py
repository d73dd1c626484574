"""The benchmark of proofs on a small scale: the program given to HiGHS, agreement, files; no time is judged."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import sparse
from typer.testing import CliRunner

from unrelu import certify, from_arrays
from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.proof import GAP
from unrelu.cli.app import app
from unrelu.lp.highs import LinearProgram, solve
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements import read_operator
from unrelu.runtime.machine import describe
from unrelu_studies.benchmarks import certify_plot, report
from unrelu_studies.benchmarks.certify import QUICK, Boxed, CertifyPlan, Proved, measure_certify
from unrelu_studies.benchmarks.certify_cells import CELLS, CertifyCell, draw
from unrelu_studies.benchmarks.certify_mip import Mip, MipRun, intervals, mip, prove_by_mip, solve_mip
from unrelu_studies.benchmarks.certify_table import boxes_table, certify_table, open_table, summarise_cells


def tiny(seed: int, depth: int = 2, clipped: bool = True):
    """A small generator with biases, a noisy output and a code near the true one."""
    rng = np.random.default_rng(seed)
    sizes = (2, 5, 14) if depth == 2 else (2, 4, 5, 14)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    network = from_arrays([rng.normal(size=s) for s in shapes], [rng.normal(size=s[0]) / 5 for s in shapes])
    z = rng.normal(size=2)
    y = np.asarray(network(z)) + rng.uniform(-0.3, 0.3, 14)
    y = np.maximum(y, 0.0) if clipped else y
    return network, y, z + 0.05 * rng.normal(size=2)


def chain_of_linf(network, y) -> CertifiedChain:
    return chain_of(network, read_operator(None, network.output_shape, y.shape), y, "linf")


# --- observations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_noise_and_brightness_are_those_that_are_stated(cell):
    drawn = draw(cell, 6, 0)
    x = np.asarray(drawn.network(drawn.truth))
    assert np.abs(drawn.y - x).max() <= cell.noise
    assert np.abs(drawn.y - x).max() > 0.99 * cell.noise
    assert (drawn.y.min() < 0) != cell.clipped
    bright = (x > cell.noise).sum(axis=1)
    if cell.dim:
        assert ((bright >= 9) & (bright < 40)).all()
    else:
        assert bright.min() > 40


def test_observations_depend_on_the_seed_and_their_number_only():
    first, more, other = draw(CELLS[4], 2, 1), draw(CELLS[4], 3, 1), draw(CELLS[4], 2, 2)
    np.testing.assert_array_equal(first.y, more.y[:2])
    np.testing.assert_array_equal(first.truth, more.truth[:2])
    assert (first.y != other.y).any()


# --- the program given to HiGHS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_every_better_code_is_a_point_of_the_program(depth, seed):
    """At a level above a code's error its z, h and signs satisfy every row, with delta its error."""
    network, y, z = tiny(seed, depth)
    chain = chain_of_linf(network, y)
    level = 1.01 * chain.objective(z)
    program = mip(chain, level, *intervals(chain, level, 50.0)).program
    u = np.concatenate(chain.pre_activations(z)[:-1])
    point = np.concatenate([z, np.maximum(u, 0), u > 0, [chain.objective(z)]])
    rows = program.matrix @ point
    assert (rows >= program.row_lower - 1e-12).all()
    assert (rows <= program.row_upper + 1e-12).all()
    assert (point >= program.col_lower - 1e-12).all()
    assert (point <= program.col_upper + 1e-12).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_point_of_the_program_is_a_code(seed):
    """With whole b, h is what the network makes of z, and delta at least every error of a bright output."""
    network, y, z = tiny(seed)
    chain = chain_of_linf(network, y)
    level = 1.2 * chain.objective(z)
    written = mip(chain, level, *intervals(chain, level, 50.0))
    assert int(written.integral.sum()) == 5
    found = solve_mip(written)
    assert found.status is LpStatus.OPTIMAL
    code, h, b = found.x[:2], found.x[2:7], found.x[7:12]
    u = chain.pre_activations(code)
    np.testing.assert_allclose(h, np.maximum(u[0], 0), atol=1e-6)
    np.testing.assert_allclose(b, np.round(b), atol=1e-6)
    assert chain.errors(u[1])[y >= level].max() <= found.objective + 1e-6
    assert solve(written.program).objective <= found.objective + 1e-9


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_both_name_the_same_smallest_error(seed, clipped):
    network, y, z = tiny(seed, clipped=clipped)
    ours = certify(network, y, z, box=False)
    run = prove_by_mip(chain_of_linf(network, y), z, 20.0, 50.0)
    assert run.solved
    assert ours.gap <= GAP
    assert ours.verify(network, y)
    assert run.upper == pytest.approx(ours.upper, rel=2e-6)
    assert run.upper - run.lower <= GAP * run.upper


def test_a_code_is_replaced_by_better_ones():
    """From a bad code it takes several levels to the smallest error."""
    network, y, z = tiny(1)
    chain = chain_of_linf(network, y)
    far, near = (prove_by_mip(chain, start, 20.0, 50.0) for start in (z + 3.0, z))
    assert far.programs > 1
    assert far.upper == pytest.approx(near.upper, rel=2e-6)
    assert far.upper < chain.objective(z + 3.0)


def test_without_time_there_is_no_proof():
    network, y, z = tiny(0)
    chain = chain_of_linf(network, y)
    run = prove_by_mip(chain, z, 0.0)
    assert (run.status, run.solved, run.programs) == ("LIMIT", False, 1)
    assert run.lower <= run.upper <= chain.objective(z)


# --- summaries, tables and the picture --------------------------------------------------------------------------------


def proved(cell: CertifyCell, index: int, **changes) -> Proved:
    mip_run = MipRun("OPTIMAL", 2.0, 0.0999999, 0.1, 11, 1)
    history = ((0.01, 0.05, 0.11), (0.1, 0.08, 0.1), (0.2, 0.1, 0.1))
    p = Proved(
        cell.name, index, 100, 0.02, 0.11, 0.25, 0.1 * (1 - 5e-7), 0.1, 5e-7, "OPTIMAL", 12345, True, True, 0.01,
        history, Boxed(0.3, 1.0, True, True), mip_run,
    )  # fmt: skip
    return replace(p, **changes)


STOPPED = MipRun("LIMIT", 60.0, 0.05, 0.11, 99999, 2)


def made_up() -> list[Proved]:
    """Six cells; of the dim one, one is open, and HiGHS was stopped."""
    found = [proved(cell, i) for cell in CELLS for i in range(4)]
    found[16] = replace(found[16], active=30, lower=0.09, gap=0.1, status="TIME_LIMIT", seconds=10.2, mip=STOPPED)
    found[17] = replace(found[17], active=59, box=None, mip=None)
    return found


def printed(table) -> str:
    text = io.StringIO()
    Console(file=text, width=100).print(table)
    return text.getvalue()


def test_agreement_needs_two_proofs():
    p = proved(CELLS[0], 0)
    assert p.closed
    assert (p.agrees, p.contradicts) == (True, False)
    assert not replace(p, verified=False).closed
    assert replace(p, mip=STOPPED).agrees is None
    assert replace(p, mip=None).agrees is None
    other = replace(p, mip=replace(p.mip, upper=0.1001, lower=0.10009))
    assert (other.agrees, other.contradicts) == (False, True)
    assert replace(p, mip=replace(p.mip, upper=0.0999, lower=0.0998)).contradicts
    assert not replace(p, mip=STOPPED).contradicts


def test_the_summary_is_that_of_the_observations():
    summaries = summarise_cells(made_up())
    assert [s.cell for s in summaries] == [cell.name for cell in CELLS]
    dim = summaries[4]
    assert (dim.observations, dim.proved, dim.slowest, dim.many, dim.compared) == (4, 0.75, 10.2, 0.5, 3)
    assert (dim.mip_solved, dim.mip_seconds, dim.same, dim.both) == (pytest.approx(2 / 3), 2.0, 2, 2)
    assert dim.times == 2.0 / 0.25
    none = summarise_cells([proved(CELLS[4], 0, active=3)])[0]
    assert (none.many, none.many_seconds) == (0.0, None)


def test_tables_are_whole_in_100_columns():
    found = made_up()
    texts = [printed(t) for t in (certify_table(summarise_cells(found)), boxes_table(found), open_table(found))]
    for text in texts:
        assert "…" not in text
        assert "0.1, dim" in text
    assert "2/2" in texts[0]
    assert [line.split()[2:4] for line in texts[2].splitlines() if "dim" in line] == [
        ["ours", "TIME_LIMIT"],
        ["HiGHS", "LIMIT"],
    ]


def test_the_picture_shows_an_open_one_and_every_comparison():
    found = made_up()
    chosen = certify_plot.shown(found)
    assert found[16] in chosen
    assert len({p.cell for p in chosen}) == len(chosen) == 3
    figure = certify_plot.draw(found, describe())
    left, right = figure.axes
    assert {axis.get_xscale() for axis in figure.axes} == {"log"}
    dots = [line for line in right.lines if len(line.get_xdata()) == 1]
    assert len(dots) == sum(p.mip is not None for p in found)
    assert all(math.isfinite(value) for line in left.lines for value in line.get_ydata())
    # Nothing to compare, and nothing on the way.
    assert certify_plot.draw([replace(found[0], history=(), mip=None)], describe()).axes


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, str, dict]:
    """The command line on the two cells that are quickest: its folder, what it printed, and its numbers."""
    folder = tmp_path_factory.mktemp("certify") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "QUICK", replace(QUICK, instances=2, compared=1))
        patch.setattr(report, "measure_certify", lambda *a, **k: measure_certify(*a, chosen=CELLS[2::3], **k))
        done = CliRunner().invoke(app, ["benchmark", "certify", "--quick", "--seed", "7", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    text = (folder / "certify.json").read_text(encoding="utf-8")
    return folder, done.stdout, json.loads(text, parse_constant=pytest.fail)


def test_the_quick_run_proves_and_agrees(quick):
    folder, _, numbers = quick
    assert sorted(p.name for p in folder.iterdir()) == ["certify.json", "certify.png"]
    assert (numbers["command"]["measurement"], numbers["command"]["seed"]) == ("certify", 7)
    assert {"processor", "highspy", "numpy", "date", "load"} <= set(numbers["machine"])
    rows = numbers["observations"]
    assert [(r["cell"], r["index"]) for r in rows] == [(cell.name, i) for cell in CELLS[2::3] for i in range(2)]
    for r in rows:
        assert r["verified"]
        assert r["everywhere"]
        assert r["gap"] <= GAP
        assert r["upper"] <= r["found"]
        assert not r["contradicts"]
        assert r["history"][-1][1] <= r["upper"]
        assert min(r["seconds"], r["invert_seconds"], r["verify_seconds"]) > 0
        assert (r["mip"] is not None) == (r["box"] is not None) == (r["index"] == 0)
        if r["mip"]:
            assert r["agrees"]
            assert r["box"]["contains"]
            assert r["box"]["proved"]
    assert [(s["observations"], s["proved"], s["same"]) for s in numbers["summary"]] == [(2, 1.0, 1)] * 2


def test_the_printed_tables_are_whole(quick):
    text = quick[1]
    for word in ("0.1, not clipped", "HiGHS", "times", "z* inside", "active"):
        assert word in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_an_interrupted_run_keeps_the_cells_that_were_finished(monkeypatch, tmp_path):
    def measure(plan, seed, progress):
        yield [proved(CELLS[0], i) for i in range(plan.instances)]
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "measure_certify", measure)
    with pytest.raises(KeyboardInterrupt):
        report.run(report.Command("certify", 4, False, 0), tmp_path, Console(file=io.StringIO(), width=100))
    numbers = json.loads((tmp_path / "certify.json").read_text(encoding="utf-8"))
    assert [r["index"] for r in numbers["observations"]] == [0, 1, 2, 3]
    assert numbers["plan"]["compared"] == 4
    assert CertifyPlan().compared == 10


# --- integers ---------------------------------------------------------------------------------------------------------


def in_integers(low, high=np.inf, integral=True) -> Mip:
    """min x_1 + x_2 subject to low <= x_1 + x_2 <= high, x >= 0."""
    sides = np.array([low]), np.array([high]), np.zeros(2), np.full(2, np.inf)
    return Mip(LinearProgram(np.ones(2), sparse.csc_array(np.ones((1, 2))), *sides), np.full(2, integral))


def test_an_integer_optimum():
    """Of 2.5: 3 in integers."""
    solution = solve_mip(in_integers(2.5))
    assert solution.status is LpStatus.OPTIMAL
    np.testing.assert_allclose(solution.x.sum(), 3)
    assert (solution.objective, solution.bound) == (pytest.approx(3), pytest.approx(3))
    assert solve_mip(in_integers(2.5, integral=False)).objective == pytest.approx(2.5)


def test_the_bound_is_valid_where_there_is_no_time():
    solution = solve_mip(in_integers(2.5), time_limit=0.0)
    assert solution.status is LpStatus.LIMIT
    assert solution.bound <= 3 <= solution.objective


def test_a_program_without_integers_in_reach_is_infeasible():
    solution = solve_mip(in_integers(0.2, 0.8))
    assert (solution.status, solution.objective) == (LpStatus.INFEASIBLE, np.inf)
    assert np.isnan(solution.x).all()
