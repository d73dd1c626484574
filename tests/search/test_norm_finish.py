"""The end of a search in l1 or linf: better than its starts in the norm that counts, and honest about how it ended."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.local_search.norm_descent import NormDescent
from unrelu.problem import Problem
from unrelu.result import Ending, Status
from unrelu.search._norm_finish import PERTURBATIONS, finish

K, N, B = 4, 60, 5
NETWORK = random_network((K, 20, N), seed=1)
both_norms = pytest.mark.parametrize("norm", ["l1", "linf"])


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


def ended(problem, z, programs=100, count=PERTURBATIONS):
    draws = np.random.default_rng(3).standard_normal((len(z), count, z.shape[1]))
    return finish(problem, [z], draws, programs)


@both_norms
def test_no_code_is_worse_than_the_one_it_was_given(norm):
    problem, z = noisy(norm)
    before = z.copy()
    best, status = ended(problem, z)
    np.testing.assert_array_equal(z, before)
    assert (problem.objective(best) <= problem.objective(z)).all()
    assert (problem.objective(best) < problem.objective(z)).sum() >= 4
    assert set(status) == {Status.CONVERGED}
    # A descent from where it ended finds nothing better.
    again, _, _ = NormDescent().minimise(problem, best)
    np.testing.assert_allclose(problem.objective(again), problem.objective(best), rtol=1e-6)


@both_norms
def test_further_starts_and_perturbations_lower_the_objective_of_codes_that_noise_does_not_explain(norm):
    problem, z = noisy(norm, random_network((K, 12, 12, N), seed=4))
    far = z + np.random.default_rng(0).standard_normal(z.shape)
    alone, hopped = (problem.objective(ended(problem, far, count=count)[0]) for count in (0, PERTURBATIONS))
    assert (hopped <= alone).all()
    assert norm == "l1" or (hopped < 0.99 * alone).any()
    none = np.empty((B, 0, K))
    both = problem.objective(finish(problem, [far, z], none, 100)[0])
    assert (both <= problem.objective(ended(problem, z, count=0)[0]) * 1.01).sum() >= 4


def test_codes_within_the_bound_of_the_noise_are_left_alone():
    problem, z = noisy(noise=0.1)
    stated = Problem.build(NETWORK, problem.y, noise="uniform:0.1")
    best, _, _ = NormDescent().minimise(stated, z)
    explained = stated.objective(best) <= 0.1
    assert explained.sum() >= 4
    np.testing.assert_array_equal(ended(stated, z)[0][explained], best[explained])


@both_norms
def test_the_limit_on_programs_is_reported(norm):
    problem, z = noisy(norm)
    far = z + 1.0
    best, status = ended(problem, far, 1, 0)
    assert Ending.ITERATION_LIMIT in status
    assert (problem.objective(best) <= problem.objective(far)).all()


@both_norms
@pytest.mark.parametrize("call", [1, 5, 20])
def test_a_stop_ends_it_at_once(norm, call):
    calls = []
    problem, z = noisy(norm, callback=lambda progress: calls.append(progress) or len(calls) == call)
    best, _ = ended(problem, z)
    assert (problem.objective(best) <= problem.objective(z)).all()
    assert len(calls) <= call
    if call == 1:
        np.testing.assert_array_equal(best, z)
