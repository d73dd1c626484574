"""The exchange simplex: optimality conditions, all bases of tiny programs, any start, any number of pauses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import compiled
from unrelu.lp import exchange_simplex
from unrelu.lp.exchange_simplex import EXHAUSTED, OPTIMAL, UNBOUNDED, exchange, minimise, restart
from unrelu.lp.lp_status import LpStatus

entering = compiled(exchange_simplex.entering)
PENALTY, EDGE = 1e3, 3.0
MANY = 100_000


@dataclass(frozen=True, eq=False)
class Example:
    """min g v + sum of the kinks; unit rows are K fill-ins, then -3 <= v, then v <= 3, held by a penalty."""

    rows: np.ndarray
    shift: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    column: np.ndarray
    gradient: np.ndarray

    @property
    def shape(self):
        return self.rows.shape

    @property
    def allowed(self):
        return 1e-9 * np.minimum(1.0, np.where(self.hi > self.lo, self.hi - self.lo, 1.0))

    def residuals(self, v):
        return np.concatenate([self.rows @ v, v[self.column]]) + self.shift

    def objective(self, v):
        r = self.residuals(v)
        return float(self.gradient @ v + np.maximum(self.hi * r, self.lo * r).sum())

    def row(self, j):
        m, k = self.shape
        return self.rows[j] if j < m else np.eye(k)[self.column[j - m]]

    def vertex(self, basis):
        return np.linalg.solve(np.array([self.row(j) for j in basis]), -self.shift[basis])

    def fill_ins(self):
        m, k = self.shape
        return np.arange(m, m + k)

    def solve(self, basis, limit=MANY):
        """v, y, pivots, status, the last basis and where to go on; ``basis`` stays as it is."""
        basis = basis.copy()
        matrix = np.array([self.row(j) for j in basis])
        pause = Pause.before(self, np.ascontiguousarray(np.linalg.inv(matrix).T))
        return *self.go_on(basis, pause, limit), basis, pause

    def go_on(self, basis, pause, limit):
        """Pivots up to a limit; where no limit stops them, the optimum is checked from scratch."""
        total, size = 0, np.append(np.linalg.norm(self.rows, axis=1), np.ones(len(self.column)))
        while True:
            state, _ = restart(
                self.rows, self.shift, self.lo, self.hi, self.column, self.gradient, basis, pause.edges, pause.y
            )
            pivots, status = exchange(
                self.rows, self.lo, self.hi, self.allowed, size, self.column, basis, pause.edges, pause.y, *state,
                min(limit - total, 100),
            )  # fmt: skip
            total += pivots
            if status == UNBOUNDED or (status == OPTIMAL and not pivots) or (status == EXHAUSTED and total == limit):
                return state[0], pause.y, total, status


@dataclass
class Pause:
    """What a call of the exchange leaves behind for the next one."""

    edges: np.ndarray
    y: np.ndarray

    @classmethod
    def before(cls, program, edges):
        return cls(edges, np.zeros(len(program.lo)))


def example(rng, k, m, integers=False):
    """A random program; with integers, many kinks meet in one point."""
    draw = (
        (lambda *size: rng.integers(-2, 3, size).astype(float)) if integers else (lambda *size: rng.normal(size=size))
    )
    rows = draw(m, k)
    if integers and m > 1:
        rows[rng.integers(m)] = rows[rng.integers(m)]
    none = np.zeros(k)
    return Example(
        rows,
        np.concatenate([draw(m), none, none + EDGE, none - EDGE]),
        np.concatenate([-np.abs(draw(m)), none, none - PENALTY, none]),
        np.concatenate([np.abs(draw(m)), none, none, none + PENALTY]),
        np.tile(np.arange(k), 3),
        draw(k),
    )


@st.composite
def examples(draw, widest=8):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, widest))
    return example(rng, k, draw(st.integers(1, 5 * k)), draw(st.booleans()))


@given(program=examples())
def test_an_optimum_meets_its_conditions(program):
    v, y, _, status, basis, pause = program.solve(program.fill_ins())
    assert status == OPTIMAL
    r = program.residuals(v)
    assert (y <= program.hi + program.allowed).all()
    assert (y >= program.lo - program.allowed).all()
    stationary = program.gradient + sum(y[j] * program.row(j) for j in range(len(y)))
    np.testing.assert_allclose(stationary, 0, atol=1e-10 * max(1, np.abs(y).max()))
    # y_j r_j is the largest over the interval of y_j: hi above the kink, lo below it.
    slack = np.maximum(program.hi * r, program.lo * r) - y * r
    np.testing.assert_allclose(slack, 0, atol=1e-9 * max(1, np.abs(y).max()))
    np.testing.assert_allclose(r[basis], 0, atol=1e-10)
    np.testing.assert_allclose(pause.edges @ np.array([program.row(j) for j in basis]).T, np.eye(len(v)), atol=1e-7)


@given(seed=st.integers(0, 10**6), integers=st.booleans())
def test_the_best_of_all_vertices_is_found(seed, integers):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 4))
    program = example(rng, k, int(rng.integers(1, 8)), integers)
    m, _ = program.shape
    values = []
    for basis in map(list, combinations(np.concatenate([np.arange(m), np.arange(m + k, m + 3 * k)]), k)):
        if abs(np.linalg.det(np.array([program.row(j) for j in basis]))) > 1e-9:
            values.append(program.objective(program.vertex(basis)))
    v, *_ = program.solve(program.fill_ins())
    assert program.objective(v) == pytest.approx(min(values), rel=1e-9, abs=1e-9)


@given(program=examples(), seed=st.integers(0, 10**6))
def test_every_start_leads_to_the_same_minimum(program, seed):
    m, k = program.shape
    some = np.random.default_rng(seed).permutation(m + 3 * k)[:k]
    basis, _ = exchange_simplex._independent(program.rows, program.column, some)
    here, there = program.solve(program.fill_ins()), program.solve(basis)
    assert here[3] == there[3] == OPTIMAL
    assert program.objective(there[0]) == pytest.approx(program.objective(here[0]), rel=1e-9, abs=1e-9)
    start = program.objective(program.vertex(basis))
    for limit in (1, 2, 3):
        reached = program.objective(program.solve(basis, limit)[0])
        assert reached <= start + 1e-9 * max(1, abs(start))
        start = reached


@given(seed=st.integers(0, 10**6))
def test_a_limit_pauses_and_the_rest_follows(seed):
    """Without ties the pauses change nothing: the same pivots, one by one."""
    program = example(np.random.default_rng(seed), 6, 30)
    v, y, pivots, status, basis, _ = program.solve(program.fill_ins())
    assert status == OPTIMAL
    *_, count, status, other, pause = program.solve(program.fill_ins(), 0)
    assert count == 0
    assert status == EXHAUSTED
    np.testing.assert_array_equal(other, program.fill_ins())
    total = 0
    while status == EXHAUSTED and total < MANY:
        w, z, count, status = program.go_on(other, pause, 1)
        assert count <= 1
        total += count
    assert status == OPTIMAL
    assert total == pivots
    assert sorted(other) == sorted(basis)
    np.testing.assert_allclose(w, v, atol=1e-9)
    np.testing.assert_allclose(z, y, atol=1e-7)


@pytest.mark.parametrize("limit", [20, 57])
def test_pauses_do_not_lead_in_circles_where_most_kinks_meet(limit):
    """Pauses as of a program with 1000 unknowns."""
    rng = np.random.default_rng(0)
    k, m = 35, 159
    rows, point, none = rng.integers(-1, 2, (m, k)).astype(float), rng.integers(-1, 2, k).astype(float), np.zeros(k)
    program = Example(
        rows,
        np.concatenate([-rows @ point, none, none + EDGE, none - EDGE]),
        np.concatenate([-rng.integers(0, 2, m).astype(float), none, none - PENALTY, none]),
        np.concatenate([rng.integers(0, 2, m).astype(float), none, none, none + PENALTY]),
        np.tile(np.arange(k), 3),
        rng.integers(-3, 4, k).astype(float),
    )
    v, _, pivots, status, *_ = program.solve(program.fill_ins())
    assert status == OPTIMAL
    w, _, total, status, basis, pause = program.solve(program.fill_ins(), limit)
    while status == EXHAUSTED and total < 20 * pivots:
        w, _, count, status = program.go_on(basis, pause, limit)
        total += count
    assert status == OPTIMAL
    assert program.objective(w) == pytest.approx(program.objective(v), rel=1e-9)


def test_a_program_without_a_minimum_says_so():
    program = Example(
        np.ones((1, 1)), np.zeros(2), np.zeros(2), np.array([1.0, 0.0]), np.zeros(1, int), np.array([1.0])
    )
    *_, status, _, _ = program.solve(np.array([1]))
    assert status == UNBOUNDED


def test_edges_that_do_not_fit_are_computed_anew():
    program = example(np.random.default_rng(1), 5, 20)
    v, *_ = program.solve(program.fill_ins())
    edges, y = np.full((5, 5), 7.0), np.zeros(len(program.lo))
    _, accurate = restart(
        program.rows, program.shift, program.lo, program.hi, program.column, program.gradient, program.fill_ins(),
        edges, y,
    )  # fmt: skip
    assert not accurate
    found = minimise(
        program.rows, program.shift, program.lo, program.hi, program.column, program.gradient, program.fill_ins(),
        edges,
    )  # fmt: skip
    assert found.status is LpStatus.OPTIMAL
    np.testing.assert_allclose(found.v, v, atol=1e-9)


@given(program=examples(), seed=st.integers(0, 10**6))
def test_a_basis_of_dependent_rows_is_completed_by_unit_rows(program, seed):
    m, k = program.shape
    some = np.random.default_rng(seed).integers(0, m, k)
    basis, edges = exchange_simplex._independent(program.rows, program.column, some)
    assert len(set(basis)) == k
    matrix = np.array([program.row(j) for j in basis])
    np.testing.assert_array_equal(exchange_simplex._basic_rows(program.rows, program.column, basis), matrix)
    np.testing.assert_allclose(edges @ matrix.T, np.eye(k), atol=1e-7)
    # Every independent row is kept.
    assert (basis < m).sum() == np.linalg.matrix_rank(program.rows[some])
