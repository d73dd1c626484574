"""The paper's bounds beside measured errors, and the constants of Gaussian matrices, on a small scale."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu_studies.kit.method_labels import run
from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.kit.random_instances import gaussian_network, random
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import SEED, Verdict
from unrelu_studies.paper.theorems import theorem_bounds
from unrelu_studies.paper.theorems.attacks import _furthest, attacks
from unrelu_studies.paper.theory import c_1, c_inf


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return load("bounds").run(quick=True)


@pytest.fixture(scope="module")
def constants() -> Numbers:
    return load("constants").run(quick=True)


# --- noise that is made to be the worst -------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "order"), [("linf", np.inf), ("l1", 1)])
def test_candidates_have_size_1_and_the_worst_attains_half_of_the_bound_of_one_layer(norm, order):
    network, z = gaussian_network((5, 25), random("test", 3)), random("test", 4).standard_normal(5)
    e = attacks(network, z, norm, random("test", 5))
    np.testing.assert_allclose(np.linalg.norm(e, order, axis=1), 1)
    errors = np.linalg.norm(run(norm, network, network(z) + 1e-7 * e, seed=0).z - z, order, axis=1)
    active = np.asarray(network.layers[0].matrix())[network(z) > 0]
    constant = (c_inf if norm == "linf" else c_1)(active).lower
    assert 0.999e-7 / constant <= errors.max() <= 2.001e-7 / constant


def test_another_code_fits_its_noise_exactly():
    network, z = gaussian_network((4, 20, 100), random("test", 6)), random("test", 7).standard_normal(4)
    e = 1e-7 * attacks(network, z, "linf", random("test", 8))[0]
    code = run("linf", network, network(z) + e, seed=0).z
    np.testing.assert_allclose(network(code), network(z) + e, atol=1e-10)
    jacobian = network.jacobian(z[None])[0]
    assert np.abs(code - z).max() == pytest.approx(1e-7 / c_inf(jacobian[network(z) > 0]).lower, rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_the_hidden_layer_that_misleads_most_stays_a_hidden_layer(norm):
    rng = random("test", 9)
    w, goal, free = rng.standard_normal((30, 6)), rng.standard_normal(6), np.arange(6) < 4
    u = _furthest(w, goal, free, norm)
    assert np.linalg.norm(w @ u, np.inf if norm == "linf" else 1) <= 1 + 1e-7
    assert (u[4:] >= -1e-9).all()
    for v in rng.standard_normal((200, 6)):
        v[4:] = np.abs(v[4:])
        assert goal @ v / np.linalg.norm(w @ v, np.inf if norm == "linf" else 1) <= goal @ u + 1e-7


# --- the bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_no_error_is_above_its_certified_bound(numbers):
    seen = 0
    for norm, k, depth, network, level in {row[:5] for row in numbers.rows}:
        these = numbers.where(norm=norm, k=k, depth=depth, network=network, noise=level)
        bound = np.nan_to_num(these.column("value", what="certified").astype(float), nan=np.inf)
        worst, drawn = these.column("value", what="worst found"), these.column("value", what="random noise")
        assert len(bound) == len(worst) == 1
        assert drawn.max() <= worst[0] <= bound[0] * (1 + 1e-5)
        seen += np.isfinite(bound[0])
    assert seen >= 8


def test_the_bound_for_all_sets_of_rows_is_not_below_that_for_the_bright_ones(numbers):
    """At the smallest noise both have the same numbers of rows."""
    smallest = numbers.where(noise=min(numbers.distinct("noise")))
    searched = np.nan_to_num(smallest.column("value", what="searched").astype(float), nan=np.inf)
    assert (searched >= smallest.column("value", what="certified") * (1 - 1e-5)).all()


@pytest.mark.long
def test_a_unit_gives_equal_rows_again(numbers):
    for unit in (("linf", 4, 2, 0), ("l1", 4, 1, 0)):
        again = load("bounds").numbers(load("bounds").measure(unit, SEED, True), True, SEED)
        assert again.rows == tuple(row for row in numbers.rows if row[:4] == unit)


def test_a_bound_below_an_error_would_be_reported(numbers):
    place = numbers.columns.index("value")
    spoiled = [(*row[:place], row[place] * 1e-3) if "certified" in row and row[place] else row for row in numbers.rows]
    claims = theorem_bounds._claims(load("bounds").numbers(spoiled, True, SEED))
    assert claims[0].verdict is Verdict.FAILS
    assert not claims[0].measured.startswith("0 of")


# --- the constants ----------------------------------------------------------------------------------------------------


def test_certified_constants_are_below_values(constants):
    random_rows = constants.where(rows="random rows")
    assert (random_rows.column("lower") <= random_rows.column("upper") * (1 + 1e-5)).all()
    worst = constants.where(rows="worst rows found")
    assert np.isnan(worst.column("lower").astype(float)).all()
    # The worst rows are at most as good as the random ones, whose constants are exact here.
    assert (worst.column("upper") <= random_rows.column("upper") * (1 + 1e-5)).all()


def test_a_matrix_gives_equal_rows_again(constants):
    again = load("constants").numbers(load("constants").measure((4, 0), SEED, True), True, SEED)
    assert again.rows == constants.where(k=4, matrix=0).rows


# --- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numbers", "constants"])
def test_claims_and_pictures_come_from_numbers(name, request, tmp_path):
    held: Numbers = request.getfixturevalue(name)
    held.save(tmp_path / "held.json")
    numbers, experiment = Numbers.load(tmp_path / "held.json"), load(held.experiment)
    claims = experiment.claims(numbers)
    assert claims == experiment.claims(held)
    assert all("nan" not in claim.measured and claim.verdict in Verdict for claim in claims)
    assert all(claim.reason for claim in claims if claim.verdict is not Verdict.HOLDS)
    png, svg = experiment.plot(numbers, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.stat().st_size > 10_000
