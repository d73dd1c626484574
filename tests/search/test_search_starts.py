"""Where the descents of the joint search start, and how long the perturbations of their ends are."""

import numpy as np
import pytest
from scipy.stats import kstest

from tests.support import farthest, random_network
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.search.sample_cache import SampleCache, SearchStarts

SIZES = [(10, 30, 60), (4, 10, 16), (6, 10, 12, 40)]
every_size = pytest.mark.parametrize("sizes", SIZES)


def starts_of(sizes, count=2, **options):
    network = random_network(sizes, seed=1, bias=True)
    y = network(np.random.default_rng(2).standard_normal((count, sizes[0]))) + 0.1
    problem = Problem.build(network, y, **options)
    return SearchStarts(problem, SampleCache.of(problem), SquaredError.of(problem, network))


@every_size
def test_one_start_of_four_is_random_and_up_to_three_times_as_far_out(sizes):
    codes = starts_of(sizes).codes(np.array([0]), 0, 4000)[0]
    scale = np.sqrt(np.square(codes[3::4]).mean(axis=1))  # about s of N(0, s^2 I), which is log-uniform from 1 to 3
    median, most = np.quantile(scale, (0.5, 0.95))
    assert 0.85 * 3**0.5 < median < 1.15 * 3**0.5
    assert 2 < most < 5
    # E s^2 = (9 - 1) / (2 log 3), and the mean of as many normal draws is beyond four deviations once in 16,000.
    assert abs(codes[3::4].mean()) < 4 * np.sqrt(8 / (2 * np.log(3)) / codes[3::4].size)


def test_the_first_start_is_the_mean_of_the_model_and_others_are_drawn_from_it():
    starts = starts_of((10, 30, 60))
    codes = starts.codes(np.array([0, 1]), 0, 4000)
    y, variance = starts.objective.y, float(starts._variance[0])
    mean, covariance = (t.double().numpy() for t in starts._samples.posterior(starts._operator, y, variance))
    np.testing.assert_allclose(codes[:, 0], mean, atol=1e-5)
    inside = np.delete(codes[1], np.r_[0, 3:4000:4], axis=0)
    spread = covariance[0]
    np.testing.assert_allclose(inside.mean(axis=0), mean[1], atol=5 * np.sqrt(np.trace(spread) / 3000))
    np.testing.assert_allclose(np.cov(inside.T), spread, atol=0.2 * np.abs(spread).max())


@every_size
def test_perturbations_are_a_tenth_of_the_codes_length_to_ten_times_that(sizes):
    """In all directions; their length, in units of the code's, is log-uniform."""
    perturbations = starts_of(sizes).perturbations(np.array([0]), 100, 40)[0]
    assert perturbations.shape == (100, 40, sizes[0])
    length = np.sqrt(np.square(perturbations).mean(axis=2)).ravel()
    median, least, most = np.quantile(length, (0.5, 0.05, 0.95))
    assert 0.85 < median < 1.15
    assert 0.05 < least < 0.2
    assert 5 < most < 20
    directions = (perturbations / np.linalg.norm(perturbations, axis=2, keepdims=True)).reshape(-1, sizes[0])
    assert np.abs(directions.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose(directions.T @ directions / len(directions), np.eye(sizes[0]) / sizes[0], atol=0.05)


def test_each_observation_has_a_stream_of_its_own():
    together, alone = starts_of((4, 10, 16), count=3), starts_of((4, 10, 16), count=3)
    rows = np.arange(3)
    codes, perturbations = together.codes(rows, 0, 6), together.perturbations(rows, 6, 4)
    row = np.array([2])
    np.testing.assert_allclose(alone.codes(row, 0, 6)[0], codes[2], rtol=1e-4, atol=1e-6)  # a model for all at once
    np.testing.assert_array_equal(alone.perturbations(row, 6, 4)[0], perturbations[2])
    assert len(np.unique(perturbations)) == perturbations.size
    other = starts_of((4, 10, 16), count=3, seed=1)
    other.codes(rows, 0, 6)
    assert not (other.perturbations(rows, 6, 4) == perturbations).any()


def test_random_starts_between_two_bounds_are_uniform_and_all_are_inside():
    starts = starts_of((6, 10, 12, 40), bounds=(-2.0, 1.0))
    codes = starts.codes(np.array([0]), 0, 4000)[0]
    assert ((codes >= -2) & (codes <= 1)).all()
    assert kstest(codes[3::4].ravel(), "uniform", (-2, 3)).statistic < farthest(codes[3::4].size)
    assert np.mean((codes == -2) | (codes == 1)) < 0.02  # mirrored ones do not heap up at the ends
