"""``auto``: never worse than its parts, honest about what it knows."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import unrelu
from support import random_network
from unrelu.errors import OptionError
from unrelu.methods import layerwise_reason
from unrelu.result import Status


def noisy(sizes, seed, noise, count=6, activation="relu"):
    network = random_network(sizes, activation=activation, seed=seed)
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((count, sizes[0]))
    clean = network(truth)
    return network, truth, clean + noise * rng.standard_normal(clean.shape)


def test_it_is_at_least_as_good_as_lm_from_one_start():
    network, _, y = noisy((6, 12, 30), 1, 0.05, count=20)
    auto, lm = unrelu.invert(network, y, "auto"), unrelu.invert(network, y, "lm")
    assert (auto.fun <= lm.fun * (1 + 1e-6)).mean() >= 0.95
    assert auto.fun.sum() < lm.fun.sum()


def test_an_exact_fit_stops_the_search():
    network, truth, y = noisy((10, 40, 160), 2, 0.0)
    result = unrelu.invert(network, y)
    assert all(s is Status.EXACT_FIT for s in result.status)
    np.testing.assert_allclose(result.z, truth, atol=1e-8)
    assert (result.nit <= 20).all()


def test_a_stated_noise_level_stops_the_search():
    network, _, y = noisy((10, 40, 160), 3, 0.01)
    result = unrelu.invert(network, y, noise="gaussian:0.01")
    assert (result.status == Status.NOISE_LEVEL).mean() >= 0.8
    assert result.success.all()


def test_consensus_is_reported_for_unknown_noise():
    network, _, y = noisy((5, 30, 120), 4, 0.01)
    result = unrelu.invert(network, y)
    assert all(s is Status.REFOUND for s in result.status)
    assert all(re.search(r"\(found [3-9] times\)$", message) for message in result.message)
    once = unrelu.invert(network, y, rounds=1)
    assert all(s is Status.FOUND_ONCE for s in once.status)
    assert not once.success.any()


def test_codes_are_compared_in_the_norm_of_the_noise():
    network, _, y = noisy((5, 30, 120), 5, 0.01)
    result = unrelu.invert(network, y, noise="uniform:0.001", rounds=3)
    np.testing.assert_allclose(result.fun, result.residual("linf"))


@pytest.mark.parametrize(
    ("sizes", "activation", "reason"),
    [((4, 20, 10), "relu", "layer 2 does not expand"), ((4, 20, 60), "relu", None), ((4, 20, 60), "tanh", None)],
)
def test_layerwise_starts_only_where_the_layers_allow_them(sizes, activation, reason):
    found = layerwise_reason(random_network(sizes, activation=activation, seed=0))
    assert found is None if reason is None else reason in found


def test_a_network_that_does_not_expand_is_searched_jointly():
    network, truth, y = noisy((4, 40, 30), 6, 0.0, activation="leaky_relu:0.2")
    result = unrelu.invert(network, y)
    assert result.success.mean() >= 0.8
    np.testing.assert_allclose(result.z[result.success], truth[result.success], atol=1e-6)


def test_z0_is_the_first_start():
    network, truth, y = noisy((5, 30, 120), 7, 0.0)
    result = unrelu.invert(network, y, z0=truth)
    assert (result.nit == 0).all()
    assert all(s is Status.EXACT_FIT for s in result.status)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"consensus": 0}, {"max_iterations": 0}])
def test_bad_options(options):
    with pytest.raises(OptionError):
        unrelu.invert(random_network((3, 8), seed=0), np.zeros(8), **options)


@pytest.mark.parametrize("noise", ["uniform:0.05", "outliers:0.05"])
def test_the_end_in_another_norm_reports_as_auto_and_stops_when_asked(noise):
    network, _, y = noisy((5, 30, 120), 8, 0.02)
    seen = []
    unrelu.invert(network, y, noise=noise, callback=seen.append)
    assert {p.method for p in seen} == {"auto"}
    assert all(a.done <= b.done and b.total == len(y) for a, b in itertools.pairwise(seen))
    calls = len(seen)
    stopped = []
    result = unrelu.invert(network, y, noise=noise, callback=lambda p: stopped.append(p) or len(stopped) == calls - 1)
    assert Status.STOPPED in result.status
    assert len(stopped) < calls


def test_the_end_in_linf_is_never_worse_than_algorithm_1():
    network, _, y = noisy((5, 30, 120), 9, 0.05, count=10)
    auto, paper = (unrelu.invert(network, y, method, noise="uniform:0.1") for method in ("auto", "linf"))
    assert (auto.fun <= paper.fun * (1 + 1e-9)).all()
