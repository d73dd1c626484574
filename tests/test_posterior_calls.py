"""``unrelu.posterior`` as it is called: progress, stops, batches and seeds."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network

NETWORK = random_network((3, 24, 40), seed=0)
RNG = np.random.default_rng([36, 8])
Y = NETWORK(RNG.standard_normal((3, 3))) + 0.1 * RNG.standard_normal((3, 40))
ASKED = {"noise": "gaussian:0.1", "draws": 60}


def test_progress_counts_steps_and_observations():
    seen = []
    unrelu.posterior(NETWORK, Y[:2], callback=seen.append, **ASKED)
    assert {(each.method, each.total) for each in seen} == {("posterior", 2)}
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    for i in range(2):
        steps = [each.nit for each in seen if each.done == i]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) > 60


def test_a_stop_keeps_the_draws_so_far():
    p = unrelu.posterior(NETWORK, Y[0], noise="gaussian:0.1", draws=10**6, callback=lambda progress: progress.nit > 600)
    chains, draws, _ = p.z.shape
    assert (chains, 10 < draws < 600) == (8, True)
    assert np.isfinite(p.z).all()
    assert p.status in (unrelu.Status.STOPPED, unrelu.Status.MIXED)
    batch = unrelu.posterior(
        NETWORK, Y, noise="gaussian:0.1", draws=10**6, callback=lambda progress: progress.nit > 600
    )
    np.testing.assert_array_equal(batch[0].z, p.z)
    assert np.isnan(batch[1:].z).all()
    assert {status.name for status in batch.status[1:]} == {"STOPPED"}
    assert batch.z.shape[2] == draws


def test_draws_do_not_depend_on_the_batch_but_on_the_seed():
    batch = unrelu.posterior(NETWORK, Y, seed=3, **ASKED)
    alone = unrelu.posterior(NETWORK, Y[1], seed=3, **ASKED)
    np.testing.assert_array_equal(batch[1].z, alone.z)
    assert not np.array_equal(unrelu.posterior(NETWORK, Y[1], seed=4, **ASKED).z, alone.z)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"noise": None}, unrelu.errors.InputError, "noise=None .*state 'gaussian:S'"),
        ({"noise": "outliers:0.1"}, unrelu.errors.InputError, "noise=outliers:0.1 .*state 'gaussian:S'"),
        ({"prior": 1.0}, unrelu.errors.OptionError, r"prior=1.0 must be a distribution of codes, unrelu.Normal"),
        ({"prior": unrelu.Normal(np.zeros(4))}, unrelu.errors.InputError, r"mean has shape \(4,\)"),
        ({"draws": 3}, unrelu.errors.OptionError, "draws=3 must be a whole number of at least 4"),
        ({"draws": 1e3}, unrelu.errors.OptionError, "draws=1000.0 must be a whole number of at least 4"),
        ({"chains": True}, unrelu.errors.OptionError, "chains=True must be a whole number of at least 2"),
        ({"seed": -1}, unrelu.errors.OptionError, "seed=-1"),
        ({"time_limit": 0}, unrelu.errors.InputError, "time_limit=0 must be above 0"),
        ({"bounds": (1, 0)}, unrelu.errors.InputError, "bounds"),
        ({"operator": np.ones((2, 39))}, unrelu.errors.InputError, "operator"),
    ],
)
def test_bad_input_is_refused(given, kind, said):
    with pytest.raises(kind, match=said):
        unrelu.posterior(NETWORK, Y, **ASKED | given)
