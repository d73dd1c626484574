"""The best codes of a search: which end of a descent is kept, and what counts as the same optimum, found again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import random_network
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.runtime.streams import stream
from unrelu.search.confidence import Candidates, best_seen_probability

K, B = 2, 3
SIZE = 100.0  # |y|^2


class Ends:
    """What the candidates see of some descents: where each ended, and whether that is on a plateau."""

    def __init__(self, rows, f, z=None, flat=False, dtype=torch.float32):
        self.rows, self.f = torch.tensor(rows), torch.tensor(f, dtype=dtype)
        numbered = torch.arange(1.0, len(rows) + 1)[:, None].expand(-1, K)
        self.z = numbered.to(dtype) if z is None else torch.tensor(z, dtype=dtype)
        self.gram = self.f.nan_to_num()[:, None, None] * torch.eye(K, dtype=dtype)
        self._flat = torch.tensor(np.broadcast_to(flat, len(rows)))

    def flat(self):
        return self._flat

    def refresh(self, at):
        """Its matrices are fresh."""


def empty():
    return Candidates(torch.full((B, 4), (SIZE / 4) ** 0.5), K)


def after(*adds, steps=1):
    """The candidates after some rounds of ends."""
    best = empty()
    for ends in adds:
        best.add(ends, torch.full_like(ends.rows, steps))
    return best


# --- which code is kept -----------------------------------------------------------------------------------------------


def test_before_the_first_descent_nothing_is_known():
    best = empty()
    assert best.times_found.tolist() == best.steps.tolist() == [0] * B
    assert torch.isinf(best.f).all()
    assert np.isnan(best.codes()).all()
    np.testing.assert_allclose(best.size, SIZE, rtol=1e-6)
    assert not best.flat().any()


def test_the_best_end_is_kept_with_its_code_and_matrix():
    best = after(Ends([0, 2], [5.0, 7.0], [[1, 2], [3, 4]]), Ends([2, 0], [6.0, 6.0], [[5, 6], [7, 8]]))
    assert best.f.tolist() == [5.0, np.inf, 6.0]
    assert best.z.tolist() == [[1, 2], [0, 0], [5, 6]]
    assert best.gram[:, 0, 0].tolist() == [5.0, 0.0, 6.0]
    np.testing.assert_array_equal(best.double, [[1, 2], [np.nan, np.nan], [5, 6]])
    assert best.steps.tolist() == [2, 0, 2]


@pytest.mark.parametrize("f", [np.nan, np.inf])
def test_descents_that_left_the_range_of_numbers_are_ignored(f):
    best = after(Ends([0, 1], [4.0, f]), Ends([0], [f]))
    assert best.f.tolist() == [4.0, np.inf, np.inf]
    assert best.z.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert best.times_found.tolist() == [1, 0, 0]
    assert np.isnan(best.double[1:]).all()
    assert best.steps.tolist() == [2, 1, 0]  # they took steps all the same


# --- what is found again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([5.0], 1),
        ([5.0, 5.0, 5.0], 3),
        ([5.0, 5.04], 2),
        ([5.0, 5.06], 1),  # another optimum
        ([5.0, 4.98, 5.02], 3),  # the same one, better
        ([5.0, 5.0, 4.9], 1),  # a better one: what was found before no longer counts
        ([5.0, 4.96, 4.92, 5.0], 2),  # whatever the order
        ([5.0, 4.9, 5.0], 1),
        ([5.0, 4.9, 4.9], 2),
        ([np.nan, 5.0, np.inf, 5.0], 2),
        ([0.0, 0.0], 2),
        ([1e-12, 0.0], 2),  # both are rounding
        ([1e-8, 0.0], 1),
    ],
)
def test_found_counts_the_descents_to_the_best_objective(values, found):
    assert after(*(Ends([1], [f]) for f in values)).times_found.tolist() == [0, found, 0]


def test_plateaus_are_kept_but_do_not_count():
    best = after(Ends([0, 1], [5.0, 5.0], flat=[True, True]), Ends([0], [5.0]))
    assert best.f.tolist() == [5.0, 5.0, np.inf]
    assert best.times_found.tolist() == [1, 0, 0]


def test_descents_from_the_best_code_improve_it_but_are_no_evidence():
    best = after(Ends([0, 1], [5.0, 5.0]), Ends([0, 1], [5.0, 5.0]))
    best.add(Ends([0, 1], [5.0, 4.0]), torch.tensor([1, 1]), independent=False)
    assert best.f.tolist() == [5.0, 4.0, np.inf]
    assert best.times_found.tolist() == [2, 0, 0]  # nobody else came to the better code
    np.testing.assert_allclose(best.confidence(), [best_seen_probability(2, 1), 0, 0])


@pytest.mark.parametrize(
    ("values", "optima"),
    [
        ([5.0, 5.0, 5.0], 1),
        ([5.0, 7.0, 5.0, 7.03], 2),
        ([5.0, 7.0, 5.0, 7.1], 3),
        ([5.0, 5.0, np.inf, np.nan], 2),  # all that ended nowhere are one
        ([0.0, 1e-13, 0.0], 1),  # rounding
        ([5.0, 5.0, *(5 * 1.009**i for i in range(1, 8))], 4),  # a ladder of ends is not one optimum
    ],
)
def test_the_confidence_is_of_the_number_of_optima_that_were_seen(values, optima):
    best = after(Ends([0], [1.0]), *(Ends([1], [f]) for f in values), Ends([2], [3.0]))
    assert best.confidence()[1] == best_seen_probability(len(values), optima) > 0
    assert best.confidence()[[0, 2]].tolist() == [0, 0]  # they took part in one descent only


@pytest.mark.parametrize("optima", [1, 2, 5])
def test_the_best_is_among_those_seen_as_often_as_the_probability_says(optima):
    """Against a simulation of its model: a number of optima by the prior, shares of starts uniform on the simplex."""
    rng = stream("test of the posterior")
    n, most = 7, 400
    prior = 1 / np.arange(1, most + 1)
    seen = hits = 0
    for kappa in rng.choice(np.arange(1, most + 1), size=60_000, p=prior / prior.sum()):
        found = set(rng.choice(kappa, size=n, p=rng.dirichlet(np.ones(kappa))).tolist())
        if len(found) == optima:
            seen += 1
            hits += 0 in found  # which optimum is the lowest has nothing to do with its share
    expected = best_seen_probability(n, optima)
    assert abs(hits / seen - expected) < 4 * (expected * (1 - expected) / seen) ** 0.5


def test_more_agreement_is_more_confidence_and_more_optima_are_less():
    table = np.array([[best_seen_probability(n, w) for w in (1, 2, 3, 6)] for n in (6, 7, 12, 40, 100)])
    assert (np.diff(table, axis=0) > 0).all()
    assert (np.diff(table, axis=1) < 0).all()
    assert table[0, -1] == 0  # no two descents agreed
    assert best_seen_probability(51, 1) >= 0.99 > best_seen_probability(50, 1)
    assert best_seen_probability(2, 1) == pytest.approx(np.pi**2 / 6 - 1, abs=1e-4)  # the sum of 1 / (k^2 (k + 1))


@pytest.mark.parametrize("f", [SIZE, 1.5 * SIZE])
def test_optima_that_explain_nothing_are_optima(f):
    """A blank image, or a heavy prior, may have no better code."""
    assert after(Ends([0], [f]), Ends([0], [f])).times_found[0] == 2


def test_small_improvements_add_up_to_another_optimum():
    assert (
        after(*(Ends([0], [5 * 0.993**i]) for i in range(4))).times_found[0] == 2
    )  # the third is 1.4% below the first


class Record:
    """The same in plain Python, for one observation."""

    def __init__(self):
        self.ends, self.f, self.steps = [], np.inf, 0

    def add(self, f, flat, independent):
        self.steps += 1
        self.f = min(self.f, f) if np.isfinite(f) else self.f
        if independent:
            self.ends.append(np.inf if flat else f)

    @property
    def found(self):
        return sum(end <= 1.01 * self.f for end in self.ends if np.isfinite(end))


values = st.sampled_from([np.nan, np.inf, 0.0, 1.0, 1.004, 1.008, 1.02, 2.0, 99.0, 100.0, 101.0])
ends_of_a_round = st.dictionaries(st.integers(0, B - 1), st.tuples(values, st.booleans()))
rounds = st.lists(st.tuples(ends_of_a_round, st.booleans()), max_size=8)


@given(rounds)
def test_the_counts_are_those_of_a_plain_record(adds):
    best, records = empty(), [Record() for _ in range(B)]
    for ends, independent in adds:
        rows = np.array(list(ends), dtype=np.int64)
        f, flat = [end[0] for end in ends.values()], np.array([end[1] for end in ends.values()], dtype=bool)
        best.add(Ends(rows, f, flat=flat), torch.ones(len(rows)).long(), independent)
        for row, (value, plateau) in ends.items():
            records[row].add(value, plateau, independent)
    np.testing.assert_allclose(best.f, [r.f for r in records], rtol=1e-6)
    assert best.times_found.tolist() == [r.found for r in records]
    assert best.steps.tolist() == [r.steps for r in records]
    assert ((best.confidence() > 0) <= (best.times_found.numpy() >= 2)).all()


# --- codes in double precision ----------------------------------------------------------------------------------------


def test_refined_codes_are_kept_in_double_precision_until_a_better_one_comes():
    best = after(Ends([0, 1], [5.0, 6.0]))
    refined = np.array([[1 / 3, np.pi]])
    best.replace(torch.tensor([1]), refined)
    np.testing.assert_array_equal(best.double[1], refined[0])
    torch.testing.assert_close(best.z[1], torch.tensor(refined[0], dtype=torch.float32))
    best.add(Ends([0, 1], [4.0, 6.5]), torch.tensor([1, 1]))  # better for the first only
    np.testing.assert_array_equal(best.double[:2], [[1, 1], refined[0]])
    best.add(Ends([1], [3.0], [[9, 9]]), torch.tensor([1]))
    np.testing.assert_array_equal(best.double[1], [9, 9])


def test_codes_are_a_copy():
    best = after(Ends([0], [5.0]))
    best.codes()[:] = 7
    np.testing.assert_array_equal(best.double[0], [1, 1])


# --- with true descents -----------------------------------------------------------------------------------------------


def test_dead_codes_are_flat_and_descents_to_the_same_code_are_counted():
    network = random_network((K, 12, 40), seed=1)
    y = network(np.array([[1.0, -0.5], [0.3, 2.0]])) + 0.1
    problem = Problem.build(network, y)
    objective = SquaredError.of(problem)
    best = Candidates(objective.y, K)
    for start in ([1.1, -0.5], [0.9, -0.4]):
        starts = torch.tensor([start, [0.0, 0.0]], dtype=torch.float64)  # every neuron is off at 0
        state = LevenbergMarquardtSteps(objective, starts, torch.tensor([0, 1])).run(50)
        best.add(state, state.steps)
    assert best.flat().tolist() == [False, True]
    assert best.times_found.tolist() == [2, 0]
    np.testing.assert_allclose(best.f, problem.objective(best.double), rtol=1e-12)
    np.testing.assert_allclose(best.gram[0], network.jacobian(best.double[0]).T @ network.jacobian(best.double[0]))
