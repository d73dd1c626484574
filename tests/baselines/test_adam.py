"""CSGM: its step is that of torch.optim.Adam, and of its starts the one that fits best is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.errors import OptionError
from unrelu.local_search import squared_error
from unrelu.result import Ending, Status
from unrelu.runtime.streams import stream

NETWORK = random_network((4, 12, 30), activation="tanh", seed=1)
RNG = np.random.default_rng(1)
MATRIX = RNG.standard_normal((9, 30))
Z0 = RNG.standard_normal((3, 4))
Y = RNG.standard_normal((3, 9))


def invert(**options):
    return unrelu.invert(NETWORK, Y, "adam", operator=MATRIX, **options)


def test_steps_are_those_of_torch():
    z = torch.tensor(Z0, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(7):
        optimizer.zero_grad()
        r = NETWORK.forward(z) @ torch.tensor(MATRIX.T) - torch.tensor(Y)
        ((r * r).sum() + 0.3 * (z * z).sum()).backward()
        optimizer.step()
    result = invert(z0=Z0, prior=0.3, learning_rate=0.05, max_iterations=7, restarts=1)
    np.testing.assert_allclose(result.z, z.detach().numpy(), rtol=1e-12)
    assert set(result.verdict) == {Ending.ITERATION_LIMIT}
    assert result.nit.tolist() == [7, 7, 7]


@pytest.mark.parametrize("prior", [0.0, 3.0])
def test_the_start_with_the_least_measurement_error_is_kept(prior):
    starts = [Z0, *(stream("starts", 5, r).standard_normal((3, 4)) for r in (1, 2, 3))]
    options = {"prior": prior, "learning_rate": 0.05, "max_iterations": 40, "seed": 5}
    single = [invert(z0=start, restarts=1, **options) for start in starts]
    kept = np.argmin([run.residual() for run in single], axis=0)
    assert len(set(kept)) > 1
    result = invert(z0=Z0, restarts=4, **options)
    np.testing.assert_allclose(result.z, [single[r].z[i] for i, r in enumerate(kept)], rtol=1e-9)
    assert result.nit.tolist() == [160] * 3


@pytest.mark.parametrize(("setting", "steps"), [("mnist", 10 * 1_000), ("celeba", 2 * 500)])
def test_settings_are_those_of_the_released_scripts(setting, steps):
    assert set(invert(setting=setting, gradient_tolerance=0.0).nit) == {steps}


def test_little_memory_changes_nothing(monkeypatch):
    options = {"restarts": 3, "max_iterations": 20}
    whole = invert(**options)
    monkeypatch.setattr(squared_error, "OBJECTIVE_NUMBERS", 2 * 42)
    np.testing.assert_allclose(invert(**options).z, whole.z, rtol=1e-9)


def test_a_stop_returns_the_best_start_so_far():
    seen = []

    def stop(progress):
        seen.append(progress)
        return progress.nit == 6

    result = invert(restarts=3, callback=stop)
    assert set(result.status) == {Status.STOPPED}
    assert result.nit.tolist() == [18] * 3
    np.testing.assert_array_equal(result.z, seen[-1].z)
    assert [p.done for p in seen] == [0] * 7


def test_codes_that_leave_the_range_of_numbers():
    result = invert(learning_rate=1e200, restarts=2)
    assert set(result.verdict) == {Ending.DIVERGED}
    assert np.isfinite(result.z).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "fast"}, "setting='fast' is unknown; use one of mnist, celeba"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0 and finite"),
        ({"learning_rate": np.inf}, "learning_rate=inf must be above 0 and finite"),
        ({"max_iterations": 0}, "max_iterations=0 must be at least 1"),
        ({"restarts": 0}, "restarts=0 must be at least 1"),
        ({"gradient_tolerance": np.nan}, "gradient_tolerance=nan must be at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        invert(**options)
