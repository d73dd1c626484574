"""Chord steps: from an exact fit in single precision to the last digit."""

from __future__ import annotations

import numpy as np
import torch

from tests.support import random_network
from unrelu.local_search.levenberg_marquardt import chord_steps
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem

K, N, B = 4, 40, 3


def test_chord_steps_reach_an_exact_fit_from_single_precision():
    network = random_network((K, 15, N), "tanh", 3, bias=True)
    truth = np.random.default_rng(3).standard_normal((B, K))
    problem = Problem.build(network, network(truth))
    single = SquaredError.of(problem, network.to(torch.float32))
    start, rows = torch.from_numpy(truth) + 1e-4, torch.arange(B)
    objective = SquaredError.of(problem)
    z, f, arrived = chord_steps(objective, single, start, rows, torch.zeros(B, dtype=torch.float64))
    assert arrived.all()
    np.testing.assert_allclose(z, truth, atol=1e-12)
    assert (f <= 1e-26 * objective.y.square().sum(dim=1)).all()


def test_chord_steps_do_not_claim_a_fit_of_noise():
    network = random_network((K, 15, N), "tanh", 1, bias=True)
    rng = np.random.default_rng(1)
    truth = rng.standard_normal((B, K))
    problem = Problem.build(network, network(truth) + 0.1 * rng.standard_normal((B, N)))
    single = SquaredError.of(problem, network.to(torch.float32))
    objective = SquaredError.of(problem)
    start, rows = torch.from_numpy(truth), torch.arange(B)
    _, f, arrived = chord_steps(objective, single, start, rows, torch.zeros(B, dtype=torch.float64))
    assert not arrived.any()
    assert (f <= objective.values(start, rows)).all()
