"""What a search spends: the rounds, and for which observations there is a further one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import image_network, random_network
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.search._schedules import BATCH, COMPILED, COUNTS, FEW_COORDINATES, LIMITED_MEMORY, NONLINEAR, ROUNDS, effort
from unrelu.search._stopping_rule import BudgetUsed, StoppingRule
from unrelu.search.descents import BatchDescents, CompiledDescents, descents_for
from unrelu.search.joint_search import JointSearch, flat_confidence
from unrelu.search.sample_cache import SampleCache, single

SCHEDULES = {
    "compiled": COMPILED,
    "batch": BATCH,
    "nonlinear": NONLINEAR,
    "counts": COUNTS,
    "gradient": LIMITED_MEMORY,
    "few": FEW_COORDINATES,
}


def spent(rounds, microseconds=0.0, exact=False, noiseless=False, misfit=False, confidence=0.5, unsure=False):
    """Of one observation."""
    parts = rounds, microseconds, exact, noiseless, misfit, confidence, unsure
    return BudgetUsed(*(np.array([part]) for part in parts))


def none_stands_out():
    return np.array([False])


def goes_on(schedule, *, sure=0.99, stated=None, **options):
    return bool(StoppingRule(schedule, sure, stated).next(spent(**options), none_stands_out)[0])


def test_rounds_are_those_of_the_table_and_then_bring_six_chains_more():
    assert [effort(rounds) for rounds in range(1, len(ROUNDS) + 1)] == list(ROUNDS)
    last = ROUNDS[-1]
    assert effort(len(ROUNDS) + 1) == (last[0] + 6, last[1])
    assert effort(60) == (306, 256)  # linear growth: sixty rounds come to an end


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_what_is_sure_or_exact_is_finished_and_nothing_goes_on_for_ever(schedule):
    assert goes_on(schedule, rounds=0)
    assert not goes_on(schedule, rounds=0, exact=True)
    assert not goes_on(schedule, rounds=0, confidence=0.99)
    assert goes_on(schedule, rounds=0, confidence=0.989)
    assert goes_on(schedule, rounds=0, confidence=0.99, sure=0.999)
    most = schedule.last + schedule.unexplained + 1
    assert not goes_on(schedule, rounds=most, noiseless=True, confidence=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("longer", [{}, {"noiseless": True}, {"misfit": True}, {"unsure": True}], ids=str)
def test_the_first_round_is_made_whatever_it_costs_and_then_the_time_counts(schedule, longer):
    budget = schedule.microseconds * (schedule.more if longer else 1.0)
    assert goes_on(schedule, rounds=schedule.first - 1, microseconds=1e9, **longer)
    if np.isinf(budget):
        return
    for rounds in range(schedule.first, min(schedule.last, schedule.hopeless)):
        (a, b), (c, d) = effort(rounds), effort(rounds + 1)
        growth = c * (1 + d) / (a * (1 + b))
        options = {"rounds": rounds, "confidence": 0.7} | longer
        assert goes_on(schedule, microseconds=0.99 * budget / growth, **options)
        assert not goes_on(schedule, microseconds=1.01 * budget / growth, **options)


def test_more_chains_are_made_only_where_there_is_hope_that_they_agree():
    for confidence, hope in ((0.79, False), (0.81, True)):
        assert goes_on(COMPILED, rounds=COMPILED.hopeless, confidence=confidence) == hope
        assert goes_on(COMPILED, rounds=COMPILED.hopeless - 1, confidence=confidence)
        assert goes_on(COMPILED, rounds=COMPILED.hopeless, confidence=confidence, stated=20)
        assert goes_on(COMPILED, rounds=COMPILED.hopeless, confidence=confidence, unsure=True)  # of a user


def test_what_is_left_of_the_budget_goes_to_perturbations_of_the_best_chain():
    restarts, each = effort(7)
    one = 0.25 * COMPILED.microseconds / (restarts * (1 + each))  # a descent, where a quarter is spent
    left = StoppingRule(COMPILED).perturbations(spent(7, 0.25 * COMPILED.microseconds))[0]
    assert left == 2 ** int(np.log2(0.75 * COMPILED.microseconds / one))
    assert StoppingRule(COMPILED).perturbations(spent(7, 0.25 * COMPILED.microseconds, noiseless=True))[0] >= 2 * left
    assert StoppingRule(COMPILED).perturbations(spent(7, 2 * COMPILED.microseconds))[0] == 0
    assert StoppingRule(NONLINEAR).perturbations(spent(2))[0] == 0


def test_observations_that_stand_out_come_back_when_all_others_are_finished():
    rule = StoppingRule(COMPILED, 0.99)
    both = BudgetUsed(*map(np.concatenate, zip(spent(5, confidence=1.0), spent(5, confidence=0.9), strict=True)))
    assert rule.next(both, lambda: np.array([True, False])).tolist() == [False, True]
    both = both._replace(confidence=np.ones(2))
    assert rule.next(both, lambda: np.array([True, False])).tolist() == [True, False]
    assert not rule.next(both._replace(microseconds=np.full(2, 1e9)), lambda: np.array([True, False])).any()


@pytest.mark.parametrize("longer", [{"noiseless": True}, {"misfit": True}], ids=str)
def test_where_a_far_better_code_may_exist_there_are_more_rounds(longer):
    assert not goes_on(BATCH, rounds=BATCH.last, confidence=0.9)
    assert goes_on(BATCH, rounds=BATCH.last, confidence=0.9, **longer)
    assert not goes_on(BATCH, rounds=BATCH.last + BATCH.unexplained, confidence=0.9, **longer)


@given(st.integers(0, 30), st.integers(1, 30), st.floats(0, 1e12), st.booleans(), st.sampled_from(list(SCHEDULES)))
def test_stated_rounds_are_made_whatever_they_take(rounds, stated, microseconds, noiseless, name):
    assert goes_on(SCHEDULES[name], stated=stated, rounds=rounds, microseconds=microseconds, noiseless=noiseless) == (
        rounds < stated
    )


def test_descents_have_the_schedule_of_what_is_measured_on_the_generator(monkeypatch):
    network, image = random_network((4, 20, 40), seed=1), image_network()

    def chosen(network, **options):
        y = np.rint(np.abs(network(np.ones((2, network.latent_dim))))) + 1.0
        problem = Problem.build(network, y, **options)
        cache = SampleCache(network)
        descents = descents_for(problem, cache, SquaredError.of(problem, single(network)))
        return type(descents), descents.schedule

    assert chosen(network) == (CompiledDescents, COMPILED)
    assert chosen(network, noise="poisson") == (BatchDescents, COUNTS)
    assert chosen(image) == (BatchDescents, BATCH)
    assert chosen(network, operator=lambda x: x**2) == (BatchDescents, NONLINEAR)
    monkeypatch.setattr("unrelu.models.generator._LARGE", 0)
    assert chosen(image) == (BatchDescents, FEW_COORDINATES)
    monkeypatch.setattr("unrelu.search.descents._FEW", 1)
    assert chosen(image) == (BatchDescents, LIMITED_MEMORY)


def test_only_a_confidence_that_was_learned_makes_a_search_longer():
    problem = Problem.build(random_network((4, 10, 30), seed=2, bias=True), np.ones((2, 30))).equilibrated()

    def low(search, observations):
        return np.full(len(observations), 0.5)

    def unsure(judge, problem=problem, **options):
        return JointSearch(problem, judge, **options).budget_used().unsure.tolist()

    assert unsure(low) == [True, True]
    assert unsure(flat_confidence) == unsure(low, simulated=True) == [False, False]
    assert unsure(low, replace(problem, norm="linf")) == [False, False]
