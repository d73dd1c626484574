"""3SAT as a network, and the preimage that is not convex."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linprog

import unrelu
from unrelu.errors import InputError
from unrelu_studies.paper.hardness import SEPARATION, Formula, example_1, random_formula, reduction

ALL_SIGNS = Formula(3, tuple(itertools.product((1, -1), (2, -2), (3, -3))))
UNSATISFIABLE = {
    "unit": Formula(1, ((1,), (-1,))),
    "pair": Formula(2, tuple(itertools.product((1, -1), (2, -2)))),
    "all_signs": ALL_SIGNS,
    # Variable 1 occurs in all 32 clauses.
    "frequent": Formula(5, tuple((x, y, z) for x in (1, -1) for y in (2, -2, 4, -4) for z in (3, -3, 5, -5))),
    "repeated": Formula(2, ((1, 1, 1), (-1, -1), (2, -2, 1))),
    "dense": random_formula(4, 60, seed=0),
}  # fmt: skip


@st.composite
def formulas(draw):
    """Clauses of one to three literals, which may repeat one or contain its negation; often unsatisfiable."""
    n = draw(st.integers(1, 5))
    literal = st.integers(1, n).flatmap(lambda i: st.sampled_from((i, -i)))
    clauses = draw(st.lists(st.lists(literal, min_size=1, max_size=3).map(tuple), max_size=14))
    return Formula(n, tuple(clauses))


@st.composite
def formulas_and_codes(draw):
    formula = draw(formulas())
    numbers = st.sampled_from((0.0, 1.0, 0.5)) | st.floats(-2, 3) | st.floats(-0.2, 0.2) | st.floats(0.8, 1.2)
    return formula, draw(arrays(np.float64, (8, formula.variables), elements=numbers))


def residual(task, z):
    return np.abs(task.observation - task.network(z)).max(axis=-1)


def smallest_residual(formula):
    """min over z of max(g, v), from the formula alone: one linear program for every assignment a.

    g is the smallest |z - a|_1 over all a, so the smallest of the convex minima of max(|z - a|_1, v(z)) is the answer.
    """
    n, m = formula.variables, len(formula.clauses)
    # Unknowns: z (n), d >= |z - a| (n), v (m), t; minimise t >= sum of d, sum of v.
    one, cost = np.eye(n), np.r_[np.zeros(2 * n + m), 1]
    literals, constants = np.zeros((m, n)), np.ones(m)
    for j, clause in enumerate(formula.clauses):
        for literal in set(clause):
            literals[j, abs(literal) - 1] += np.sign(literal)
            constants[j] -= literal < 0
    rows = np.block(
        [
            [one, -one, np.zeros((n, m + 1))],
            [-one, -one, np.zeros((n, m + 1))],
            [-literals, np.zeros((m, n)), -np.eye(m), np.zeros((m, 1))],
            [np.zeros(n), np.ones(n), np.zeros(m), -1],
            [np.zeros(n), np.zeros(n), np.ones(m), -1],
        ]
    )
    bounds = [(None, None)] * n + [(0, None)] * (n + m + 1)
    corners = (np.array(a) for a in itertools.product((0, 1), repeat=n))
    return min(linprog(cost, rows, np.r_[a, -a, -constants, 0, 0], bounds=bounds).fun for a in corners)


# --- the reduction ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(formulas())
def test_assignments_are_codes_of_the_observation_exactly_where_they_satisfy(formula):
    task = reduction(formula)
    assignments = np.array(list(itertools.product((False, True), repeat=formula.variables)))
    z = task.encode(assignments)
    reached = (task.network(z) == task.observation).all(axis=1)
    np.testing.assert_array_equal(reached, [formula.satisfied_by(a) for a in assignments])
    np.testing.assert_array_equal(task.decode(z), assignments)
    assert formula.satisfiable() == reached.any()
    np.testing.assert_array_equal(np.unique(formula.models(), axis=0), assignments[reached])


def test_a_larger_formula_is_reached_in_single_precision_too():
    """A planted assignment of 200 variables and 850 clauses: nothing is rounded, in whatever order sums are taken."""
    planted = np.random.default_rng(0).random(200) < 0.5
    clauses = [c for c in random_formula(200, 1000, seed=1).clauses if any(planted[abs(i) - 1] == (i > 0) for i in c)]
    task = reduction(Formula(200, tuple(clauses)))
    assert len(clauses) > 800
    for network in (task.network, task.network.to(torch.float32)):
        np.testing.assert_array_equal(network(task.encode(planted)), task.observation)
    assert task.formula.satisfied_by(planted)


@settings(max_examples=100, deadline=None)
@given(formulas_and_codes())
def test_the_residual_is_what_the_proof_says(case):
    """max(distance from the assignments, violation), computed without the network."""
    formula, z = case
    task = reduction(formula)
    distance = np.minimum(np.abs(z), np.abs(1 - z)).sum(axis=1)
    literals = [[z[:, i - 1] if i > 0 else 1 - z[:, -i - 1] for i in set(clause)] for clause in formula.clauses]
    violation = sum((np.maximum(1 - sum(values), 0) for values in literals), np.zeros(len(z)))
    np.testing.assert_allclose(residual(task, z), np.maximum(distance, violation), rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(formulas_and_codes())
def test_a_residual_below_one_half_decodes_to_a_satisfying_assignment(case):
    formula, z = case
    task = reduction(formula)
    below = residual(task, z) < SEPARATION - 1e-12
    assert all(formula.satisfied_by(a) for a in task.decode(z)[below])


@pytest.mark.parametrize("name", UNSATISFIABLE)
def test_unsatisfiable_formulas_stay_away(name):
    formula = UNSATISFIABLE[name]
    assert not formula.satisfiable()
    assert smallest_residual(formula) >= SEPARATION - 1e-9
    task, rng = reduction(formula), np.random.default_rng(0)
    centres = rng.integers(0, 2, (20000, formula.variables))
    z = centres + rng.uniform(0, 0.6, (20000, 1)) * rng.uniform(-1, 1, centres.shape)
    assert residual(task, z).min() >= SEPARATION - 1e-12
    found = unrelu.invert(task.network, task.observation, "auto", norm="linf")
    assert found.fun >= SEPARATION - 1e-9


# --- boundedness ------------------------------------------------------------------------------------------------------


def test_sizes_and_activations():
    task = reduction(random_formula(7, 11, seed=0))
    assert task.network.latent_dim == 7
    assert [layer.n_out for layer in task.network.layers] == [14, 25, 2, 2]
    assert {layer.activation.name for layer in task.network.layers} == {"relu"}
    np.testing.assert_array_equal(task.observation, [1, 1])
    with pytest.raises(ValueError, match="read-only"):
        task.observation[0] = 2


def test_what_is_no_assignment_or_code_is_refused():
    task = reduction(Formula(3, ((1, 2, 3),)))
    with pytest.raises(InputError, match=r"assignment has shape \(2,\); the formula has 3 variables, pass \(3,\) or"):
        task.encode([True, False])
    with pytest.raises(InputError, match="dtype int64; pass booleans"):
        task.encode([1, -2, 3])
    with pytest.raises(InputError, match=r"shape \(1, 3\); the formula has 3 variables, pass \(3,\)$"):
        task.formula.satisfied_by([[True, True, True]])
    with pytest.raises(InputError, match=r"z has shape \(4,\); the formula has 3 variables, pass \(3,\) or \(B, 3\)"):
        task.decode(np.zeros(4))
    with pytest.raises(InputError, match="1 of 3 entries of z are NaN"):
        task.decode([0, np.nan, 1])


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "clauses", "message"),
    [
        (0, (), "a formula of 0 variables"),
        (2, ((1,), ()), r"clause 2, \(\), has 0 literals; it needs 1 to 3"),
        (4, ((1, 2, 3, 4),), r"clause 1, \(1, 2, 3, 4\), has 4 literals"),
        (2, ((1, -3),), r"clause 1, \(1, -3\): literal -3 is out of range; the variables are 1 to 2"),
        (2, ((1, 0),), "literal 0 is out of range"),
    ],
)
def test_what_is_no_formula_is_refused(variables, clauses, message):
    with pytest.raises(InputError, match=message):
        Formula(variables, clauses)


def test_random_formulas_are_of_distinct_variables_of_both_signs():
    formula = random_formula(6, 400, seed=3)
    assert len(formula.clauses) == 400
    assert all(len({abs(i) for i in clause}) == 3 for clause in formula.clauses)
    counts = np.bincount(6 + np.ravel(formula.clauses), minlength=13)
    assert counts[6] == 0
    # 1200 literals of 12 kinds: 100 of each, deviation 10.
    assert (np.abs(np.delete(counts, 6) - 100) < 40).all()
    assert formula == random_formula(6, 400, seed=3) != random_formula(6, 400, seed=4)
    for variables, clauses in ((2, 1), (3, -1)):
        with pytest.raises(InputError, match=f"{variables} variables and {clauses} clauses"):
            random_formula(variables, clauses, seed=0)


# --- Example 1 --------------------------------------------------------------------------------------------------------


def test_the_midpoint_of_two_codes_of_an_observation_is_no_code_of_it():
    example = example_1()
    assert len(example.network.layers) == 2
    np.testing.assert_array_equal(example.network(example.codes), [example.observation] * 2)
    np.testing.assert_array_equal(example.network(example.codes.mean(axis=0)), [0, 1])


def test_the_preimage_is_the_square_ring():
    example = example_1()
    z = np.random.default_rng(0).uniform(-3, 3, (2000, 2))
    norm = np.abs(z).sum(axis=1)
    reached = (example.network(z) == example.observation).all(axis=1)
    np.testing.assert_array_equal(reached, (norm >= 1) & (norm <= 2))
    assert 0 < reached.sum() < 2000
