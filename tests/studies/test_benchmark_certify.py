"""The benchmark of proofs on a small scale: the program given to HiGHS, agreement, files; no time is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from unrelu import certify, from_arrays, zoo
from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.proof import GAP
from unrelu.cli._app import app
from unrelu.lp.highs import solve
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements import read_operator
from unrelu_studies.benchmarks.proofs import certify as certify_benchmark
from unrelu_studies.benchmarks.proofs.certify import CELLS, QUICK, CertifyCell, agrees, closed, contradicts, draw
from unrelu_studies.benchmarks.proofs.certify_mip import intervals, mip, prove_by_mip
from unrelu_studies.benchmarks.proofs.integer_programs import solve_mip


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
    y, truth = (np.stack(arrays) for arrays in zip(*(draw(cell, i, 0) for i in range(6)), strict=True))
    x = zoo.load("mnist-relu")(truth)
    assert np.abs(y - x).max() <= cell.noise
    assert np.abs(y - x).max() > 0.99 * cell.noise
    assert (y.min() < 0) != cell.clipped
    bright = (x > cell.noise).sum(axis=1)
    if cell.dim:
        assert ((bright >= 9) & (bright < 40)).all()
    else:
        assert bright.min() > 40


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
    found = solve_mip(written.program, written.integral)
    assert found.status is LpStatus.OPTIMAL
    code, h, b = found.x[:2], found.x[2:7], found.x[7:12]
    u = chain.pre_activations(code)
    np.testing.assert_allclose(h, np.maximum(u[0], 0), atol=1e-6)
    np.testing.assert_allclose(b, np.round(b), atol=1e-6)
    assert chain.errors(u[1])[y >= level].max() <= found.objective + 1e-6
    assert written.program.cost @ solve(written.program).x <= found.objective + 1e-9


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_both_name_the_same_smallest_error(seed, clipped):
    network, y, z = tiny(seed, clipped=clipped)
    ours = certify(network, y, z, box=False)
    run = prove_by_mip(chain_of_linf(network, y), z, 20.0, 50.0)
    assert run.status == "OPTIMAL"
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


# --- agreement --------------------------------------------------------------------------------------------------------


def proved(cell: CertifyCell, index: int, **changes) -> dict:
    """A made-up row."""
    p = {
        "cell": cell.name, "index": index, "active": 100, "invert_seconds": 0.02, "found": 0.11, "seconds": 0.25,
        "lower": 0.1 * (1 - 5e-7), "upper": 0.1, "gap": 5e-7, "status": "OPTIMAL", "nodes": 12345, "everywhere": True,
        "verified": True, "verify_seconds": 0.01,
        "mip": {"status": "OPTIMAL", "seconds": 2.0, "lower": 0.0999999, "upper": 0.1, "nodes": 11, "programs": 1},
        **changes,
    }  # fmt: skip
    return {**p, "agrees": agrees(p), "contradicts": contradicts(p)}


STOPPED = {"status": "LIMIT", "seconds": 60.0, "lower": 0.05, "upper": 0.11, "nodes": 99999, "programs": 2}


def test_agreement_needs_two_proofs():
    p = proved(CELLS[0], 0)
    assert closed(p)
    assert (p["agrees"], p["contradicts"]) == (True, False)
    assert not closed(proved(CELLS[0], 0, verified=False))
    assert proved(CELLS[0], 0, mip=STOPPED)["agrees"] is None
    assert proved(CELLS[0], 0, mip=None)["agrees"] is None
    other = proved(CELLS[0], 0, mip={**p["mip"], "upper": 0.1001, "lower": 0.10009})
    assert (other["agrees"], other["contradicts"]) == (False, True)
    assert proved(CELLS[0], 0, mip={**p["mip"], "upper": 0.0999, "lower": 0.0998})["contradicts"]
    assert not proved(CELLS[0], 0, mip=STOPPED)["contradicts"]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[Path, str, dict]:
    """The command line on the two cells that are quickest: its folder, what it printed, and its numbers."""
    folder = tmp_path_factory.mktemp("certify") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certify_benchmark, "QUICK", replace(QUICK, instances=2, compared=1))
        patch.setattr(certify_benchmark, "CELLS", CELLS[2::3])
        done = CliRunner().invoke(app, ["benchmark", "certify", "--quick", "--seed", "7", "--output", str(folder)])
    assert done.exit_code == 0, done.output
    text = (folder / "certify.json").read_text(encoding="utf-8")
    return folder, done.stdout, json.loads(text, parse_constant=pytest.fail)


@pytest.mark.long
def test_the_quick_run_proves_and_agrees(quick):
    folder, _, numbers = quick
    assert sorted(p.name for p in folder.iterdir()) == ["certify.json"]
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
        assert min(r["seconds"], r["invert_seconds"], r["verify_seconds"]) > 0
        assert (r["mip"] is not None) == (r["index"] == 0)
        assert not r["mip"] or r["agrees"]
    assert [(s["observations"], s["proved"], s["same"]) for s in numbers["summary"]] == [(2, 1.0, 1)] * 2
