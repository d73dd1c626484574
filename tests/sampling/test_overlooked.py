"""Optima that have fewer draws than their mass says, and modes that another search would miss."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp

import unrelu
from tests.sampling.known_posteriors import tents
from unrelu.runtime.streams import stream
from unrelu.sampling._mixture import Mixture
from unrelu.sampling._mixture_components import overlooked
from unrelu.sampling._modes import hits_of, missed_again
from unrelu.sampling._target import Target
from unrelu.sampling.prior_transform import PriorTransform

K, HEIGHT, WIDTH, SIGMA = 4, 0.49, 0.5, 0.1
CENTRE = np.array([0.5, -0.4, 0.3, 0.6])


def spike() -> Target:
    """The posterior with a spike where G(z) = .49 max(0, 1 - |z - c|_1 / .5) explains y, and the prior elsewhere."""
    eye = np.eye(K)
    weights = [np.concatenate([eye, -eye]), np.full((1, 2 * K), -1 / WIDTH), np.array([[HEIGHT]])]
    biases = [np.concatenate([-CENTRE, CENTRE]), np.ones(1), np.zeros(1)]
    net = unrelu.from_arrays(weights, biases, activation=["relu", "relu", "identity"])
    problem = unrelu.Problem.build(net, [0.95 * HEIGHT], noise=f"gaussian:{SIGMA}", prior=unrelu.Normal())
    return Target(problem, PriorTransform.of(problem.bounds, problem.normal))


def within_spike(count: int, rng: np.random.Generator) -> np.ndarray:
    """Codes uniform in the spike, an L1 ball."""
    shares = rng.dirichlet(np.ones(K + 1), count)[:, :K]
    return CENTRE + WIDTH * rng.choice([-1.0, 1.0], (count, K)) * shares


@pytest.mark.parametrize("share", [0.0, 0.005])
def test_a_spike_with_few_draws_is_overlooked_by_its_mass(share):
    target, rng = spike(), stream("test overlooked", str(share))
    uniform = within_spike(100_000, rng)
    volume = K * np.log(2 * WIDTH) - np.log(24.0)
    mass = volume + logsumexp(-target.energies(uniform)) - np.log(len(uniform))
    flat = -0.5 * (0.95 * HEIGHT / SIGMA) ** 2 + K / 2 * np.log(2 * np.pi)
    truth = 1 / (1 + np.exp(flat - mass))
    t = rng.standard_normal((8000, K))
    t = t[np.abs(t - CENTRE).sum(axis=1) > WIDTH]
    inside = round(share * len(t))
    t[:inside] = uniform[np.argsort(target.energies(uniform))[: 20 * inside : 20][:inside]]
    mixture = Mixture(np.zeros((1, K)), np.eye(K)[None], np.ones(1))
    found, extended = overlooked(target, mixture, t, target.energies(t), float(flat), 64, rng)
    assert 0.2 < truth < 0.6
    if share:
        assert 0.3 * truth < found < 1.5 * truth
        assert np.abs(extended.means[1:] - CENTRE).sum(axis=1).min() < WIDTH
    else:  # no descent ends in a spike that nothing leads to
        assert found < 0.02


# --- what another search would miss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("harder", [1.0, 4.0])
def test_a_mode_that_was_hit_h_times_is_missed_as_often_as_the_formula_says(harder):
    """Means of hits are log-uniform from far below 1 to far above any number of hits here."""
    rng = stream("test missed again", str(harder))
    mean = np.exp(rng.uniform(np.log(1e-4), np.log(1e4), 4_000_000))
    hits, again = rng.poisson(mean), rng.poisson(mean / harder)
    for h in (1, 2, 5):
        missed = again[hits == h] == 0
        expected = missed_again(np.ones(1), np.array([h]), harder)
        assert len(missed) > 1000
        assert abs(missed.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / len(missed))


def test_descents_count_for_the_mode_in_which_they_end():
    """G(z) = (|z_0|, z_1, ...): two modes, of which ends in linear regions of one do not count for the other."""
    eye = np.eye(3)
    first = np.concatenate([eye, -eye[:1]])
    net = unrelu.from_arrays([first, np.concatenate([eye, eye[:, :1]], axis=1)], activation=["relu", "identity"],
                             biases=[np.array([0.0, 9.0, 9.0, 0.0]), np.array([0.0, -9.0, -9.0])])  # fmt: skip
    problem = unrelu.Problem.build(net, [1.5, 0.2, -0.3], noise="gaussian:0.1", prior=unrelu.Normal())
    target = Target(problem, PriorTransform.of(problem.bounds, problem.normal))
    modes = np.array([[1.485, 0.2, -0.3], [-1.485, 0.2, -0.3]])
    whiteners = np.repeat(10.0 * eye[None], 2, axis=0)
    near = stream("test hits").normal(0.0, 0.05, (9, 3))
    ends = np.concatenate([modes[:1] + near[:7], modes[1:] + near[7:], [[0.0, 3.0, 3.0]]])  # the last in neither
    np.testing.assert_array_equal(hits_of(target, modes, whiteners, ends), [7, 2])
    half = np.array([0.5, 0.5])
    assert missed_again(half, np.array([7, 2])) == pytest.approx(0.5 * 2**-7 + 0.5 * 2**-2)


def test_modes_that_few_descents_reach_are_overlooked_although_draws_have_them():
    """Of 32 modes, 64 descents reach each twice on average, and another 64 miss many; some thousands miss none."""
    rng, grid = stream("test few descents"), np.linspace(-2.5, 2.5, 400_001)
    problem = unrelu.Problem.build(tents(), [0.3], noise="gaussian:0.02", prior=unrelu.Normal())
    prior = PriorTransform.of(problem.bounds, problem.normal)
    logs = -Target(problem, prior).energies(grid[:, None])
    log_z = float(logsumexp(logs) + np.log(grid[1] - grid[0]))
    t = np.interp(rng.random(8000), np.cumsum(np.exp(logs - logsumexp(logs))), grid)[:, None]
    best = grid[1:-1][(logs[1:-1] > logs[:-2]) & (logs[1:-1] >= logs[2:])]
    mixture = Mixture(best[:, None], np.full((len(best), 1, 1), 500.0), np.full(len(best), 1 / len(best)))
    few, many = (
        overlooked(target, mixture, t, target.energies(t), log_z, most, rng)[0]
        for target, most in ((Target(problem, prior), 64), (Target(problem, prior), 8192))
    )
    assert len(best) == 32
    assert few > 0.05
    assert many < 0.02
