"""3SAT decided by certificates: below one half there is an assignment, and without one there is no error below it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import unrelu
from unrelu.certification.proof import ProofStatus
from unrelu_studies.paper.hardness import SEPARATION, random_formula, reduction

RATIO = 4.3


def formulas(variables, satisfiable, count):
    """The first random formulas that can, or cannot, be satisfied."""
    found, seed = [], 0
    while len(found) < count:
        formula = random_formula(variables, round(RATIO * variables), seed)
        seed += 1
        if formula.satisfiable() == satisfiable:
            found.append(formula)
    return found


def decided(formula):
    """The certificate of a formula's network, from the code that is nearest to no assignment."""
    task = reduction(formula)
    found = unrelu.certify(task.network, task.observation, np.full(formula.variables, 0.5), norm="linf")
    assert found.verify(task.network, task.observation)
    assert math.isinf(found.radius)
    return task, found


@pytest.mark.parametrize("variables", [8, 9, 10, 11, 12])
def test_satisfiable_formulas_are_satisfied(variables):
    for formula in formulas(variables, True, 4):
        task, found = decided(formula)
        assert found.upper < SEPARATION
        assert formula.satisfied_by(task.decode(found.z))
        assert found.lower < 1e-9


@pytest.mark.parametrize("variables", [8, 9, *(pytest.param(n, marks=pytest.mark.long) for n in (10, 11, 12))])
def test_unsatisfiable_formulas_are_refuted(variables):
    """By theory no code has an error below one half; the smallest may be larger, and the gap is closed."""
    for formula in formulas(variables, False, 4):
        _, found = decided(formula)
        assert found.status is ProofStatus.OPTIMAL
        assert found.lower >= SEPARATION * (1 - 1e-6)
