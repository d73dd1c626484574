"""Projected gradient: its step, its projections, its prior, and what is kept of its iterates."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import EPS, lm_reach, paper_network, random_network
from unrelu.errors import InputError, OptionError, SolverError, UnsupportedModelError
from unrelu.layerwise import LInf
from unrelu.local_search.starts import LAYER_METHODS
from unrelu.result import Status

K, N = 4, 120
NETWORK = random_network((K, 30, N), seed=1)
RNG = np.random.default_rng(1)
TRUTH = RNG.standard_normal((3, K))
MASK = RNG.random(N) < 0.7
MATRIX = RNG.standard_normal((80, N)) / 9


def masked(**options):
    return unrelu.invert(NETWORK, NETWORK(TRUTH), "projected", operator=MASK, **options)


@pytest.mark.parametrize("projection", ["linf", "l1", "relaxed", "least_squares", "exact", "lm"])
def test_a_single_step_is_the_inversion_of_the_back_projection(projection):
    """Without biases G(t z) = t G(z), so that for orthogonal A the back-projection t A^T A G(z) has the code t z.

    What is outside the range of G has a nearest code, but to reach it searches go along kinks, where rounding decides
    which of two pieces comes next: there two inversions of one observation need not agree. The generator is nearly
    linear, so that every start leads to the code.
    """
    network, step = random_network((K, 30, N), activation="leaky_relu:0.5", seed=1), 0.3
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((N, N)))[0]
    y = network(TRUTH) @ rotation.T
    options = {"operator": rotation, "projection": projection, "step": step, "max_iterations": 1}
    result = unrelu.invert(network, y, "projected", **options)
    expected = unrelu.invert(network, step * y @ rotation, projection)
    # Sums of N products are rounded by N eps |y|, each layer's inverse hands that on times its condition number, and
    # layers are solved up to 1e-9 of their largest output.
    condition = np.prod([np.linalg.cond(layer.matrix()) for layer in network.layers]) / 0.5**2
    tolerance = (1e-9 + N * EPS) * condition * np.abs(TRUTH).max()
    np.testing.assert_allclose(expected.z, step * TRUTH, rtol=0, atol=tolerance)
    np.testing.assert_allclose(result.z, step * TRUTH, rtol=0, atol=tolerance)
    assert result.nit.tolist() == [1, 1, 1]


def test_from_given_codes_the_first_step_starts_at_their_image():
    z0 = TRUTH + 0.3
    result = masked(projection="least_squares", step=0.7, max_iterations=1, z0=z0)
    x = NETWORK(z0)
    u = x + 0.7 * MASK * (NETWORK(TRUTH) - x)
    np.testing.assert_allclose(result.z, unrelu.invert(NETWORK, u, "least_squares").z, rtol=1e-9)


@pytest.mark.parametrize("projection", ["linf", "l1", "relaxed", "least_squares", "lm", "adam"])
def test_it_fits_what_was_observed_better_than_one_projection(projection):
    once = masked(projection=projection, step=1.0, max_iterations=1)
    often = masked(projection=projection, step=1.0, max_iterations=8)
    # Where neurons that are switched wrongly stay so, it comes less far.
    assert (often.residual() < once.residual()).all()
    assert often.residual().mean() < 0.6 * once.residual().mean()


def test_the_exact_projection_passes_over_what_is_missing():
    """It solves the rows with a positive output, and a missing entry is 0 in the first step."""
    result = masked(projection="exact", step=1.0, max_iterations=1)
    assert set(result.status) == {Status.EXACT_FIT}


@pytest.mark.parametrize("projection", ["linf", "lm"])
def test_missing_entries_are_found(projection):
    result = masked(projection=projection, step=1.0, max_iterations=200, z0=TRUTH + 0.1)
    np.testing.assert_allclose(result.z, TRUTH, atol=1e-5)
    np.testing.assert_allclose(result.reconstruction, NETWORK(TRUTH), atol=1e-5)


def test_an_operator_given_as_functions_is_that_of_its_matrix():
    y = NETWORK(TRUTH) @ MATRIX.T
    options = {"projection": "lm", "step": 0.3, "max_iterations": 3}
    functions = (lambda x: MATRIX @ x, lambda r: MATRIX.T @ r)
    by_matrix = unrelu.invert(NETWORK, y, "projected", operator=MATRIX, **options)
    by_code = unrelu.invert(NETWORK, y, "projected", operator=functions, **options)
    np.testing.assert_allclose(by_code.z, by_matrix.z, rtol=1e-7)


def test_with_a_prior_it_is_the_proximal_gradient_step():
    rng = np.random.default_rng(3)
    w, a, y = rng.standard_normal((30, 3)), rng.standard_normal((12, 30)) / 6, rng.standard_normal(12)
    network, step, prior = unrelu.from_arrays([w], activation="identity"), 0.4, 0.7
    options = {"operator": a, "projection": "lm", "prior": prior, "step": step, "max_iterations": 1}
    result = unrelu.invert(network, y, "projected", **options)
    u, hessian = step * a.T @ y, w.T @ w + step * prior * np.eye(3)
    expected = np.linalg.solve(hessian, w.T @ u)
    # The prior is so many further rows of the least-squares problem.
    value = ((w @ expected - u) ** 2).sum() + step * prior * (expected**2).sum()
    assert np.linalg.norm(result.z - expected) <= lm_reach(hessian, value) < 1e-4 * np.linalg.norm(expected)


def test_the_best_iterate_is_kept():
    """A step far beyond 2 makes the iterates worse and worse."""
    best = []
    result = masked(
        projection="least_squares", step=4.0, max_iterations=6, callback=lambda p: best.append(p.z) and False
    )
    fun = np.array([unrelu.Problem.build(NETWORK, NETWORK(TRUTH), operator=MASK).objective(z) for z in best[1:]])
    assert (result.fun <= np.nanmin(fun, axis=0)).all()
    one = masked(projection="least_squares", step=4.0, max_iterations=1)
    assert (result.fun <= one.fun).all()


def test_observations_stop_where_their_residual_settles():
    y = NETWORK(TRUTH) + 0.05 * RNG.standard_normal((3, N))
    result = unrelu.invert(NETWORK, y, "projected", projection="lm", tolerance=1e-2, max_iterations=100)
    assert set(result.status) == {Status.CONVERGED}
    assert (result.nit < 100).all()
    assert set(masked(tolerance=0.0, projection="lm", max_iterations=3).nit) == {3}


def test_the_same_seed_gives_the_same_bits():
    for projection in ("lm", "adam", "linf"):
        first, second = (masked(projection=projection, max_iterations=3, seed=4) for _ in range(2))
        np.testing.assert_array_equal(first.z, second.z)


def test_a_failed_projection_ends_its_observation_only(monkeypatch):
    class Fragile(LInf):
        def __call__(self, system, target, threshold=None, time_limit=np.inf, noise=None):
            if target[0] == 7:
                raise SolverError("no")
            return super().__call__(system, target, threshold, time_limit, noise)

    monkeypatch.setitem(LAYER_METHODS, "linf", Fragile)
    y = NETWORK(TRUTH)
    y[1, 0] = 7
    result = unrelu.invert(NETWORK, y, "projected", step=1.0)
    assert result.status[1] is Status.SOLVER_FAILED
    assert np.isnan(result.z[1]).all()
    np.testing.assert_allclose(result.z[[0, 2]], TRUTH[[0, 2]], atol=1e-6)


def test_projections_that_all_fail_end_every_observation(monkeypatch):
    class Failing(LInf):
        def __call__(self, system, target, threshold=None, time_limit=np.inf, noise=None):
            raise SolverError("no")

    monkeypatch.setitem(LAYER_METHODS, "linf", Failing)
    result = unrelu.invert(NETWORK, NETWORK(TRUTH), "projected", step=1.0)
    assert set(result.status) == {Status.SOLVER_FAILED}
    assert np.isnan(result.z).all()


def test_a_stop_returns_the_best_codes_so_far():
    result = masked(projection="lm", callback=lambda p: p.nit == 2)
    assert set(result.status) == {Status.STOPPED}
    assert result.nit.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(result.z, masked(projection="lm", max_iterations=2).z)


def test_a_stop_within_a_projection_keeps_the_observations_that_were_done():
    calls = []

    def third(progress):
        calls.append(progress)
        return len(calls) == 3  # before the first step; then after the first and the second observation

    result = masked(projection="least_squares", callback=third)
    assert len(calls) == 3
    assert set(result.status) == {Status.STOPPED}
    assert np.isfinite(result.z[:2]).all()


def test_no_time_left_within_a_projection(monkeypatch):
    network = paper_network((20, 100, 300), seed=1)
    y = network(RNG.standard_normal((200, 20))) + 0.1
    result = unrelu.invert(network, y, "projected", projection="least_squares", time_limit=0.3)
    assert Status.TIME_LIMIT in result.status
    assert result.seconds.sum() < 3


def test_a_step_that_leaves_the_range_of_numbers_is_said_to_diverge():
    result = masked(projection="least_squares", step=1e120)
    assert set(result.status) == {Status.DIVERGED}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"projection": "best"}, OptionError, "projection='best' is unknown; use one of exact, linf, .*, lm, adam"),
        ({"step": 0.0}, OptionError, "step=0.0 must be above 0 and finite"),
        ({"max_iterations": 0}, OptionError, "max_iterations=0 must be at least 1"),
        ({"tolerance": -1.0}, OptionError, "tolerance=-1.0 must be at least 0"),
        ({"prior": 0.5}, InputError, "prior=0.5: projection='linf' inverts layers.*use projection='lm'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        masked(**options)


def test_a_generator_that_no_layer_method_takes_is_refused():
    network = random_network((3, 8, 20), activation="relu", seed=0)
    slopes = unrelu.models.network.Activation("prelu", np.linspace(-0.5, 0.5, 8))
    network = unrelu.Network.chain([*network.layers[0].affine.steps, slopes, *network.layers[1].affine.steps], (3,))
    with pytest.raises(UnsupportedModelError, match="PReLU with a negative slope"):
        unrelu.invert(network, np.ones(20), "projected")
