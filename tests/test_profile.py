"""``unrelu.profile``: the best objective with coordinates held, against fits of its own and against algebra."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

import unrelu
from unrelu.errors import InputError

RNG = np.random.default_rng(490)
MATRIX, SIGMA = RNG.normal(size=(12, 3)), 0.1
LINEAR = unrelu.from_arrays([MATRIX], activation="identity").named(["a", "b", "c"])
Y = MATRIX @ [0.5, -0.2, 0.3] + SIGMA * RNG.normal(size=12)
MEAN = np.linalg.lstsq(MATRIX, Y, rcond=None)[0]
COVARIANCE = SIGMA**2 * np.linalg.inv(MATRIX.T @ MATRIX)
GAUSSIAN = f"gaussian:{SIGMA}"


def test_the_profile_of_a_linear_generator_is_a_parabola():
    deviation = np.sqrt(COVARIANCE[1, 1])
    values = MEAN[1] + deviation * np.linspace(-2.5, 2.5, 9)
    found = unrelu.profile(LINEAR, Y, "b", values[::-1], noise=GAUSSIAN)
    np.testing.assert_array_equal(found.values[0], values)
    np.testing.assert_allclose(found.delta, ((values - MEAN[1]) / deviation) ** 2, atol=1e-6)
    for level in (0.5, 0.6827, 0.95):
        half = deviation * np.sqrt(chi2.ppf(level, 1))
        np.testing.assert_allclose(found.interval(level), (MEAN[1] - half, MEAN[1] + half), atol=1e-6 * deviation)
    assert (found.z[:, 1] == values).all()
    assert np.isnan(found.interval(0.9999)).all()  # the values end before
    assert "Profile of b, 9 values" in str(found)


def test_two_coordinates_make_a_grid_whose_objectives_are_those_of_single_fits():
    axes = [MEAN[j] + np.sqrt(COVARIANCE[j, j]) * np.linspace(-2, 2, 3 + j) for j in (0, 1)]
    found = unrelu.profile(LINEAR, Y, ["a", "b"], axes, noise=GAUSSIAN)
    away = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - MEAN[:2]
    expected = np.einsum("...i,ij,...j->...", away, np.linalg.inv(COVARIANCE[:2, :2]), away)
    np.testing.assert_allclose(found.delta, expected, atol=1e-6)
    with pytest.raises(InputError, match="of one coordinate"):
        found.interval()
    assert len(found.plot().axes) == 1


def test_every_value_of_a_folded_generator_has_its_best_code():
    """|z| has two optima; each value of the other coordinate is searched, and a brute force finds nothing better."""
    net = unrelu.from_arrays(
        [[[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], np.eye(4)], activation=["relu", "identity"]
    )
    y = net([0.8, 0.4]) + np.array([0.3, 0.5, 0.0, 0.1])
    values = np.linspace(-1.0, 1.0, 5)
    found = unrelu.profile(net, y, 1, values, noise="gaussian:0.1", bounds=(-2, 2))
    line = np.linspace(-2, 2, 8001)
    for value, fun in zip(values, found.fun, strict=True):
        codes = np.column_stack([line, np.full(len(line), value)])
        best = np.square(y - net(codes)).sum(axis=1).min()
        assert best - 1e-3 <= fun <= best + 1e-9


def test_a_callback_ends_it_with_the_values_so_far():
    calls = []
    found = unrelu.profile(LINEAR, Y, "a", [0.4, 0.5, 0.6], noise=GAUSSIAN, callback=lambda _: calls.append(1) or True)
    assert calls
    assert np.isnan(found.fun).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h", [1.0, 2.0]), "'h' is none of the 3 coordinates.*those with names are a, b, c"),
        (("a", [1.0]), "values of a: .*at least two different numbers"),
        (("a", [0.0, 7.0]), "fixed: 'a' has 7.0; pass one finite number from -5 to 5"),
        ((["a", 0], [[0.0, 1.0], [0.0, 1.0]]), "is held twice"),
        ((["a", "b", "c"], [[0.0, 1.0]] * 3), "3 coordinates and values of 3; hold one or two"),
    ],
)
def test_what_cannot_be_profiled_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        unrelu.profile(LINEAR, Y, *arguments, noise=GAUSSIAN, bounds=(-5, 5))


def test_an_interval_needs_a_density_and_a_level():
    uniform = unrelu.profile(LINEAR, Y, "a", [0.4, 0.6], noise="uniform:1")
    with pytest.raises(InputError, match="a likelihood ratio needs the density"):
        uniform.interval()
    found = unrelu.profile(LINEAR, Y, "a", [0.4, 0.6], noise=GAUSSIAN)
    with pytest.raises(InputError, match="level=2 must be a probability"):
        found.interval(2)
