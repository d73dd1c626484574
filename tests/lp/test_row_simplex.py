"""The simplex kernels against HiGHS: hard and soft rows, equations, ties, contradictions, free directions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.row_simplex import CUTOFF, LIMIT, OPTIMAL, SINGULAR, dual_simplex, primal_simplex

SEEDS = st.integers(0, 2**32)


def program(seed, hard_only=False):
    """(A, lo, hi, p, q, g, basis, upper): dual feasible at a basis of rows whose multipliers are drawn first."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    m = n + int(rng.integers(0, 15))
    rows = rng.standard_normal((m, n)) if rng.random() < 0.5 else rng.integers(-2, 3, (m, n)).astype(float)
    rows[:n] += 4 * np.eye(n)
    if m > n + 1 and rng.random() < 0.4:
        rows[-1] = rows[rng.integers(m - 1)]
    center = rows @ rng.integers(-2, 3, n)
    if rng.random() < 0.3:
        center = center + rng.integers(-2, 3, m)
    lo, hi = center - rng.integers(0, 3, m), center + rng.integers(0, 3, m)
    which = rng.random(m)
    which[:n] = 0.0
    lo, hi = np.where((which > 0.5) & (which < 0.75), -np.inf, lo), np.where(which >= 0.75, np.inf, hi)
    soft = np.where(rng.random(m) < 0.5, rng.integers(1, 4, m), np.inf) if not hard_only else np.full(m, np.inf)
    p, q = soft, np.where(rng.random(m) < 0.5, soft, np.inf)
    y = np.round(rng.uniform(-1, 1, n), 1) * (rng.random(n) < 0.7)
    upper = y < 0
    g, basis = y @ rows[:n], np.arange(n)
    if rng.random() < 0.3:
        # x_i = 0 instead of a row with multiplier 0: an artificial one.
        idle = np.flatnonzero(y == 0)
        for i in idle[:2]:
            basis[i] = m + i
    return rows, lo, hi, p, q, g, basis, upper


def solve(rows, lo, hi, p, q, g, basis, upper, cutoff=np.inf, limit=2000):
    """(status, value, x, multipliers of all rows, pivots)."""
    m, n = rows.shape
    basis, upper, state = basis.copy(), upper.copy(), np.zeros(m, dtype=np.int8)
    y, x, r, ray, edges = np.zeros(n), np.zeros(n), np.zeros(m), np.zeros(2), np.zeros((n, n))
    status, value, pivots = dual_simplex(
        ROUTINES, rows, np.linalg.norm(rows, axis=1), lo, hi, p, q, g, basis, upper, state, edges, True, y, x, r, ray,
        cutoff, limit,
    )  # fmt: skip
    full = np.where(state > 0, p, np.where(state < 0, -q, 0.0))
    for i, row in enumerate(basis):
        if row < m:
            full[row] = y[i]
    if ray[0] >= 0:
        full[int(ray[0])] += ray[1]
    return status, value, x, full, pivots


def by_highs(rows, lo, hi, p, q, g):
    """The optimum, inf where the constraints contradict each other."""
    n = rows.shape[1]
    a, b, cost, bounds = [], [], list(g), [(None, None)] * n
    for side, price, sign in ((lo, p, -1.0), (hi, q, 1.0)):
        for j in np.flatnonzero(np.isfinite(side)):
            if np.isfinite(price[j]):
                cost.append(price[j])
                bounds.append((0, None))
                a.append((sign * rows[j], len(cost) - 1))
            else:
                a.append((sign * rows[j], None))
            b.append(sign * side[j])
    matrix = np.zeros((len(a), len(cost)))
    for i, (row, extra) in enumerate(a):
        matrix[i, :n] = row
        if extra is not None:
            matrix[i, extra] = -1.0
    solved = linprog(cost, matrix, b, bounds=bounds, method="highs")
    assert solved.status in (0, 2), solved.message
    return solved.fun if solved.status == 0 else np.inf


def dual_value(lo, hi, y):
    """What the multipliers prove: the sides that they are of."""
    y = np.where(np.abs(y) < 1e-9 * (1 + np.abs(y).max(initial=0)), 0.0, y)
    return float((np.where(y > 0, lo, hi)[y != 0] * y[y != 0]).sum())


def check_multipliers(rows, p, q, g, y, x=None, sides=None):
    """Stationary and within their intervals; with x, complementary."""
    size = 1 + np.abs(y).max(initial=0)
    np.testing.assert_allclose(y @ rows, g, atol=1e-7 * size)
    assert (y <= p + 1e-8 * size).all()
    assert (y >= -q - 1e-8 * size).all()
    if x is None:
        return
    (lo, hi), r = sides, rows @ x
    near = 1e-6 * (1 + np.abs(r))
    # Strictly inside: no multiplier; missed: the whole cost.
    inside = (r > lo + near) & (r < hi - near)
    assert (np.abs(y[inside]) < 1e-7).all()
    below, above = r < lo - near, r > hi + near
    np.testing.assert_allclose(y[below], p[below], atol=1e-7)
    np.testing.assert_allclose(y[above], -q[above], atol=1e-7)


@settings(max_examples=400)
@given(SEEDS)
def test_the_dual_simplex_agrees_with_highs(seed):
    rows, lo, hi, p, q, g, basis, upper = program(seed)
    expected = by_highs(rows, lo, hi, p, q, g)
    status, value, x, y, _ = solve(rows, lo, hi, p, q, g, basis, upper)
    if np.isinf(expected):
        assert status == LIMIT, "there is no cutoff, and nothing to reach"
        return
    assert status == OPTIMAL
    assert value == pytest.approx(expected, rel=1e-7, abs=1e-7)
    check_multipliers(rows, p, q, g, y, x, (lo, hi))
    assert dual_value(lo, hi, y) == pytest.approx(value, rel=1e-7, abs=1e-6)


@settings(max_examples=300)
@given(SEEDS, st.floats(-3, 3))
def test_it_stops_at_the_cutoff_with_multipliers_that_reach_it(seed, cutoff):
    rows, lo, hi, p, q, g, basis, upper = program(seed)
    expected = by_highs(rows, lo, hi, p, q, g)
    status, value, _, y, _ = solve(rows, lo, hi, p, q, g, basis, upper, cutoff)
    size = 1e-6 * (1 + np.abs(y).max(initial=0))
    if status == OPTIMAL:
        assert expected < cutoff + 1e-7
        assert value == pytest.approx(expected, rel=1e-7, abs=1e-7)
        return
    assert status == CUTOFF
    assert expected >= cutoff - 1e-7
    assert value >= cutoff
    check_multipliers(rows, p, q, g, y)
    assert dual_value(lo, hi, y) >= cutoff - size
    assert value <= expected + size


@settings(max_examples=100)
@given(SEEDS)
def test_a_stop_on_the_way_is_a_bound(seed):
    rows, lo, hi, p, q, g, basis, upper = program(seed)
    expected = by_highs(rows, lo, hi, p, q, g)
    before = -np.inf
    for limit in (0, 1, 2, 4):
        status, value, _, y, pivots = solve(rows, lo, hi, p, q, g, basis, upper, limit=limit)
        assert pivots <= limit
        assert before - 1e-9 <= value <= expected + 1e-7 * (1 + abs(expected))
        before = value
        if status == LIMIT:
            check_multipliers(rows, p, q, g, y)


def test_a_basis_that_is_not_dual_feasible_or_singular_is_refused():
    rows, hard = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), np.full(3, np.inf)
    lo, hi = np.zeros(3), np.full(3, np.inf)
    ones = np.ones(2)
    assert solve(rows, lo, hi, hard, hard, ones, np.array([0, 1]), np.zeros(2, bool))[0] == OPTIMAL
    assert solve(rows, lo, hi, hard, hard, -ones, np.array([0, 1]), np.zeros(2, bool))[0] == SINGULAR
    assert solve(rows, lo, hi, hard, hard, ones, np.array([0, 2]), np.zeros(2, bool))[0] == SINGULAR
    soft = np.full(3, 0.5)
    assert solve(rows, lo, hi, soft, hard, ones, np.array([0, 1]), np.zeros(2, bool))[0] == SINGULAR


@settings(max_examples=300)
@given(SEEDS)
def test_the_primal_simplex_agrees_with_highs(seed):
    """From the vertex that the dual one finds, for another objective."""
    rows, lo, hi, p, q, g, basis, upper = program(seed, hard_only=True)
    m, n = rows.shape
    if np.isinf(by_highs(rows, lo, hi, p, q, g)):
        return
    basis, upper, state = basis.copy(), upper.copy(), np.zeros(m, dtype=np.int8)
    y, x, r, ray, edges = np.zeros(n), np.zeros(n), np.zeros(m), np.zeros(2), np.zeros((n, n))
    norms = np.linalg.norm(rows, axis=1)
    status, _, _ = dual_simplex(
        ROUTINES, rows, norms, lo, hi, p, q, g, basis, upper, state, edges, True, y, x, r, ray, np.inf, 2000
    )
    assert status == OPTIMAL
    cost = np.random.default_rng(seed).integers(-3, 4, n).astype(float)
    sides = [(rows, hi), (-rows, -lo)]
    a, b = (np.concatenate([part[np.isfinite(side)] for part, side in parts]) for parts in (
        sides, [(side, side) for _, side in sides]
    ))  # fmt: skip
    expected = linprog(cost, a, b, bounds=(None, None), method="highs")
    status, value, _ = primal_simplex(
        ROUTINES, rows, norms, lo, hi, cost, basis, upper, edges, True, y, x, r, 2000
    )  # fmt: skip
    if expected.status != 0:
        assert status == LIMIT
        return
    assert status == OPTIMAL
    assert value == pytest.approx(expected.fun, rel=1e-7, abs=1e-7)
    assert (rows @ x >= lo - 1e-7 * norms).all()
    assert (rows @ x <= hi + 1e-7 * norms).all()
    full = np.zeros(m)
    for i, row in enumerate(basis):
        if row < m:
            full[row] = y[i]
    np.testing.assert_allclose(full @ rows, cost, atol=1e-7)
    slack_below, slack_above = rows @ x - lo, hi - rows @ x
    assert (np.minimum(np.where(full > 1e-9, slack_below, 0), 1) <= 1e-6).all()
    assert (np.minimum(np.where(full < -1e-9, slack_above, 0), 1) <= 1e-6).all()
