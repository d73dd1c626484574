"""The paper's assumptions and bounds: against enumeration, simulation, another solver, and what the methods do."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn

import unrelu
from tests.opaque_modules import Untraceable, made
from tests.support import paper_network, random_network
from unrelu.errors import InputError, ModelError, UnsupportedModelError
from unrelu.layerwise import LInf
from unrelu_studies.paper import theory
from unrelu_studies.paper.theory import constants

NORMS = {"linf": theory.c_inf, "l1": theory.c_1}
ORDERS = {"linf": np.inf, "l1": 1}


def opaque():
    return unrelu.from_torch(made(Untraceable, nn.Sequential(nn.Linear(4, 9), nn.ReLU())), (4,))


def gaussian(m, k, seed=0):
    return np.random.default_rng(seed).standard_normal((m, k))


# --- Assumption 1 and Theorem 2 --------------------------------------------------------------------------------------


@given(n=st.integers(0, 200), k=st.integers(0, 200))
def test_active_rows_are_a_binomial_tail(n, k):
    exact = Fraction(sum(math.comb(n, j) for j in range(k, n + 1)), 2**n)
    assert theory.active_rows_probability(n, k) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("sizes", [(3, 7, 13), (4, 10), (3, 4, 12)])
def test_probabilities_are_the_frequencies_of_random_networks(sizes):
    draws, recovered, rank = 400, 0, 0
    for seed in range(draws):
        network = random_network(sizes, seed=seed)
        z = np.random.default_rng(10_000 + seed).standard_normal(sizes[0])
        active = [int(on.sum()) for on in network.pattern(z)]
        recovered += all(count >= before for count, before in zip(active, sizes, strict=False))
        rank += np.linalg.matrix_rank(network.jacobian(z)) == sizes[0]
    for count, p in [
        (recovered, theory.layerwise_recovery_probability(sizes)),
        (rank, theory.identifiable_probability(sizes)),
    ]:
        assert 0.05 < p < 0.95
        assert abs(count - draws * p) <= 3 * math.sqrt(draws * p * (1 - p))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.layerwise_recovery_probability(5), InputError, "sizes=5"),
        (lambda: theory.active_rows_probability(-1, 2), InputError, "n=-1"),
        (lambda: theory.active_rows_probability(3, 1.5), InputError, "k=1.5"),
        (lambda: theory.layerwise_recovery_probability([3]), InputError, r"sizes=\[3\]"),
        (lambda: theory.identifiable_probability((3, 0)), InputError, r"sizes=\(3, 0\)"),
        (lambda: theory.identifiable_probability((3, 9), "tanh"), InputError, "activation='tanh'"),
        (lambda: theory.identifiable_probability((3, 9), "rule"), ModelError, "unknown activation"),
    ],
)
def test_sizes_that_make_no_sense(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- Assumptions 2 and 3 ---------------------------------------------------------------------------------------------


def least(w, norm):
    """The constant by another solver, in primal form: min |W v| where v_j = 1, or s.v = 1 for signs s."""
    m, k = w.shape
    goals = np.eye(k) if norm == "linf" else np.array(list(itertools.product((1.0, -1.0), repeat=k)))
    each = np.ones((m, 1)) if norm == "linf" else np.eye(m)
    sides = np.block([[w, -each], [-w, -each]])
    cost = np.r_[np.zeros(k), np.ones(each.shape[1])]
    free = [(None, None)] * len(cost)
    values = []
    for goal in goals:
        equal = np.r_[goal, np.zeros(each.shape[1])][None]
        values.append(linprog(cost, sides, np.zeros(2 * m), equal, [1.0], bounds=free).fun)
    return min(values)


def ratio(w, v, norm):
    return np.linalg.norm(w @ v, ORDERS[norm]) / np.linalg.norm(v, ORDERS[norm])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("m", "k"), [(1, 1), (4, 1), (3, 3), (9, 2), (12, 5)])
def test_constants_are_those_of_another_solver(norm, m, k):
    w = gaussian(m, k, seed=m)
    found = NORMS[norm](w)
    assert found.lower <= found.upper <= found.lower * (1 + 1e-9)
    assert found.lower == pytest.approx(least(w, norm), rel=1e-7)
    assert ratio(w, found.v, norm) == pytest.approx(found.upper, rel=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=25)
@given(
    m=st.integers(1, 14), k=st.integers(1, 5), seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-60, 60), spread=st.floats(0, 6),
)  # fmt: skip
def test_no_vector_is_extended_by_less_than_the_lower_bound(norm, m, k, seed, exponent, spread):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((m, k)) * 10.0 ** (exponent + rng.uniform(-spread, 0, (m, 1)))
    found = NORMS[norm](w)
    assert 0 <= found.lower <= found.upper
    for v in [*np.eye(k), *rng.standard_normal((50, k)), *np.linalg.pinv(w).T, found.v]:
        if v.any():
            # In rational arithmetic, so that rounding cannot decide.
            product = [abs(sum(Fraction(a) * Fraction(b) for a, b in zip(row, v, strict=True))) for row in w]
            length = [abs(Fraction(b)) for b in v]
            of = max if norm == "linf" else sum
            assert Fraction(found.lower) * of(length) <= of(product)
            if v is found.v and m >= k:
                assert of(product) <= Fraction(found.upper) * of(length)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("k", [3, 12])
def test_rows_without_full_rank_have_no_constant(norm, k):
    w = gaussian(20, k)
    w[:, -1] = w[:, 0]
    found = NORMS[norm](w)
    assert (found.lower, found.upper) == (0, pytest.approx(0, abs=1e-12))
    assert NORMS[norm](np.zeros((20, k))).lower == 0
    empty = NORMS[norm](np.zeros((0, k)))
    assert (empty.lower, empty.upper) == (0, 0)


@pytest.mark.parametrize("solvable", [True, False])
def test_c_1_of_many_columns_is_enclosed(monkeypatch, solvable):
    if not solvable:
        monkeypatch.setattr(constants, "_SOLVABLE", 0)
    w = gaussian(50, 8)
    exact = theory.c_1(w).lower
    monkeypatch.setattr(constants, "_ENUMERABLE", 5)
    found = theory.c_1(w)
    assert 0.3 * exact < found.lower <= exact * (1 + 1e-9)
    assert found.upper >= exact
    assert ratio(w, found.v, "l1") == pytest.approx(found.upper, rel=1e-9)
    if solvable:
        assert found.lower > 0.8 * exact


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("error", [1e-12, 1e-6, 1e-3, 0.1, 1.0])
def test_multipliers_that_are_wrong_never_prove_too_much(monkeypatch, norm, error):
    w, rng = gaussian(12, 4), np.random.default_rng(3)
    exact, right = NORMS[norm](w).upper, constants._extreme

    def wrong(w, goal, norm):
        y, v = right(w, goal, norm)
        return y * (1 + error * rng.uniform(-1, 1, y.shape)), v

    monkeypatch.setattr(constants, "_extreme", wrong)
    for _ in range(20):
        lower = NORMS[norm](w).lower
        assert 0 <= lower <= exact
        assert lower >= exact * (1 - 20 * error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.c_inf([1.0, 2.0]), r"W has shape \(2,\)"),
        (lambda: theory.c_1(np.ones((3, 0))), r"W has shape \(3, 0\)"),
        (lambda: theory.c_1([["a"]]), "not an array of numbers"),
        (lambda: theory.c_inf([[np.nan], [1.0]]), "W has 1 entries that are not finite"),
        (lambda: theory.c_inf([[1e200]]), r"largest entry of W is 1e\+200"),
    ],
)
def test_matrices_that_make_no_sense(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- the bound of one code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["as in the paper", "long", "short"])
def test_linf_stays_within_the_bound(rows):
    """N(0, 1 / n_i) weights; N(0, 1) ones, whose thresholds shrink on the way down; small ones, whose grow."""
    finite = 0
    for seed in range(25):
        k, rng = 3 + seed % 3, np.random.default_rng(seed)
        network = paper_network((k, 40, 200), seed=seed)
        if rows != "as in the paper":
            factors = [layer.n_out**0.5 if rows == "long" else 1e-2 for layer in network.layers]
            network = unrelu.from_arrays([f * layer.matrix() for f, layer in zip(factors, network.layers, strict=True)])
        z = rng.standard_normal(k)
        x = network(z)
        eps = float(x.max()) * 10.0 ** rng.uniform(-5, -1)
        bound = theory.recovery_bound(network, z, eps)
        finite += math.isfinite(bound.error)
        signs = rng.choice([-1.0, 1.0], x.shape)
        for noise, stated in [(rng.uniform(-1, 1, x.shape), None), (signs, None), (signs, f"uniform:{eps}")]:
            found = unrelu.invert(network, x + eps * noise, "linf", noise=stated)
            assert found.status in (unrelu.Status.CONVERGED, unrelu.Status.NOISE_LEVEL, unrelu.Status.MISFIT)
            assert np.abs(found.z - z).max() <= bound.error
    assert finite >= 15


def test_the_bound_is_theorem_3_with_one_constant_for_each_layer():
    """e_(i-1) = 2 e_i / c_i, where outputs exceed 2 e_i."""
    network, z, eps = paper_network((3, 40, 200), seed=2), gaussian(1, 3)[0], 1e-4
    bound = theory.recovery_bound(network, z, eps, alpha=None)
    first, second = bound.constants
    assert bound.errors == pytest.approx([eps * 2 / first * 2 / second, eps * 2 / second, eps], rel=1e-5)
    assert bound.thresholds == pytest.approx([2 * error for error in bound.errors[1:]], rel=1e-5)
    outputs = network.trace(z)
    assert bound.rows == tuple(int((x > t).sum()) for x, t in zip(outputs, bound.thresholds, strict=True))
    for layer, x, t, c in zip(network.layers, outputs, bound.thresholds, bound.constants, strict=True):
        assert theory.c_inf(layer.matrix()[x > t]).lower == c
    grown = theory.recovery_bound(network, z, eps)
    assert grown.thresholds[-1] == pytest.approx((1 + LInf.alpha) * eps, rel=1e-5)
    assert grown.error >= bound.error * (1 - 1e-9)


def test_a_layer_without_enough_bright_outputs_ends_the_bound():
    network, z = paper_network((3, 40, 200), seed=2), gaussian(1, 3)[0]
    bound = theory.recovery_bound(network, z, 0.45 * float(network(z).max()))
    assert bound.error == math.inf
    assert bound.rows[-1] < 40
    assert bound.errors == (math.inf, math.inf, bound.errors[-1])
    assert math.isfinite(theory.recovery_bound(network, z, 0.0).error)


@pytest.mark.parametrize(
    ("network", "z", "eps", "alpha", "error", "message"),
    [
        (random_network((2, 9)), [1.0], 0.1, 1.2, InputError, r"z has shape \(1,\)"),
        (random_network((2, 9)), [1.0, np.inf], 0.1, 1.2, InputError, "finite code"),
        (random_network((2, 9)), [1.0, 1.0], math.inf, 1.2, InputError, "eps=inf"),
        (random_network((2, 9)), [1.0, 1.0], 0.1, 1.0, InputError, "alpha=1.0"),
        (random_network((2, 9), bias=True), [1.0, 1.0], 0.1, 1.2, UnsupportedModelError, "layer 1 has biases"),
        (random_network((2, 9, 9), last="tanh"), [1.0, 1.0], 0.1, 1.2, UnsupportedModelError, "layer 2 ends in tanh"),
        (opaque(), np.ones(4), 0.1, 1.2, UnsupportedModelError, "no known layers"),
    ],
)
def test_networks_and_codes_without_a_bound(network, z, eps, alpha, error, message):
    with pytest.raises(error, match=message):
        theory.recovery_bound(network, z, eps, alpha)


def test_everything_public_is_in_the_reference():
    text = (Path(__file__).parents[2] / "docs" / "reference" / "experiments.md").read_text(encoding="utf-8")
    assert all(f"unrelu_studies.paper.theory.{name}\n" in text for name in theory.__all__)
