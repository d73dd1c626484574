"""Descent in l1 and linf: local optima against enumeration of pieces, global ones of affine nets against linprog."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

import unrelu
from tests.support import image_network, random_network
from unrelu.errors import OptionError
from unrelu.local_search.norm_descent import NormDescent
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.problem import Problem
from unrelu.result import Ending, Status

NORMS = ("l1", "linf")
both_norms = pytest.mark.parametrize("norm", NORMS)


def norm_program(matrix, offset, target, norm, sides=None, ends=None):
    """The minimum of |target - matrix z - offset| with ``sides = (B, b)``: B z <= b, ``ends`` of z, by linprog."""
    n, k = matrix.shape
    errors = np.eye(n) if norm == "l1" else np.ones((n, 1))
    r = target - offset
    a, b = np.block([[matrix, -errors], [-matrix, -errors]]), np.concatenate([r, -r])
    if sides is not None:
        a = np.vstack([a, np.hstack([sides[0], np.zeros((len(sides[0]), errors.shape[1]))])])
        b = np.concatenate([b, sides[1]])
    cost = np.concatenate([np.zeros(k), np.ones(errors.shape[1])])
    bounds = [*(zip(*ends, strict=True) if ends else [(None, None)] * k), *[(0, None)] * errors.shape[1]]
    found = linprog(cost, A_ub=a, b_ub=b, bounds=bounds, method="highs")
    return found.fun if found.status == 0 else math.inf


def on_piece(network, pattern, y, norm, ends=None):
    """The minimum over the codes with the given signs of all neurons, one array a layer."""
    matrix, offset = np.eye(network.latent_dim), np.zeros(network.latent_dim)
    rows, sides = [], []
    for layer, on in zip(network.layers, pattern, strict=True):
        matrix, offset = layer.matrix() @ matrix, layer.matrix() @ offset + layer.bias()
        sign = np.where(on, -1.0, 1.0)
        rows.append(sign[:, None] * matrix)
        sides.append(-sign * offset)
        slope = np.where(on, 1.0, layer.activation.slope)
        matrix, offset = slope[:, None] * matrix, slope * offset
    return norm_program(matrix, offset, y, norm, (np.vstack(rows), np.concatenate(sides)), ends)


def touching_pieces(network, z, at_kink=1e-7):
    """Every sign pattern whose piece has z in its closure."""
    states, x = [], z
    for layer in network.layers:
        u = layer.matrix() @ x + layer.bias()
        states.append([(True, False) if abs(v) <= at_kink else (v > 0,) for v in u])
        x = layer.activation.value(u)
    sizes = [len(s) for s in states]
    for signs in itertools.product(*itertools.chain.from_iterable(states)):
        yield [np.array(part) for part in np.split(np.array(signs), np.cumsum(sizes)[:-1])]


def no_better_direction(problem, z, norm, rng, size=1e-5, share=1e-6, count=400):
    """No random direction, nor one along a coordinate, lowers the objective by more than a share of itself."""
    k = len(z)
    d = np.vstack([rng.standard_normal((count, k)), np.eye(k), -np.eye(k)])
    d *= size / np.linalg.norm(d, axis=1, keepdims=True)
    one = problem.part(np.zeros(len(d), dtype=np.intp))
    values, here = one.objective(problem.bounds.clip(z + d), norm), problem.objective(z[None, :], norm)[0]
    return bool((values >= here - share * size * max(here, 1.0)).all())


@both_norms
@pytest.mark.parametrize("activation", ["relu", "leaky_relu:0.2"])
@pytest.mark.parametrize("bounded", [False, True])
def test_most_codes_are_optimal_on_all_pieces_that_touch_them(norm, activation, bounded):
    """A kink may hold a code that is stationary on its own side alone."""
    excess = np.concatenate([_excess(norm, seed, activation, bounded) for seed in range(6)])
    assert (excess >= -1e-6).all()
    assert (excess <= 1e-6).mean() >= 0.6
    assert (excess <= 0.01).mean() >= 0.8


def _excess(norm, seed, activation, bounded):
    """By how much descents end above the best of all pieces that touch their codes, relative to 1 or the objective."""
    network = random_network((2, 4, 3, 6), activation=activation, seed=seed, bias=True)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(2)
    y = network(truth) + 0.3 * rng.standard_normal((4, 6))
    ends = box_around(rng, truth) if bounded else None
    problem = Problem.build(network, y, norm=norm, bounds=ends)
    z, status, _ = NormDescent().minimise(problem, problem.bounds.clip(rng.standard_normal((4, 2))))
    assert set(status) <= {Status.CONVERGED, Ending.FLAT, Ending.ITERATION_LIMIT}
    assert (z == problem.bounds.clip(z)).all()
    excess = []
    for code, observed, value in zip(z, y, problem.objective(z), strict=True):
        best = min(on_piece(network, pattern, observed, norm, ends) for pattern in touching_pieces(network, code))
        excess.append((value - best) / max(1.0, value))
    return excess


def affine_problem(norm, kind, rng, batch=3):
    """An affine network, an operator of some kind, and the matrix and offset of what is observed."""
    weight, bias, n = rng.standard_normal((12, 3)), rng.standard_normal(12), 12
    network = Network.chain([Dense(*map(_tensor, (weight, bias)))], (3,))
    z = rng.standard_normal((batch, 3))
    operator = {
        "whole": None,
        "mask": rng.random(n) < 0.7,
        "masks": rng.random((batch, n)) < 0.7,
        "matrix": rng.standard_normal((8, n)),
        "sparse": sparse.random_array((9, n), density=0.4, rng=rng),
        "picks": np.eye(n)[[1, 5, 0, 7, 11, 2]],
    }[kind]
    see = {"whole": lambda x: x, "mask": lambda x: x, "masks": lambda x: x}.get(kind, lambda x: x @ operator.T)
    y = see(network(z)) + 0.3 * rng.standard_normal(see(network(z)).shape)
    problem = Problem.build(network, y, norm=norm, operator=operator)
    matrices = []
    for i in range(batch):
        if kind in ("whole", "mask", "masks"):
            kept = problem.operator.seen(batch)[i]
            matrices.append((weight[kept], bias[kept], y[i][kept]))
        else:
            matrices.append((operator @ weight, operator @ bias, y[i]))
    return problem, matrices


def _tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


@both_norms
@pytest.mark.parametrize("kind", ["whole", "mask", "masks", "matrix", "sparse", "picks"])
def test_affine_networks_are_solved_globally(norm, kind):
    rng = np.random.default_rng(3)
    problem, parts = affine_problem(norm, kind, rng)
    z, status, programs = NormDescent().minimise(problem, 3 * rng.standard_normal((problem.size, 3)))
    assert set(status) == {Status.CONVERGED}
    assert programs.max() <= 12
    for value, (matrix, offset, y) in zip(problem.objective(z), parts, strict=True):
        assert value == pytest.approx(norm_program(matrix, offset, y, norm), rel=1e-7)


# --- within bounds ----------------------------------------------------------------------------------------------------


def box_around(rng, truth, share=0.4):
    """Bounds that hold some coordinates of a code and not others, as arrays, a few of them infinite."""
    near = truth + rng.uniform(-0.5, 0.5, len(truth))
    lower, upper = near - share, near + share
    lower[rng.random(len(truth)) < 0.2] = -np.inf
    upper[rng.random(len(truth)) < 0.2] = np.inf
    return lower, upper


@both_norms
@pytest.mark.parametrize("kind", ["whole", "mask", "matrix"])
def test_affine_networks_are_solved_globally_within_bounds(norm, kind):
    rng = np.random.default_rng(3)
    problem, parts = affine_problem(norm, kind, rng, batch=8)
    lower, upper = np.array([-0.3, 0.2, -np.inf]), np.array([0.5, np.inf, 0.1])
    problem = replace(problem, bounds=Bounds(lower, upper))
    z0 = np.clip(3 * rng.standard_normal((problem.size, 3)), lower, upper)
    z, status, programs = NormDescent().minimise(problem, z0)
    assert set(status) == {Status.CONVERGED}
    assert programs.max() <= 12
    assert np.abs(problem.bounds.active(z)).sum() >= 6
    for value, (matrix, offset, y) in zip(problem.objective(z), parts, strict=True):
        best = norm_program(matrix, offset, y, norm, ends=(lower, upper))
        assert value == pytest.approx(best, rel=1e-7)


@both_norms
def test_an_optimum_at_a_bound_is_recognised_by_auto_and_lies_on_it_to_the_bit(norm):
    network = random_network((4, 16, 40), seed=2, bias=True)
    rng = np.random.default_rng(2)
    truth = rng.uniform(-1, 1, (8, 4))
    y = network(truth + 0.3 * (truth > 0.5)) + 0.05 * rng.standard_normal((8, 40))
    result = unrelu.invert(network, y, norm=norm, bounds=(-1, [0.6, 1.0, 1.0, 1.0]))
    assert np.abs(result.active_bounds).any(axis=1).sum() >= 3
    assert (result.status == Status.CONVERGED).all()
    one = Problem.build(network, y, norm=norm, bounds=(-1, [0.6, 1.0, 1.0, 1.0]))
    optimal = [no_better_direction(one.part(np.array([i])), code, norm, rng) for i, code in enumerate(result.z)]
    assert sum(optimal) >= 7


@st.composite
def searches(draw):
    """A small network, a measurement, noisy observations and starts."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    k = draw(st.integers(1, 4))
    hidden = draw(st.lists(st.integers(2, 8), min_size=0, max_size=2))
    n = draw(st.integers(k + 1, 15))
    activation = draw(st.sampled_from(("relu", "leaky_relu:0.3", "identity")))
    last = draw(st.sampled_from((None, "identity", "relu", "leaky_relu:0.1")))
    network = random_network((k, *hidden, n), activation, seed % 1000, bias=draw(st.booleans()), last=last)
    operator = {"whole": None, "mask": np.arange(n) % 3 > 0, "matrix": rng.standard_normal((max(2, n - 2), n))}[
        draw(st.sampled_from(("whole", "mask", "matrix")))
    ]
    x = network(rng.standard_normal((2, k)))
    x = x @ operator.T if operator is not None and operator.ndim == 2 else x
    y = x + draw(st.sampled_from((0.0, 0.01, 0.5))) * rng.standard_normal(x.shape)
    ends = box_around(rng, rng.standard_normal(k)) if draw(st.booleans()) else None
    problem = Problem.build(network, y, norm=draw(st.sampled_from(NORMS)), operator=operator, bounds=ends)
    return problem, problem.bounds.clip(rng.standard_normal((2, k)))


@given(searches())
@settings(max_examples=40)
def test_no_code_is_worse_than_its_start(search):
    problem, z0 = search
    before = z0.copy()
    z, status, programs = NormDescent().minimise(problem, z0)
    np.testing.assert_array_equal(z0, before)
    assert (problem.objective(z) <= problem.objective(z0)).all()
    assert (programs <= NormDescent().max_programs + 12).all()
    assert set(status) <= {Status.CONVERGED, Ending.FLAT, Ending.ITERATION_LIMIT}
    assert (z == problem.bounds.clip(z)).all()


@both_norms
@pytest.mark.parametrize("kind", ["conv", "sigmoid", "tanh"])
def test_smooth_networks_end_at_stationary_points(norm, kind):
    network = image_network() if kind == "conv" else random_network((3, 12, 30), activation=kind, seed=2)
    rng = np.random.default_rng(4)
    truth = rng.standard_normal((3, 3))
    x = network(truth).reshape(3, -1)
    y = (x + 0.02 * rng.standard_normal(x.shape)).reshape(3, *network.output_shape)
    problem = Problem.build(network, y, norm=norm)
    z, status, _ = NormDescent(max_programs=300).minimise(problem, truth + 0.3 * rng.standard_normal((3, 3)))
    assert list(status).count(Status.CONVERGED) >= 2
    for i in np.flatnonzero(status == Status.CONVERGED):
        assert no_better_direction(problem.part(np.array([i])), z[i], norm, rng, share=1e-4)


def hard_problem(**options):
    network = random_network((10, 60, 200), seed=7)
    rng = np.random.default_rng(7)
    y = network(rng.standard_normal((40, 10))) + 0.1 * rng.standard_normal((40, 200))
    return Problem.build(network, y, norm="l1", **options), rng.standard_normal((40, 10))


def test_the_callback_is_asked_before_every_round_and_stops_the_rest():
    heard = []
    problem, z0 = hard_problem(callback=lambda p: heard.append((p.done, p.total)) or len(heard) == 3)
    z, status, programs = NormDescent().minimise(problem, z0)
    assert len(heard) == 3
    assert all(total == 40 for _, total in heard)
    assert Status.STOPPED in status
    assert programs.max() == 2
    assert (problem.objective(z) <= problem.objective(z0)).all()


def test_starts_that_are_not_numbers_are_told():
    problem, z0 = hard_problem()
    problem = problem.part(np.arange(3))
    z0 = z0[:3].copy()
    z0[0, 2], z0[2] = np.nan, 1e300
    z, status, programs = NormDescent().minimise(problem, z0)
    assert status[0] is Ending.NO_CODE
    assert status[1] is Status.CONVERGED
    assert status[2] is not Status.CONVERGED or np.isfinite(z[2]).all()
    assert programs[0] == 0
    np.testing.assert_array_equal(z[0], z0[0])


def test_a_code_with_all_neurons_off_is_flat():
    network = Network.chain(
        [Dense(_tensor(np.eye(2)), _tensor(np.full(2, -1.0))), Activation("relu"), Dense(_tensor(np.ones((3, 2))))],
        (2,),
    )
    problem = Problem.build(network, np.ones((1, 3)), norm="l1")
    z, status, _ = NormDescent().minimise(problem, np.zeros((1, 2)))
    assert status[0] is Ending.FLAT
    np.testing.assert_array_equal(z, np.zeros((1, 2)))


def test_options_are_checked():
    with pytest.raises(OptionError, match="max_programs=0"):
        NormDescent(max_programs=0)
