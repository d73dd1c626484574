"""The benchmarks of unknown levels of noise, and of the agreement of trf's restarts: whole units of quick runs."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu_studies.benchmarks.benchmark import Command, load
from unrelu_studies.benchmarks.measurements.noise_levels import CELLS, generator, summary
from unrelu_studies.benchmarks.searches.trf_restarts import PROBLEMS, searches

LEVELS, AGREEMENT = load("noise_levels"), load("agreement")


def test_a_unit_of_own_outputs():
    name = "two parts of 300 entries"
    rows = LEVELS.measure(Command("noise_levels", 2, True, 5), (name, 0))
    assert [row["cell"] for row in rows] == [name] * 2
    for row in rows:
        # Six errors of a level, of 300 entries.
        assert np.allclose(row["fitted"], row["levels"], rtol=6 / (2 * 300) ** 0.5 + 0.1)
    assert summary({"rows": rows}, name)["mixed"] == 1.0


def test_generators_have_outputs_of_about_size_one():
    for cell in CELLS.values():
        assert 0.3 < float(np.std(generator(cell)(np.random.default_rng(1).standard_normal((200, 4))))) < 3


@pytest.mark.parametrize("name", ["a frequency", "ReLU network, 2 of 10"])
def test_the_best_optimum_is_that_of_the_true_parameters(name):
    row = AGREEMENT.measure(Command("agreement", 31, True, 5), (name,))
    assert row["lowest"] <= min(row["ends"])
    drawn = searches({"rows": [row]}, 1)
    assert {each[0] for each in drawn} == {name}
    assert all(0 < said < 1 for _, _, said, _ in drawn)
    assert set(PROBLEMS) >= {name}
