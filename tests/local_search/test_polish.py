"""Polishing: from an optimum in single precision to the same one in double."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import least_squares

from tests.support import random_network
from unrelu import zoo
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps, chord_steps, polish
from unrelu.local_search.squared_error import MixedSquaredError, SquaredError
from unrelu.problem import Problem

K, N, B = 4, 40, 3
MASKS = np.random.default_rng(0).random((B, N)) < 0.8


def noisy(activation="tanh", seed=1, noise=0.1, **options):
    network = random_network((K, 15, N), activation, seed, bias=True)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((B, K))
    y = network(truth) + noise * rng.standard_normal((B, N))
    return Problem.build(network, y, **options), truth


def in_single(problem, z):
    """Codes near z that are optimal in single precision, and J^T J (plus the prior) there."""
    single = SquaredError.of(problem, problem.network.to(torch.float32))
    state = LevenbergMarquardtSteps(single, single.tensor(z), torch.arange(len(z)), tiny_decrease=1e-7).run(50)
    return state.z.double(), state.gram


def polished(problem, z, gram, exact=None):
    exact = torch.full((len(z),), -1.0, dtype=torch.float64) if exact is None else exact
    return polish(SquaredError.of(problem), z, torch.arange(len(z)), gram, exact)


def optimum(problem, i, start):
    """The code that SciPy finds for an observation, to the last digits."""
    part = problem.part(np.array([i]))
    kept, weight = part.operator.seen(1)[0], problem.prior**0.5
    network = problem.network

    def residual(z):
        return np.concatenate([part.residual(z[None, :])[0][kept], weight * z])

    def jacobian(z):
        return np.vstack([-network.jacobian(z)[kept], weight * np.eye(K)])

    return least_squares(residual, start, jac=jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15).x


@pytest.mark.parametrize("options", [{}, {"prior": 0.5}, {"operator": MASKS}, {"operator": MASKS[0], "prior": 0.1}])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_smooth_networks_reach_the_optimum_in_double_precision(activation, options):
    problem, truth = noisy(activation, noise=0.02, **options)
    start, gram = in_single(problem, truth)
    z, f, arrived = polished(problem, start, gram)
    assert arrived.all()
    expected = np.array([optimum(problem, i, code) for i, code in enumerate(start.numpy())])
    before = np.abs(start.numpy() - expected).max()
    after = np.abs(z.numpy() - expected).max()
    assert after <= 1e-7
    assert after <= 0.05 * before
    np.testing.assert_allclose(f, problem.objective(z.numpy()), rtol=1e-13)
    assert SquaredError.of(problem).gradient(z, torch.arange(B))[1].abs().max() <= 2e-6


def test_on_one_linear_piece_it_is_the_least_squares_solution():
    problem, truth = noisy("relu", seed=3, noise=1e-3)
    start, gram = in_single(problem, truth)
    z, _, arrived = polished(problem, start, gram)
    assert arrived.all()
    network = problem.network
    for code, begin, y in zip(z.numpy(), start.numpy(), problem.y, strict=True):
        assert all((a == b).all() for a, b in zip(network.pattern(begin), network.pattern(code), strict=True))
        jacobian = network.jacobian(code)
        expected = np.linalg.lstsq(jacobian, y - network(code) + jacobian @ code, rcond=None)[0]
        np.testing.assert_allclose(code, expected, atol=1e-10)


def test_the_prior_makes_it_ridge_regression_on_an_affine_map():
    problem, truth = noisy("identity", prior=0.7)
    start, gram = in_single(problem, truth)
    z, _, arrived = polished(problem, start, gram)
    assert arrived.all()
    (w, a), (v, b) = [(layer.matrix(), layer.bias()) for layer in problem.network.layers]
    expected = np.linalg.solve((v @ w).T @ (v @ w) + 0.7 * np.eye(K), (v @ w).T @ (problem.y - v @ a - b).T).T
    np.testing.assert_allclose(z, expected, atol=1e-10)


def test_exact_data_is_fitted_to_the_last_digit():
    problem, truth = noisy("leaky_relu:0.2", noise=0.0)
    start, gram = in_single(problem, truth + 1e-4)
    exact = 1e-30 * torch.tensor(problem.y).square().sum(dim=1)
    z, f, arrived = polished(problem, start, gram, exact)
    assert arrived.all()
    assert (f <= exact).all()
    np.testing.assert_allclose(z, truth, atol=1e-13)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_codes_of_digits_found_in_single_precision_are_finished_unless_they_rest_at_a_kink(noise):
    network, rng = zoo.load("mnist-relu"), np.random.default_rng(2)
    truth = rng.standard_normal((8, network.latent_dim))
    x = network(truth)
    problem = Problem.build(network, x + noise * rng.standard_normal(x.shape))
    start, gram = in_single(problem, truth + 1e-3)
    z, f, arrived = polished(problem, start, gram, 1e-30 * torch.tensor(problem.y).square().sum(dim=1))
    assert (f.numpy() <= problem.objective(start.numpy()) * (1 + 1e-12)).all()
    slopes = SquaredError.of(problem).gradient(z, torch.arange(8))[1].abs().amax(dim=1)
    assert torch.equal(arrived, slopes <= 1e-7)
    if noise:
        assert 0 < arrived.sum() < 8
    else:
        np.testing.assert_allclose(z, truth, atol=1e-12)


# --- what it promises wherever it starts ------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 999),
    activation=st.sampled_from(["relu", "leaky_relu:0.2", "tanh"]),
    scale=st.sampled_from([1e-3, 0.3, 1.0, 30.0]),
    prior=st.sampled_from([0.0, 0.5]),
)
def test_f_never_rises_however_wrong_the_start_and_the_matrix(seed, activation, scale, prior):
    problem, truth = noisy(activation, seed, prior=prior)
    start = torch.from_numpy(truth + np.random.default_rng(seed).standard_normal((B, K)))
    gram = scale * SquaredError.of(problem).system(start, torch.arange(B))[0]
    begin, h = start.clone(), gram.clone()
    z, f, _ = polished(problem, start, gram)
    assert torch.equal(start, begin)  # the caller's tensors are left alone
    assert torch.equal(gram, h)
    before = problem.objective(start.numpy())
    np.testing.assert_allclose(f, problem.objective(z.numpy()), rtol=1e-10)
    assert (f.numpy() <= before * (1 + 1e-12)).all()
    stayed = f.numpy() == before
    assert torch.equal(z[stayed], start[stayed])


def test_arrived_means_that_no_further_step_gains_anything():
    problem, truth = noisy()
    start, gram = in_single(problem, truth)
    # The second starts far away, the third has a matrix far too large: eight steps do not bring them to an end.
    start[1] += 3.0
    gram[2] *= 50
    z, f, arrived = polished(problem, start, gram)
    assert arrived.tolist() == [True, False, False]
    further = LevenbergMarquardtSteps(
        SquaredError.of(problem), z, torch.arange(B), damping=1e-8, tiny_decrease=0.0
    ).run(20)
    gain = 1 - further.f / f
    assert gain[0] <= 1e-12
    assert gain[1] > 1e-3
    assert f[2] < problem.objective(start.numpy())[2]


def test_a_matrix_far_too_small_overshoots_and_leaves_the_code_where_it_is():
    problem, truth = noisy()
    start, gram = in_single(problem, truth)
    start = start + 0.01
    z, f, arrived = polished(problem, start, 1e-2 * gram)
    assert not arrived.any()
    assert torch.equal(z, start)
    np.testing.assert_allclose(f, problem.objective(start.numpy()), rtol=1e-13)


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_a_matrix_that_is_not_positive_definite_leaves_the_code_where_it_is(value):
    problem, truth = noisy()
    start, gram = in_single(problem, truth)
    gram[1] = value * torch.eye(K)
    z, _, arrived = polished(problem, start, gram)
    assert arrived.tolist() == [True, False, True]
    assert torch.equal(z[1], start[1])
    assert not torch.equal(z[0], start[0])


def test_codes_that_fit_have_arrived_and_are_not_touched():
    problem, truth = noisy()
    start, gram = in_single(problem, truth)
    f0 = torch.tensor(problem.objective(start.numpy()))
    exact = torch.stack([f0[0] * 1.01, f0[1] * 0.1, f0[2] * 1.01])
    z, _, arrived = polished(problem, start, gram, exact)
    assert arrived.tolist() == [True, True, True]
    assert [torch.equal(a, b) for a, b in zip(z, start, strict=True)] == [True, False, True]


def test_several_codes_for_an_observation_are_polished_on_their_own():
    problem, truth = noisy()
    start, gram = in_single(problem, truth)
    rows = torch.tensor([2, 0, 2])
    each = torch.full((3,), -1.0, dtype=torch.float64)
    z, f, arrived = polish(SquaredError.of(problem), start[rows] + 1e-5, rows, gram[rows], each)
    assert arrived.all()
    whole = polished(problem, start, gram)
    np.testing.assert_allclose(z, whole[0][rows], atol=1e-7)
    np.testing.assert_allclose(f, whole[1][rows], rtol=1e-12)


def test_chord_steps_reach_an_exact_fit_from_single_precision():
    network = random_network((K, 15, N), "tanh", 3, bias=True)
    truth = np.random.default_rng(3).standard_normal((B, K))
    problem = Problem.build(network, network(truth))
    single = SquaredError.of(problem, network.to(torch.float32))
    start, rows = torch.from_numpy(truth) + 1e-4, torch.arange(B)
    objective = MixedSquaredError(SquaredError.of(problem), single)
    z, f, arrived = chord_steps(objective, start, rows, torch.zeros(B, dtype=torch.float64))
    assert arrived.all()
    np.testing.assert_allclose(z, truth, atol=1e-12)
    assert (f <= 1e-26 * objective.y.square().sum(dim=1)).all()


def test_chord_steps_do_not_claim_a_fit_of_noise():
    problem, truth = noisy()
    single = SquaredError.of(problem, problem.network.to(torch.float32))
    objective = MixedSquaredError(SquaredError.of(problem), single)
    start, rows = torch.from_numpy(truth), torch.arange(B)
    _, f, arrived = chord_steps(objective, start, rows, torch.zeros(B, dtype=torch.float64))
    assert not arrived.any()
    assert (f <= objective.double.values(start, rows)).all()
