"""The freedom: how many latent directions leave the output alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unrelu
from tests.support import freedom, random_network
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network

KINDS = ("relu", "leaky_relu:0.1", "identity", "tanh")


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    bias=st.booleans(),
)
def test_freedom_is_what_the_rank_of_the_jacobian_leaves(sizes, kind, seed, bias):
    network = random_network(tuple(sizes), kind, seed, bias)
    z = np.random.default_rng(seed).standard_normal((4, sizes[0]))
    rank = np.linalg.matrix_rank(network.jacobian(z), rtol=1e-10)
    np.testing.assert_array_equal(freedom(network, z), sizes[0] - rank)


def test_free_directions_leave_the_output_alone():
    network = random_network((6, 8, 20))
    z = np.random.default_rng(1).standard_normal((30, 6))
    free = freedom(network, z)
    assert set(free) > {0}
    for code, count in zip(z, free, strict=True):
        _, _, right = np.linalg.svd(network.jacobian(code))
        moved = code + 1e-6 * right[6 - count :]
        size = np.abs(network(code)).max() + 1e-6
        np.testing.assert_allclose(network(moved), np.broadcast_to(network(code), (count, 20)), atol=1e-12 * size)
        if count < 6:
            assert np.abs(network(code + 1e-6 * right[5 - count]) - network(code)).max() > 1e-9


@pytest.mark.parametrize("side", [1e-13, 0.0, -1e-13])
def test_neurons_at_their_kink_count_as_off_on_either_side_of_rounding(side):
    network = Network.chain([Dense(torch.eye(2, dtype=torch.float64)), Activation("relu")], (2,))
    assert freedom(network, np.array([[1.0, side]])) == 1


def test_a_code_at_kinks_that_no_direction_leaves_is_unique():
    """All outputs are zero at z = 0, yet W z <= 0 leaves nothing else: J = 0 does not mean that all of R^3 is free."""
    corner = np.vstack([np.eye(3), -np.ones((1, 3))])
    network = unrelu.from_arrays([corner])
    assert freedom(network, np.zeros((1, 3)))[0] == 0
    result = unrelu.invert(network, np.zeros(4), "exact")
    assert (result.status, result.freedom) == (unrelu.Status.EXACT_FIT, 0)


def test_kinks_with_room_on_their_off_side_leave_a_cone():
    network = unrelu.from_arrays([np.eye(3)])
    assert freedom(network, np.zeros((1, 3)))[0] == 3
    assert freedom(network, np.array([[1.0, 0.0, 0.0]]))[0] == 2


def test_the_piece_on_which_kinks_come_on_is_looked_at():
    """G(z) = max(0, relu(z + 1) - relu(z)) is 1 for all z >= 0, and z + 1 just below."""
    network = unrelu.from_arrays(
        [np.array([[1.0], [1.0]]), np.array([[-1.0, 1.0]])], [np.array([0.0, 1.0]), np.zeros(1)]
    )
    assert freedom(network, np.zeros((1, 1)))[0] == 1
    assert unrelu.invert(network, np.ones(1), "lm").status is unrelu.Status.NOT_UNIQUE
