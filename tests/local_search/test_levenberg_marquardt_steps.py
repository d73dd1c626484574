"""Damped Newton steps: the system they solve, the damping, and when a code is finished."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import EPS, random_network
from unrelu.local_search.damping import LEAST_FACTOR
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem

K, N, B = 3, 25, 4


def noisy(activation="tanh", seed=1, noise=0.1, operator=None, prior=0.0):
    """A problem of B observations, and codes near their true ones."""
    network = random_network((K, 12, N), activation, seed, bias=True)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((B, K))
    x = network(truth)
    y = x if operator is None or operator.dtype == bool else x @ operator.T
    y = y + noise * rng.standard_normal(y.shape)
    return Problem.build(network, y, operator=operator, prior=prior), truth + 0.1 * rng.standard_normal((B, K))


def descent(problem, z, rows=None, **options):
    rows = torch.arange(len(z)) if rows is None else torch.tensor(rows)
    objective = SquaredError.of(problem)
    return LevenbergMarquardtSteps(objective, objective.tensor(z), rows, **options)


def seen(problem, i, matrix):
    """A M for the operator A of an observation, in NumPy."""
    operator = problem.operator.take(np.array([i]))
    return operator.forward(torch.tensor(matrix.T.copy())).numpy().T


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [0.0, 0.7])
@pytest.mark.parametrize("measured", ["whole", "mask", "masks", "matrix"])
def test_a_step_solves_the_damped_system(measured, prior):
    rng = np.random.default_rng(0)
    operator = {"whole": None, "mask": rng.random(N) < 0.7, "masks": rng.random((B, N)) < 0.7,
                "matrix": rng.standard_normal((10, N))}[measured]  # fmt: skip
    problem, z = noisy(operator=operator, prior=prior)
    damping = torch.tensor([0.01, 0.1, 1.0, 5.0], dtype=torch.float64)
    state = descent(problem, z, damping=damping)
    before = state.f.clone()
    state.run(1)
    assert (state.f < before).all()
    r = problem.residual(z)
    for i in range(B):
        jacobian = seen(problem, i, problem.network.jacobian(z[i]))
        system = jacobian.T @ jacobian + (prior + float(damping[i])) * np.eye(K)
        step = np.linalg.solve(system, jacobian.T @ r[i] - prior * z[i])
        np.testing.assert_allclose(state.z[i], z[i] + step, atol=1e-10)
    np.testing.assert_allclose(before, problem.objective(z), rtol=1e-12)
    np.testing.assert_allclose(state.f, problem.objective(state.z.numpy()), rtol=1e-12)


def test_damping_follows_how_much_of_its_promise_a_step_keeps():
    """mu max(0.03, 1 - (2 rho - 1)^3), rho the fall of f over that of its quadratic model."""
    problem, z = noisy(seed=2, noise=1.0)
    state = descent(problem, 2 * z, damping=0.3)
    begin, f, mu, gram, gradient = (getattr(state, name).clone() for name in ("z", "f", "damping", "gram", "gradient"))
    state.run(1)
    step = state.z - begin
    model = -2 * (gradient * step).sum(dim=1) - torch.einsum("bi,bij,bj->b", step, gram, step)
    rho = (f - state.f) / model
    assert ((rho > 0.5) & (rho < 0.95)).any()
    torch.testing.assert_close(state.damping / mu, (1 - (2 * rho - 1) ** 3).clamp_min(LEAST_FACTOR))


# --- a descent --------------------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    activation=st.sampled_from(["relu", "leaky_relu:0.2", "tanh", "sigmoid"]),
    damping=st.sampled_from([1e-8, 1e-2, 10.0]),
    prior=st.sampled_from([0.0, 1.0]),
)
def test_the_objective_never_rises(seed, activation, damping, prior):
    problem, z = noisy(activation, seed, noise=0.5, prior=prior)
    objective, start = SquaredError.of(problem), torch.tensor(3 * z)
    options = {"damping": damping, "tiny_decrease": 1e-6}
    state = LevenbergMarquardtSteps(objective, start, torch.arange(B), **options)
    for _ in range(15):
        before, codes, tried = state.f.clone(), state.z.clone(), state.steps.clone()
        state.run(1)
        assert (state.f <= before * (1 + 1e-12)).all()
        assert (state.z == codes)[state.steps == tried].all()
        np.testing.assert_allclose(state.f, problem.objective(state.z.numpy()), rtol=1e-9)
    np.testing.assert_array_equal(start, 3 * z)  # the caller's codes are left alone


def test_what_is_found_does_not_depend_on_the_others_in_the_batch():
    """Two steps that each lower f by a share of 1e-3: the fall of later ones is no more than the rounding of f."""
    problem, z = noisy("leaky_relu:0.2", seed=4)
    together, alone = (
        descent(problem, 2 * z, damping=1e-2),
        [descent(problem.part(np.array([i])), 2 * z[i : i + 1], damping=1e-2) for i in range(B)],
    )
    least_fall, steps = 1e-3, 2
    for _ in range(steps):
        before = together.f.clone()
        for state in (together, *alone):
            state.run(1)
        assert (together.f <= (1 - least_fall) * before).all()
    for state in (together, *alone):
        state.refresh(torch.arange(len(state.z)))
    # Sums of N products are rounded by N eps; the solution of a step's system multiplies that by its condition number.
    # The damping is 1 - (2 rho - 1)^3, of a derivative up to 6, and rho has the rounding of f relative to its fall.
    condition = float(torch.linalg.cond(together.gram).max())
    assert condition < 100
    rounding = steps * N * EPS * max(condition, 6 / least_fall)
    for name in ("z", "f", "gram", "gradient", "damping"):
        each = torch.cat([getattr(one, name) for one in alone])
        scale = float((together.gram.norm() * together.z.norm()) if name == "gradient" else each.abs().max())
        np.testing.assert_allclose(getattr(together, name), each, rtol=0, atol=rounding * scale)
    assert together.steps.tolist() == [int(one.steps) for one in alone]


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_code_is_finished_as_soon_as_its_objective_is_small_enough():
    problem, z = noisy(seed=7)
    free = [descent(problem, z).run(steps).f for steps in range(30)]
    start, end = free[0], free[-1]
    enough = torch.stack([2 * start[0], 0.5 * (start[1] + end[1]), 0.5 * end[2], -torch.ones(())])
    state = descent(problem, z, enough=enough)
    assert state.done.tolist() == [True, False, False, False]
    state.run(29)
    needed = next(steps for steps, f in enumerate(free) if f[1] <= enough[1])
    assert state.steps.tolist()[:2] == [0, needed]
    assert 0 < needed < state.steps[2]
    np.testing.assert_array_equal(state.z[0], z[0])
    np.testing.assert_allclose(state.f[2:], end[2:], rtol=1e-12)


def test_dead_codes_are_flat_and_finish():
    network = random_network((K, 12, N), seed=1)
    problem = Problem.build(network, network(np.ones((2, K))) + 0.1)
    state = descent(problem, np.array([np.zeros(K), np.ones(K)])).run(40)
    assert state.flat().tolist() == [True, False]
    assert state.done[0]
    np.testing.assert_array_equal(state.z[0], np.zeros(K))
    fits = descent(problem, np.zeros((1, K)), enough=torch.tensor([1e9]))
    assert not fits.flat().any()


@pytest.mark.parametrize("start", [np.nan, np.inf, 1e300])
def test_codes_beyond_the_range_of_numbers_leave_the_others_alone(start):
    problem, z = noisy("leaky_relu:0.2", seed=11)
    z[1] = start
    state = descent(problem, z).run(10)
    assert not state.f[1] < 1e100
    others = np.array([0, 2, 3])
    alone = descent(problem.part(others), z[others]).run(10)
    np.testing.assert_allclose(state.f[others], alone.f, rtol=1e-9)
