"""The end of a search in l1 or linf: better than its starts in the norm that counts, and honest about how it ended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unrelu
from tests.support import random_network
from unrelu.layerwise import L1, LInf
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.local_search.norm_descent import NormDescent
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.search import norm_finish as finish_module
from unrelu.search.norm_finish import Reweighted, finish

K, N, B = 4, 60, 5
ROUNDS = Reweighted().rounds
NETWORK = random_network((K, 20, N), seed=1)
both_norms = pytest.mark.parametrize("norm", ["l1", "linf"])
layers = pytest.mark.parametrize("by_layer", [False, True])


def noisy(norm="linf", network=NETWORK, noise=0.1, **options):
    """A problem and the l2 codes that its search would end at."""
    rng = np.random.default_rng(2)
    truth = rng.standard_normal((B, K))
    x = network(truth)
    y = x + rng.uniform(-noise, noise, x.shape)
    if norm == "l1":
        y = y + (rng.random(x.shape) < 0.1) * rng.choice([-3.0, 3.0], x.shape)
    l2 = unrelu.invert(network, y, "lm", z0=truth, operator=options.get("operator")).z
    return Problem.build(network, y, norm=norm, **options), l2


@both_norms
@layers
def test_no_code_is_worse_than_the_one_it_was_given(norm, by_layer):
    problem, z = noisy(norm)
    before = z.copy()
    best, status = finish(problem, z, 100, by_layer)
    np.testing.assert_array_equal(z, before)
    assert (problem.objective(best) <= problem.objective(z)).all()
    assert (problem.objective(best) < problem.objective(z)).sum() >= 4
    assert set(status) == {Status.CONVERGED}
    # A descent from where it ended finds nothing better.
    again, _, _ = NormDescent().minimise(problem, best)
    np.testing.assert_allclose(problem.objective(again), problem.objective(best), rtol=1e-6)


@given(
    seed=st.integers(0, 999),
    norm=st.sampled_from(["l1", "linf"]),
    activation=st.sampled_from(["relu", "leaky_relu:0.2", "tanh"]),
    masked=st.booleans(),
    programs=st.sampled_from([1, 3, 30]),
    by_layer=st.booleans(),
)
@settings(max_examples=20)
def test_from_any_start_the_objective_does_not_rise(seed, norm, activation, masked, programs, by_layer):
    network = random_network((2, 6, 10), activation, seed)
    rng = np.random.default_rng(seed)
    y = network(rng.standard_normal((3, 2))) + 0.3 * rng.standard_normal((3, 10))
    operator = rng.random((3, 10)) < 0.7 if masked else None
    problem = Problem.build(network, y, norm=norm, operator=operator)
    z = rng.standard_normal((3, 2)) * np.array([[0.0], [1.0], [5.0]])  # the first: every neuron of a ReLU is off
    best, status = finish(problem, z, programs, by_layer)
    assert (problem.objective(best) <= problem.objective(z)).all()
    assert set(status) <= {Status.CONVERGED, Status.ITERATION_LIMIT, Status.FLAT}


@both_norms
@pytest.mark.parametrize("programs", [1, 100])
def test_with_layers_it_is_no_worse_than_the_papers_algorithm(norm, programs):
    problem, _ = noisy(norm)
    far = np.random.default_rng(0).standard_normal((B, K))
    paper = unrelu.invert(NETWORK, problem.y, norm)
    best, alone = (problem.objective(finish(problem, far, programs, by_layer)[0]) for by_layer in (True, False))
    assert (best <= paper.fun * (1 + 1e-9)).all()
    assert (best <= alone).all()
    if programs == 1:
        assert (best < 0.9 * alone).any()


@pytest.mark.parametrize(("norm", "algorithm"), [("linf", LInf), ("l1", L1)])
def test_the_layers_are_inverted_in_the_norm_that_counts(monkeypatch, norm, algorithm):
    seen = []
    monkeypatch.setattr(finish_module, "Layerwise", lambda *given: seen.append(given) or Layerwise(*given))
    problem, z = noisy(norm)
    finish(problem, z, 1, False)
    assert not seen
    finish(problem, z, 1, True)
    assert seen == [(algorithm(), norm)]


def test_gross_errors_lose_their_weight_before_the_descent_in_l1():
    problem, z = noisy("l1", noise=0.0)
    truth = np.random.default_rng(2).standard_normal((B, K))
    best, _ = finish(problem, z, 100, False)
    np.testing.assert_allclose(best, truth, atol=1e-7)
    # With one program for each descent it is the reweighted code that is nearly there.
    short, _ = finish(problem, z, 1, False)
    one, _, _ = NormDescent(max_programs=1).minimise(problem, z)
    assert (problem.objective(short) < problem.objective(one)).sum() >= 3


@both_norms
@layers
def test_an_affine_map_is_solved_globally(norm, by_layer):
    network = random_network((K, N), "identity", seed=3)
    rng = np.random.default_rng(3)
    problem = Problem.build(network, rng.standard_normal((B, N)), norm=norm)
    best, status = finish(problem, rng.standard_normal((B, K)), 100, by_layer)
    assert set(status) == {Status.CONVERGED}
    paper = unrelu.invert(network, problem.y, norm)  # a single layer: its program is the problem
    np.testing.assert_allclose(problem.objective(best), paper.fun, rtol=1e-7)


# --- how it ended -----------------------------------------------------------------------------------------------------


@both_norms
def test_the_limit_on_programs_is_reported(norm):
    problem, z = noisy(norm)
    far = z + 1.0
    best, status = finish(problem, far, 1, False)
    assert set(status) == {Status.ITERATION_LIMIT}
    assert (problem.objective(best) <= problem.objective(far)).all()


@both_norms
@layers
def test_without_time_the_codes_stay_and_say_so(norm, by_layer):
    problem, z = noisy(norm, time_limit=1e-9)
    best, status = finish(problem, z, 100, by_layer)
    assert set(status) == {Status.TIME_LIMIT}
    np.testing.assert_array_equal(best, z)


def stops_at(call):
    """A callback that says stop at one call and at no other, and the calls it got."""
    calls = []
    return lambda p: calls.append(p) or len(calls) == call, calls


@both_norms
@layers
@pytest.mark.parametrize("call", [1, 3, 5, 7, 10, 12, 20, 40])
def test_a_stop_ends_it_at_once(norm, by_layer, call):
    callback, calls = stops_at(call)
    problem, z = noisy(norm, callback=callback)
    best, status = finish(problem, z, 100, by_layer)
    assert (problem.objective(best) <= problem.objective(z)).all()
    # Every start is worked on one observation after the other, and the layer-wise ones are inverted so too.
    before = ROUNDS * (norm == "l1") + B * by_layer
    in_all = before + B * (1 + (norm == "l1") + by_layer)
    assert len(calls) == min(call, in_all)
    assert (Status.STOPPED in status) == (call < in_all)
    if call <= before:
        np.testing.assert_array_equal(best, z)
        assert set(status) == {Status.STOPPED}


def test_what_a_stop_left_out_is_unfinished_whatever_was_reached_before():
    callback, calls = stops_at(ROUNDS + B + 2)  # in the second descent, after its second observation
    problem, z = noisy("l1", callback=callback)
    _, status = finish(problem, z, 100, False)
    assert [s is Status.STOPPED for s in status] == [False, False, True, True, True]
    assert len(calls) == ROUNDS + B + 2
