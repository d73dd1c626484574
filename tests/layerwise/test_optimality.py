"""A proof holds for an optimum and for nothing else, and its bound is below every point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_program import largest_response, least_violation
from unrelu.layerwise.optimality import prove, prove_response
from unrelu.models.activations import Activation

NORMS = pytest.mark.parametrize("norm", ["linf", "l1"])
ACTIVATIONS = ("relu", "leaky_relu:0.1", "identity", "sigmoid", "tanh")


def layer(seed=0, n=40, k=5, lower=-np.inf, noise=0.1, activation="relu"):
    """A noisy output; about half the coordinates of its optimum are at ``lower`` where that is 0."""
    rng = np.random.default_rng(seed)
    bounds = np.full(k, lower), np.full(k, np.inf)
    system = LayerSystem(rng.normal(size=(n, k)), 0.1 * rng.normal(size=n), Activation.parse(activation), *bounds)
    h = np.clip(rng.normal(size=k), *bounds)
    return system, rows(system, system.value(h) + noise * rng.uniform(-1, 1, n), noise)


@st.composite
def programs(draw):
    """Any layer with bounds of every kind in one: free, below, above, both, and fixed; with random points in them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, k = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    lower, upper = -rng.uniform(0, 2, k), rng.uniform(0, 2, k)
    kind = rng.integers(0, 5, k)
    lower[(kind == 0) | (kind == 2)] = -np.inf
    upper[(kind == 0) | (kind == 1)] = np.inf
    upper[kind == 4] = lower[kind == 4]
    matrix = rng.normal(size=(n, k))
    matrix[:, rng.random(k) < 0.1] = 0.0
    activation = Activation.parse(draw(st.sampled_from(ACTIVATIONS)))
    system = LayerSystem(matrix, 0.3 * rng.normal(size=n), activation, lower, upper)
    points = np.clip(3 * rng.standard_t(2, (20, k)), lower, upper)
    target = system.value(points[0]) + 0.1 * rng.normal(size=n)
    return system, rows(system, target, draw(st.sampled_from((1e-6, 0.05, 0.3)))), points, rng


def unheld(system, t, h, other):
    """What a lower bound from t may miss at another point: the part of t that no bound of h takes."""
    held = np.isfinite(np.where(t > 0, system.lower, system.upper))
    return float(np.abs(t * (other - h))[~held].sum())


@NORMS
@given(problem=programs(), size=st.sampled_from((0.1, 1.0, 10.0)))
def test_no_point_is_below_the_bound_of_any_multipliers(norm, problem, size):
    system, layer_rows, points, rng = problem
    y = size * rng.normal(size=system.n_out)
    proof = prove(system, layer_rows, norm, points[0], y)
    # The multipliers that the proof uses, by its documented rule.
    if norm == "l1":
        used = np.clip(y, *layer_rows.box)
    else:
        up, down = layer_rows.slopes
        share = np.maximum(up * y, -down * y)
        used = np.where(share > 0, y, 0.0) / (share.sum() or 1.0)
    t = system.matrix.T @ used
    for h in points:
        errors = layer_rows.violation(system.matrix @ h)
        value = errors.sum() if norm == "l1" else errors.max()
        slack = 1e-11 * (1 + np.abs(system.matrix @ h).sum() + np.abs(layer_rows.center).sum()) * np.abs(used).max()
        assert proof.bound <= value + unheld(system, t, points[0], h) + slack


@given(problem=programs(), size=st.sampled_from((0.1, 1.0, 10.0)))
def test_no_feasible_point_is_above_the_bound_of_the_relaxation(problem, size):
    system, layer_rows, points, rng = problem
    weight = np.where(np.isfinite(layer_rows.high), np.abs(layer_rows.target) / layer_rows.high_slope, 0.0)
    # Sides that many points satisfy.
    side = np.where(np.isfinite(layer_rows.high), np.quantile(points @ system.matrix.T, 0.95, axis=0), np.inf)
    multipliers = size * rng.normal(size=system.n_out)
    proof = prove_response(system, weight, side, 1.0, points[0], multipliers)
    lam = np.where(np.isfinite(side), np.maximum(multipliers, 0.0), 0.0)
    t = system.matrix.T @ (weight - lam)
    feasible = [h for h in points if (system.matrix @ h <= side).all()]
    for h in feasible:
        slack = 1e-11 * (1 + np.abs(system.matrix @ h).sum()) * (1 + weight.sum() + lam.sum())
        assert weight @ (system.matrix @ h) <= proof.bound + unheld(system, -t, points[0], h) + slack


@NORMS
@pytest.mark.parametrize("lower", [-np.inf, 0.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_optimum_holds_and_its_neighbours_do_not(norm, lower, activation):
    system, layer_rows = layer(lower=lower, activation=activation, noise=0.05)
    answer = least_violation(system, layer_rows, norm)
    proof = prove(system, layer_rows, norm, answer.h, answer.multipliers)
    assert proof.holds
    assert proof.bound == pytest.approx(proof.objective, rel=1e-8)
    assert answer.objective > 1e-3
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-3, 1.0):
        h = system.inside(answer.h + size * np.abs(rng.normal(size=system.n_in)))
        assert not prove(system, layer_rows, norm, h, answer.multipliers).holds
        y = answer.multipliers + size * rng.normal(size=system.n_out)
        assert not prove(system, layer_rows, norm, answer.h, y).holds
    assert not prove(system, layer_rows, norm, answer.h, np.zeros(system.n_out)).holds
    assert not prove(system, layer_rows, norm, answer.h, -answer.multipliers).holds


@NORMS
def test_a_point_outside_its_bounds_does_not_hold(norm):
    system, layer_rows = layer(lower=0.0)
    answer = least_violation(system, layer_rows, norm)
    at = int(np.argmin(answer.h))
    assert answer.h[at] == pytest.approx(0.0, abs=1e-12)
    # A system without those bounds has a better point, which is optimal there and no point at all here.
    free = replace(system, lower=np.full(system.n_in, -np.inf))
    better = least_violation(free, layer_rows, norm)
    assert prove(free, layer_rows, norm, better.h, better.multipliers).holds
    assert not prove(system, layer_rows, norm, better.h, better.multipliers).holds
    h = answer.h.copy()
    h[at] = -1e-6
    assert not prove(system, layer_rows, norm, h, answer.multipliers).holds
    # An objective of zero is no excuse.
    exact = rows(free, free.value(-np.ones(system.n_in)), 1e-3)
    assert prove(free, exact, norm, -np.ones(system.n_in), np.zeros(system.n_out)).holds
    assert not prove(system, exact, norm, -np.ones(system.n_in), np.zeros(system.n_out)).holds


@NORMS
@pytest.mark.parametrize("where", ["h", "multipliers", "all multipliers"])
def test_nan_never_holds(norm, where):
    system, layer_rows = layer(lower=0.0)
    answer = least_violation(system, layer_rows, norm)
    h, y = answer.h.copy(), answer.multipliers.copy()
    row = int(np.argmax(np.abs(y)))
    if where == "h":
        h[0] = np.nan
    elif where == "multipliers":
        y[row] = np.nan
    else:
        y[:] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        assert not prove(system, layer_rows, norm, h, y).holds


def response(system, layer_rows):
    """Weights, sides and the scale of the sides, as for :func:`largest_response`."""
    weight = np.where(np.isfinite(layer_rows.high), np.abs(layer_rows.target) / layer_rows.high_slope, 0.0)
    side = layer_rows.high + layer_rows.high_slope * layer_rows.threshold
    return weight, side, layer_rows.threshold * float(np.median(layer_rows.high_slope))


@pytest.mark.parametrize("lower", [-np.inf, 0.0])
def test_a_solution_of_the_relaxation_holds_and_its_neighbours_do_not(lower):
    system, layer_rows = layer(lower=lower)
    answer = largest_response(system, layer_rows)
    program = response(system, layer_rows)
    assert answer.engine == "exchange"
    assert prove_response(system, *program, answer.h, answer.multipliers).holds
    rng = np.random.default_rng(0)
    for size in (1e-4, 1e-2, 1.0):
        h = system.inside(answer.h + size * rng.normal(size=system.n_in))
        assert not prove_response(system, *program, h, answer.multipliers).holds
        lam = answer.multipliers + size * np.abs(rng.normal(size=system.n_out))
        assert not prove_response(system, *program, answer.h, lam).holds
    for lam in (np.zeros(system.n_out), -answer.multipliers, np.full(system.n_out, np.nan)):
        assert not prove_response(system, *program, answer.h, lam).holds
    h = answer.h.copy()
    h[0] = np.nan
    assert not prove_response(system, *program, h, answer.multipliers).holds
