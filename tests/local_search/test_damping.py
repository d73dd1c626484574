"""Both executions of Levenberg-Marquardt take the same steps: compiled code by code, and a batch at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.local_search.test_descent_kernel import NETWORKS, noisy
from unrelu.local_search.descent_kernel import DescentArrays, DescentLimits, descend_and_perturb
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps
from unrelu.local_search.packed_observations import PackedObservations
from unrelu.local_search.squared_error import SquaredError

# Each step multiplies differences of rounding by about the condition of its system; these are well conditioned.
STEPS, ROUNDING = 6, 1e-8
TINY, NO_CEILING = 1e-4, np.inf


def compiled_steps(problem, z, most, ceiling):
    """The codes and objectives after steps in double precision, and the steps of each."""
    packed, steps = PackedObservations(problem.network, problem.operator, problem.y, np.float64), []
    box, z, f = np.stack([problem.bounds.lower, problem.bounds.upper]), z.copy(), np.empty(len(z))
    for i in range(len(z)):
        network, y = packed.of(i)
        none, count, value = np.empty((1, 0, z.shape[1])), np.zeros(1, dtype=np.int64), np.full(1, ceiling)
        perturb = none if ceiling == NO_CEILING else np.zeros((1, 1, z.shape[1]))
        descend_and_perturb(
            network, np.empty(0), y, problem.weights, DescentLimits(most, TINY, 0.0), box, z[i : i + 1], value, perturb,
            count, DescentArrays.of(network.layout, np.float64),
        )  # fmt: skip
        f[i] = value[0]
        steps.append(int(count[0]))
    return z, f, steps


@pytest.mark.parametrize(
    ("name", "options"), [("four layers", {}), ("prelu", {"prior": 0.5}), ("tanh", {"bounds": (-0.8, 0.9)})]
)
def test_both_executions_take_the_same_steps(name, options):
    problem, truth = noisy(NETWORKS[name], level=0.3, **options)
    start = problem.bounds.clip(1.5 * truth + 0.2)
    objective = SquaredError.of(problem)
    for most in range(1, STEPS + 1):
        batch = LevenbergMarquardtSteps(
            objective, objective.tensor(start), torch.arange(len(start)), tiny_decrease=TINY
        ).run(most)
        z, f, steps = compiled_steps(problem, start, most, NO_CEILING)
        np.testing.assert_allclose(batch.z, z, rtol=ROUNDING, atol=ROUNDING)
        np.testing.assert_allclose(batch.f, f, rtol=ROUNDING)
        assert batch.steps.tolist() == steps
    assert (batch.z != torch.tensor(start)).any()


def test_both_executions_give_up_alike():
    """From codes whose objectives are the ceiling already, a descent ends at the same step."""
    problem, truth = noisy(NETWORKS["tanh"], level=0.3)
    objective, rows = SquaredError.of(problem), torch.arange(len(truth))
    ceiling = 0.1 * float(objective.values(torch.tensor(truth), rows).min())
    batch = LevenbergMarquardtSteps(
        objective, torch.tensor(truth), rows, tiny_decrease=TINY, ceiling=torch.full((len(truth),), ceiling)
    ).run(30)
    _, _, steps = compiled_steps(problem, truth, 30, ceiling)
    assert batch.steps.tolist() == steps
    assert max(steps) <= 5
