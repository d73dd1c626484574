"""Codes at kinks: which of them are identifiable, against an enumeration of all sign patterns in exact arithmetic."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.diagnostics import _solution_cones as cones
from unrelu.diagnostics.identifiability import local_rank
from unrelu.measurements import read_operator
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense
from unrelu.models.network import Network
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.streams import stream

SLOPES = (0.0, 0.0, 0.0, 0.5, 2.0, -1.0)
# Of the exhaustive enumeration; a code with more is drawn again.
MOST_KINKS = 6


def largest_dimension(layers, z, matrix, outward):
    """The dimension of the codes around z with the same observation, from all sign patterns.

    Weights are small integers and slopes halves, so that every number here is exact.
    """
    patterns = [(np.eye(len(z)), list(outward))]
    x = z
    for weight, bias, slope in layers:
        u = weight @ x + bias
        x = np.where(u > 0, u, slope * u)
        fixed = np.where(u > 0, 1.0, slope)
        kinks = np.flatnonzero((u == 0) & (slope != 1))
        following = []
        for tangents, normals in patterns:
            v = weight @ tangents
            for signs in np.ndindex(*(2,) * len(kinks)):
                on = np.array(signs, dtype=bool)
                factor = fixed.copy()
                factor[kinks] = np.where(on, 1.0, slope[kinks])
                sides = np.where(on[:, None], -v[kinks], v[kinks])
                following.append((factor[:, None] * v, [*normals, *sides]))
        patterns = following
    return max(dimension_of_cone(matrix @ tangents, np.array(normals)) for tangents, normals in patterns)


def dimension_of_cone(equal, normals):
    """Of {d: equal d = 0, normals d <= 0} in R^k, k at most 3: the rank of its lines and of its extreme rays.

    An extreme ray of a cone without lines is the null space of k - 1 of its rows.
    """
    k = equal.shape[1]
    normals = normals.reshape(-1, k)
    rows = np.vstack([equal, normals])
    rows = np.unique(rows[rows.any(axis=1)], axis=0)
    lines = directions_across(rows, k)
    across = np.vstack([rows, lines])
    rays = [lines]
    for chosen in combinations(range(len(across)), k - 1):
        ray = perpendicular(across[list(chosen)], k)
        for d in (ray, -ray):
            if d.any() and not (equal @ d).any() and not (lines @ d).any() and (normals @ d <= 0).all():
                rays.append(d[None])
    return int(np.linalg.matrix_rank(np.vstack(rays))) if sum(map(len, rays)) else 0


def perpendicular(rows, k):
    """A vector across k - 1 rows, zero where they are dependent."""
    if k == 1:
        return np.ones(1)
    return np.array([-rows[0, 1], rows[0, 0]]) if k == 2 else np.cross(*rows)


def directions_across(rows, k):
    """A basis of the null space of the rows, in numbers as exact as theirs, (., k)."""
    candidates = [np.eye(k)]
    for chosen in combinations(range(len(rows)), k - 1):
        candidates.append(perpendicular(rows[list(chosen)], k)[None])
    if k == 3:
        candidates += [np.cross(row, np.eye(3)) for row in rows]
    basis = np.zeros((0, k))
    for d in np.vstack(candidates):
        if not (rows @ d).any() and np.linalg.matrix_rank(np.vstack([basis, d])) > len(basis):
            basis = np.vstack([basis, d])
    return basis


def drawn(number):
    """A net of small integers with a code at kinks: its layers, code, operator as an argument and a matrix, bounds."""
    rng = stream("tests.solution cones", number)
    while True:
        k, depth = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        widths = [k, *rng.integers(1, 5, depth)]
        layers, x = [], z = [], rng.integers(-1, 2, k).astype(float)
        layers, x, kinks = [], z, 0
        kind = SLOPES[number % len(SLOPES)]
        for below, n in pairwise(widths):
            weight = rng.integers(-2, 3, (n, below)).astype(float)
            bias = rng.integers(-1, 2, n) * (rng.random() < 0.5)
            u = weight @ x + bias
            bias = np.where(rng.random(n) < 0.5, bias - u, bias).astype(float)  # half of the neurons at their kink
            slope = np.full(n, kind) if rng.random() < 0.8 else rng.choice(SLOPES, n)
            if len(layers) == depth - 1 and rng.random() < 0.3:
                slope = np.ones(n)
            u = weight @ x + bias
            x = np.where(u > 0, u, slope * u)
            layers.append((weight, bias, slope))
            kinks += int(((u == 0) & (slope != 1)).sum())
        if 0 < kinks <= MOST_KINKS:
            break
    n, operator, matrix = widths[-1], None, np.eye(widths[-1])
    if number % 4 == 1:
        operator = rng.random(n) < 0.7
        operator[rng.integers(n)] = True
        matrix = np.diag(operator.astype(float))
    elif number % 4 == 2:
        matrix = rng.integers(-1, 2, (int(rng.integers(1, 4)), n)).astype(float)
        operator = unrelu.Matrix(matrix)
    side = rng.integers(-1, 2, k) * (number % 3 == 0)
    bounds = Bounds.parse((np.where(side < 0, z, -5.0), np.where(side > 0, z, 5.0)), (k,)) if side.any() else None
    return layers, z, operator, matrix, side, bounds


def network_of(layers):
    steps = []
    for weight, bias, slope in layers:
        steps += [Dense(torch.from_numpy(weight), torch.from_numpy(bias)), Activation("prelu", slope)]
    return Network.chain(steps, (layers[0][0].shape[1],))


@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.long)])
def test_codes_at_kinks_against_all_sign_patterns(count):
    """Nets of depth 1 to 3: no false word, and none undecided."""
    expected, found = [], []
    for number in range(count):
        layers, z, operator, matrix, side, bounds = drawn(number)
        network = network_of(layers)
        read = read_operator(operator, (matrix.shape[1],), (1, len(matrix)), network)
        found.append(int(local_rank(network, z[None], read, bounds=bounds)[1][0]))
        expected.append(largest_dimension(layers, z, matrix, np.diag(side)[side != 0]))
        if bounds is None and number % 10 == 0:
            told = unrelu.identifiability(network, z, operator)
            assert (told.dimension, told.identifiable) == (found[-1], found[-1] == 0), number
    assert 0.25 < np.mean(np.array(expected) == 0) < 0.75
    np.testing.assert_array_equal(found, expected)


def test_two_neurons_of_opposite_signs_at_one_kink():
    """-a + b / 2 + c of a = relu(z), b = relu(-z), c = relu(z): every z >= 0 gives 0, and z < 0 gives -z / 2."""
    network = unrelu.from_arrays(
        [np.array([[1.0], [-1.0], [1.0]]), np.array([[-1.0, 0.5, 1.0]])], activation=["relu", "identity"]
    )
    told = unrelu.identifiability(network, [[0.0], [1.0], [-1.0]])
    assert told.dimension.tolist() == [1, 1, 0]
    assert told.identifiable.tolist() == [False, False, True]
    np.testing.assert_allclose(np.abs(told.directions(0)), [[1.0]])


def test_beyond_the_limits_it_is_unknown(monkeypatch):
    network, code = random_network((6, 12, 14)), np.zeros(6)
    decided = unrelu.identifiability(network, code).dimension
    for name in ("MOST_PATTERNS", "MOST_NEURONS"):
        with monkeypatch.context() as patched:
            patched.setattr(cones, name, 1)
            told = unrelu.identifiability(network, code)
        assert (told.dimension, told.identifiable) == (-1, False)
        assert told.directions().shape == (6, 0)
    assert decided >= 0
