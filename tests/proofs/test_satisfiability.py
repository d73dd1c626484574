"""3SAT decided by certificates: below one half there is an assignment, and without one there is no error below it."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from unrelu.hardness import SEPARATION, random_formula, reduction

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


@pytest.mark.parametrize("variables", [8, 10, 12])
def test_satisfiable_formulas_are_satisfied(variables):
    for formula in formulas(variables, True, 3):
        task = reduction(formula)
        found = unrelu.certify(task.network, task.observation, np.full(variables, 0.5), norm="linf")
        assert found.upper < SEPARATION
        assert formula.satisfied_by(task.decode(found.z))
