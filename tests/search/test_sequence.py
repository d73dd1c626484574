"""Sequences: observations that start from the code of the one before."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import image_network, random_network
from unrelu.errors import InputError, OptionError
from unrelu.result import Status
from unrelu.search import auto
from unrelu.search.auto import Search

NET = random_network((5, 30, 120), seed=1)
NOISE = 0.1


def slow(network, frames, step=0.03, seed=0):
    """Codes (frames, k) on a circle, each a little further than the one before."""
    rng = np.random.default_rng(seed)
    angles, ends = step * np.arange(frames)[:, None], rng.standard_normal((2, network.latent_dim))
    return np.cos(angles) * ends[0] + np.sin(angles) * ends[1]


def noisy(network, z, seed=0):
    clean = network(z)
    return clean + NOISE * np.random.default_rng([seed, 1]).standard_normal(clean.shape)


@pytest.fixture
def searches(monkeypatch):
    """The calls of ``auto``: the number of observations and of rounds of each."""
    calls, search = [], auto.Search.__call__

    def counted(self, problem):
        calls.append((problem.size, self.rounds))
        return search(self, problem)

    monkeypatch.setattr(auto.Search, "__call__", counted)
    return calls


@pytest.mark.parametrize("network", [NET, image_network(seed=4)], ids=["dense", "convolutional"])
def test_a_slow_sequence_is_searched_once_and_has_the_verdicts_of_a_cold_search(network, searches):
    y = noisy(network, slow(network, 9))
    cold = unrelu.invert(network, y, noise=f"gaussian:{NOISE}")
    searches.clear()
    warm = unrelu.invert(network, y, noise=f"gaussian:{NOISE}", sequence=True)
    assert searches == [(1, None), (1, 0), (2, 0), (4, 0), (1, 0)]
    assert warm.status.tolist() == cold.status.tolist() == [Status.NOISE_LEVEL] * 9
    assert np.isfinite(warm.confidence[0]), "the first observation was searched"
    assert np.isnan(warm.confidence[1:]).all(), "nothing was compared with the others"
    again = unrelu.invert(network, y[3:4], "lm", z0=warm.z[3:4])
    assert again.fun[0] >= (1 - 1e-5) * warm.fun[3], "the end of a descent is a local optimum"


def test_where_a_descent_fails_the_observation_is_searched(searches):
    network = random_network((5, 30, 120), seed=2)
    z = slow(network, 6)
    z[3:] *= -2  # a cut
    warm = unrelu.invert(network, noisy(network, z), noise="gaussian:0.1", sequence=True)
    assert searches.count((1, None)) == 2
    assert warm.success.all()
    assert np.isfinite(warm.confidence).tolist() == [True, False, False, True, False, False]


def test_an_observation_out_of_range_is_a_misfit_and_the_next_goes_on():
    y = noisy(NET, slow(NET, 4))
    y[2] = np.random.default_rng(5).permutation(y[2])
    cold = unrelu.invert(NET, y, noise="gaussian:0.1")
    warm = unrelu.invert(NET, y, noise="gaussian:0.1", sequence=True)
    assert warm.status.tolist() == cold.status.tolist()
    assert warm.status[2] is Status.MISFIT
    assert warm.fun[2] <= 1.01 * cold.fun[2]


def test_exact_data_need_no_noise_and_no_search(searches, tmp_path):
    z = slow(NET, 6)
    warm = unrelu.invert(NET, NET(z), sequence=True)
    assert [rounds for _, rounds in searches].count(None) == 1
    assert warm.status.tolist() == [Status.EXACT_FIT] * 6
    np.testing.assert_allclose(warm.z, z, atol=1e-6)
    warm.save(tmp_path / "r.npz")
    np.testing.assert_array_equal(unrelu.load_result(tmp_path / "r.npz", NET).z, warm.z)


def test_without_stated_noise_every_observation_is_searched(searches):
    y = noisy(NET, slow(NET, 6))
    cold = unrelu.invert(NET, y)
    searches.clear()
    warm = unrelu.invert(NET, y, sequence=True)
    assert 0 not in [rounds for _, rounds in searches]
    assert sum(size for size, _ in searches) == 6
    assert np.isfinite(warm.confidence).all()
    assert warm.success.tolist() == cold.success.tolist()


def test_z0_starts_the_first_and_other_methods_start_each_from_the_one_before():
    y = noisy(NET, slow(NET, 3))
    z0 = slow(NET, 1)[0]
    sequence = unrelu.invert(NET, y, "lm", z0=z0, sequence=True)
    for observed, found in zip(y, sequence.z, strict=True):
        z0 = unrelu.invert(NET, observed, "lm", z0=z0).z
        np.testing.assert_array_equal(found, z0)


def test_progress_counts_the_whole_sequence_and_a_stop_keeps_what_is_found():
    y, seen = noisy(NET, slow(NET, 5)), []

    def stop(progress):
        seen.append(progress)
        return progress.done >= 2

    result = unrelu.invert(NET, y, noise="gaussian:0.1", sequence=True, callback=stop)
    assert {(p.total, p.z.shape) for p in seen} == {(5, (5, 5))}
    assert np.all(np.diff([p.done for p in seen]) >= 0)
    assert np.isfinite(result.z[:2]).all()
    assert result.status[-1] is Status.STOPPED


def test_a_failure_of_one_observation_is_its_own(monkeypatch):
    y, descend = noisy(NET, slow(NET, 3)), Search.__call__

    def breaking(self, problem):
        if np.abs(problem.y - y[1]).max() < 1e-9:
            raise ArithmeticError("numbers overflow")
        return descend(self, problem)

    monkeypatch.setattr(Search, "__call__", breaking)
    result = unrelu.invert(NET, y, noise="gaussian:0.1", sequence=True)
    assert [s.name for s in result.status] == ["NOISE_LEVEL", "ERROR", "NOISE_LEVEL"]
    assert result.message[1] == "could not be inverted: numbers overflow"
    assert result.success.tolist() == [True, False, True]


def test_rounds_0_descends_from_z0_alone():
    y = noisy(NET, slow(NET, 2))
    cold = unrelu.invert(NET, y)
    near = unrelu.invert(NET, y, z0=cold.z + 1e-3, rounds=0)
    np.testing.assert_allclose(near.fun, cold.fun, rtol=1e-5)
    assert np.isnan(near.confidence).all()
    assert not near.success.any()
    with pytest.raises(OptionError, match="rounds=0 makes no restarts: pass codes to start from, z0="):
        unrelu.invert(NET, y, rounds=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"sequence": "yes"}, OptionError, "sequence='yes' must be True or False"),
        ({"sequence": True, "method": "linf"}, OptionError, "method='linf' takes no start: use 'auto'"),
        ({"sequence": True, "z0": np.zeros((3, 5))}, InputError, r"z0 has shape \(3, 5\): .* pass a code \(5,\)"),
        ({"sequence": True, "y": np.zeros(120)}, InputError, r"y is one observation; pass a batch \(B, ...\)"),
    ],
)
def test_what_is_no_sequence_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        unrelu.invert(NET, **({"y": np.zeros((3, 120))} | call))


def test_a_run_refuses_sequences(tmp_path):
    with pytest.raises(OptionError, match=r"no option 'sequence'.*goes with unrelu\.invert"):
        unrelu.run(NET, np.zeros((3, 120)), tmp_path / "out", sequence=True)
