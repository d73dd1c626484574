"""Where the descents of the joint search start, and how far they hop."""

import numpy as np
import pytest

from tests.support import random_network
from unrelu.local_search.squared_error import SquaredError
from unrelu.problem import Problem
from unrelu.search.sample_bank import Bank
from unrelu.search.search_starts import SearchStarts

# Layer sizes, how far the furthest random start is drawn, and the longest hop, in standard deviations.
WIDTHS = [((10, 30, 60), 3, 4), ((4, 10, 16), 3, 4), ((6, 10, 12, 40), 30, 32)]


def starts_of(sizes, **options):
    network = random_network(sizes, seed=1, bias=True)
    y = network(np.random.default_rng(2).standard_normal((2, sizes[0]))) + 0.1
    problem = Problem.build(network, y, **options)
    return SearchStarts(problem, Bank.of(network, problem.bounds), SquaredError.of(problem, network))


@pytest.mark.parametrize(("sizes", "furthest", "longest"), WIDTHS)
def test_one_start_of_four_is_random_and_further_out_where_layers_are_very_narrow(sizes, furthest, longest):
    codes = starts_of(sizes).codes(np.array([0]), 0, 2000)[0]
    scale = np.sqrt(np.square(codes[3::4]).mean(axis=1))  # about s of N(0, s^2 I)
    median, most = np.quantile(scale, (0.5, 0.95))
    assert 0.8 * furthest**0.5 < median < 1.2 * furthest**0.5  # log-uniform from 1
    assert 0.6 * furthest < most < 1.7 * furthest


@pytest.mark.parametrize(("sizes", "furthest", "longest"), WIDTHS)
def test_hops_are_longer_where_layers_are_very_narrow(sizes, furthest, longest):
    starts = starts_of(sizes)
    moves = starts.moves(np.array([0]), 100, 20)[0].reshape(-1, sizes[0])
    within = moves @ np.linalg.pinv(starts._factor[0]).T  # h xi
    length = np.sqrt(np.square(within).mean(axis=1))
    median, most = np.quantile(length, (0.5, 0.95))
    assert 0.8 * (0.5 * longest) ** 0.5 < median < 1.2 * (0.5 * longest) ** 0.5  # log-uniform from 0.5
    assert 0.6 * longest < most < 1.7 * longest


def test_half_of_the_trials_of_a_linearised_hop_are_as_far_as_random_starts():
    starts = starts_of((6, 10, 12, 40))
    trials = starts.trials(np.array([0, 1]), 50, 10, 4)
    assert trials.shape == (2, 50, 10, 4, 6)
    within, far = trials[0, :, :, :2].reshape(-1, 6), trials[0, :, :, 2:].reshape(-1, 6)
    length = np.sqrt(np.square(within @ np.linalg.pinv(starts._factor[0]).T).mean(axis=1))
    assert 0.8 * 16**0.5 < np.median(length) < 1.2 * 16**0.5
    scale = np.sqrt(np.square(far).mean(axis=1))
    assert 0.8 * 30**0.5 < np.median(scale) < 1.2 * 30**0.5
    assert len(np.unique(trials)) == trials.size
    alone = starts_of((6, 10, 12, 40)).trials(np.array([1]), 50, 10, 4)
    np.testing.assert_array_equal(alone[0], trials[1])  # each observation has a stream of its own


def test_hops_in_a_box_do_not_heap_up_at_its_corners():
    starts = starts_of((6, 10, 12, 40), bounds=(-2, 2))
    moves = starts.moves(np.array([0]), 100, 20)[0].reshape(-1, 6)
    assert np.mean(np.abs(starts.problem.bounds.reflect(moves)) == 2) < 0.02


def test_the_first_start_is_the_mean_of_the_model():
    starts = starts_of((10, 30, 60))
    codes = starts.codes(np.array([0, 1]), 0, 3)
    np.testing.assert_array_equal(codes[:, 0], starts._mean)
    assert (codes[:, 1] != codes[:, 0]).all()
