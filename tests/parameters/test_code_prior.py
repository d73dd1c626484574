"""A normal prior of codes: the most probable code, for every noise with a density, in any units."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import optimize

import unrelu
from tests.support import lm_reach, random_network
from unrelu.errors import InputError
from unrelu.parameters.code_prior import Normal

MEAN, STD, S = np.array([1.0, -2.0, 0.5, 3.0]), np.array([0.5, 2.0, 0.1, 1.3]), 0.3
PRIOR = Normal(MEAN, STD)


def linear(seed=3, m=12, scale=1.0):
    rng = np.random.default_rng(seed)
    matrix, shift = scale * rng.normal(size=(m, 4)), scale * rng.normal(size=m)
    network = unrelu.from_arrays([matrix], [shift], activation="identity")
    y = network(MEAN + STD * rng.normal(size=(3, 4))) + scale * S * rng.normal(size=(3, m))
    return network, matrix, shift, y


def most_probable(matrix, shift, y, precision, prior=PRIOR):
    """argmin (y - b - W z)^T L (y - b - W z) + |(z - mean) / std|^2 by its normal equations."""
    inverse = np.diag(1 / np.square(np.broadcast_to(prior.std, 4)))
    right = matrix.T @ precision @ (y - shift) + inverse @ np.broadcast_to(prior.mean, 4)
    return np.linalg.solve(matrix.T @ precision @ matrix + inverse, right)


SIZES = np.random.default_rng(4).uniform(0.2, 0.6, 12)
FACTOR = 0.3 * np.eye(12) + 0.05 * np.tri(12)
NOISE = {
    "number": (unrelu.Gaussian(S), np.eye(12) / S**2, S**2),
    "array of one size": (unrelu.Gaussian(np.full(12, S)), np.eye(12) / S**2, S**2),
    "array": (unrelu.Gaussian(SIZES), np.diag(1 / SIZES**2), 1.0),
    "covariance": (unrelu.Gaussian(covariance=FACTOR @ FACTOR.T), np.linalg.inv(FACTOR @ FACTOR.T), 1.0),
}


@pytest.mark.parametrize("prior", [PRIOR, Normal(), Normal(0.5, 2.0), Normal(MEAN, 0.7)])
@pytest.mark.parametrize("case", NOISE)
def test_of_a_linear_generator_it_is_tikhonov_regularisation(case, prior):
    network, matrix, shift, y = linear()
    noise, precision, weight = NOISE[case]
    r = unrelu.invert(network, y, noise=noise, prior=prior)
    for i in range(3):
        z = most_probable(matrix, shift, y[i], precision, prior)
        hessian = matrix.T @ precision @ matrix + np.diag(1 / np.square(np.broadcast_to(prior.std, 4)))
        np.testing.assert_allclose(r.z[i], z, rtol=0, atol=2 * lm_reach(hessian, r.fun[i] / weight))
        gap = y[i] - network(z)
        objective = weight * (gap @ precision @ gap + np.sum(((z - prior.mean) / prior.std) ** 2))
        np.testing.assert_allclose(r.fun[i], objective, rtol=1e-9)
        np.testing.assert_allclose(r.problem.objective(r.z)[i], objective, rtol=1e-9)


@pytest.mark.parametrize("method", ["lm", "gradient_descent", "adam"])
def test_methods_from_a_start_find_it(method):
    network, matrix, shift, y = linear()
    prior = Normal(MEAN, 0.8)
    step = {"lm": {}, "gradient_descent": {"learning_rate": 0.02}, "adam": {"learning_rate": 0.05}}[method]
    r = unrelu.invert(network, y[0], method, noise=f"gaussian:{S}", prior=prior, **step)
    best = most_probable(matrix, shift, y[0], np.eye(12) / S**2, prior)
    np.testing.assert_allclose(r.z, best, atol=1e-3)


def test_a_number_with_the_weight_of_the_noise_is_the_standard_normal():
    network = random_network((4, 12, 20), seed=5, bias=True)
    y = network(np.random.default_rng(6).normal(size=(4, 4))) + S * np.random.default_rng(7).normal(size=(4, 20))
    ours = unrelu.invert(network, y, noise=f"gaussian:{S}", prior=unrelu.Normal())
    number = unrelu.invert(network, y, noise=f"gaussian:{S}", prior=S**2)
    np.testing.assert_array_equal(ours.z, number.z)
    np.testing.assert_array_equal(ours.p_value, number.p_value)


def test_it_does_not_depend_on_how_codes_are_measured():
    """G(z) under N(mean, std) and G(mean + std t) under N(0, I) are the same problem."""
    network = random_network((4, 16, 24), "leaky_relu", seed=8, bias=True)
    first, last = network.layers
    moved = unrelu.from_arrays(
        [first.matrix() / STD, last.matrix()], [first.bias() - first.matrix() @ (MEAN / STD), last.bias()],
        activation=["leaky_relu", "leaky_relu"],
    )  # fmt: skip
    rng = np.random.default_rng(9)
    t = rng.normal(size=(5, 4))
    y = network(t) + S * rng.normal(size=(5, 24))
    near, far = (
        unrelu.invert(generator, y, noise=f"gaussian:{S}", prior=prior)
        for generator, prior in ((network, Normal()), (moved, PRIOR))
    )
    np.testing.assert_allclose(far.z, MEAN + STD * near.z, atol=1e-6)
    for name in ("fun", "p_value"):
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), rtol=1e-6)
    assert (far.rank == near.rank).all()


def penalised(network, y, noise_objective, prior, bounds=None):
    """The least objective that SciPy finds from 20 starts of the prior."""
    starts = prior.mean + prior.std * np.random.default_rng(10).normal(size=(20, 4))

    def objective(z):
        return noise_objective(y, network(z)) + np.sum(((z - prior.mean) / prior.std) ** 2)

    found = [
        optimize.minimize(objective, np.clip(z, *bounds) if bounds else z, method="L-BFGS-B",
                          bounds=optimize.Bounds(*bounds) if bounds else None)
        for z in starts
    ]  # fmt: skip
    return min(found, key=lambda result: result.fun)


def gaussian(y, x):
    return np.sum((y - x) ** 2) / S**2


@pytest.mark.parametrize("bounds", [None, (np.array([0.8, -np.inf, 0.3, 0.0]), np.array([2.0, -3.0, np.inf, 2.0]))])
def test_scipy_finds_no_better_code(bounds):
    network = random_network((4, 12, 24), "leaky_relu", seed=11, bias=True)
    rng = np.random.default_rng(12)
    y = network(MEAN + STD * rng.normal(size=4)) + S * rng.normal(size=24)
    r = unrelu.invert(network, y, noise=f"gaussian:{S}", prior=PRIOR, bounds=bounds)
    best = penalised(network, y, gaussian, PRIOR, bounds)
    assert r.fun / S**2 <= best.fun * (1 + 1e-6)
    np.testing.assert_allclose(r.fun / S**2, gaussian(y, network(r.z)) + np.sum(((r.z - MEAN) / STD) ** 2), rtol=1e-9)
    if bounds is not None:
        assert ((r.z >= bounds[0]) & (r.z <= bounds[1])).all()
        assert r.active_bounds.any()


def test_counts_are_weighed_by_their_deviance():
    rng = np.random.default_rng(13)
    network = unrelu.from_arrays(
        [rng.normal(size=(10, 4)), 0.3 * rng.normal(size=(20, 10))], [rng.normal(size=10), np.full(20, 9.0)],
        activation=["leaky_relu", "relu"],
    )  # fmt: skip
    y = rng.poisson(network(MEAN + STD * rng.normal(size=4)))

    def deviance(counts, mean):
        mean = np.maximum(mean, 1e-3)
        return 2 * np.sum(np.where(counts > 0, counts * np.log(np.maximum(counts, 1) / mean), 0) - counts + mean)

    r = unrelu.invert(network, y, noise="poisson", prior=PRIOR)
    assert r.fun <= penalised(network, y, deviance, PRIOR).fun * (1 + 1e-5)
    np.testing.assert_allclose(r.fun, deviance(y, network(r.z)) + np.sum(((r.z - MEAN) / STD) ** 2), rtol=1e-9)


def test_of_a_generator_without_known_layers():
    matrix = torch.from_numpy(np.random.default_rng(14).normal(size=(12, 4)))
    network = unrelu.from_torch(lambda z: torch.sin(0.3 * z).flatten(1) @ matrix.to(z).T, latent_shape=(2, 2))
    mean, std = np.array([[0.5, -0.5], [0.2, 0.1]]), np.array([[0.5, 1.0], [0.1, 2.0]])
    y = network(mean) + S * np.random.default_rng(15).normal(size=12)
    r = unrelu.invert(network, y, "lm", noise=f"gaussian:{S}", prior=Normal(mean, std))
    assert r.z.shape == (2, 2)
    flat = Normal(mean.ravel(), std.ravel())
    best = penalised(network, y, gaussian, flat)
    np.testing.assert_allclose(r.z.ravel(), best.x, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "bounds"), [({"noise": "gaussian:0.3"}, (-1.0, 4.0)), ({"noise": unrelu.Gaussian(SIZES)}, None)]
)
def test_a_file_keeps_it(tmp_path, options, bounds):
    network, _, _, y = linear()
    r = unrelu.invert(network, y, prior=PRIOR, bounds=bounds, **options)
    r.save(tmp_path / "r.npz")
    for again in (unrelu.load_result(tmp_path / "r.npz", network), unrelu.load_result(tmp_path / "r.npz")):
        assert again.problem.normal == PRIOR
        np.testing.assert_array_equal(again.fun, r.fun)
    assert unrelu.load_result(tmp_path / "r.npz", network)[1].problem.objective(r.z[[1]]) == pytest.approx(r.fun[1])


def test_a_run_keeps_it(tmp_path):
    network, _, _, y = linear()
    finished = unrelu.run(network, y, tmp_path / "run", noise="gaussian:0.3", prior=PRIOR, workers=1)
    codes = finished.read("codes")
    # Refinement ends where f can fall by 1e-13 of itself: codes differ by sqrt(1e-13 f / curvature) at most, 1e-7 here.
    np.testing.assert_allclose(codes, unrelu.invert(network, y, noise="gaussian:0.3", prior=PRIOR).z, atol=1e-6)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["prior"] == PRIOR.plain()
    assert finished.finished
    with pytest.raises(InputError, match=r"prior\.mean"):
        unrelu.run(network, y, tmp_path / "run", noise="gaussian:0.3", prior=Normal(0.0, STD), workers=1)


def test_what_it_is():
    assert Normal(MEAN, STD) == Normal(MEAN.tolist(), STD.copy())
    assert hash(Normal(MEAN, STD)) == hash(Normal(MEAN.copy(), STD))
    assert Normal(0, 1) != Normal(0, 2)
    assert Normal() != "Normal(0, 1)"
    assert str(Normal()) == "Normal(0, 1)"
    assert str(PRIOR) == "Normal(array(4,), array(4,))"
    given = MEAN.copy()
    kept = Normal(given)
    given[0] = 99
    assert kept.mean[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        kept.mean[0] = 2.0
    assert Normal(np.zeros(3), 1).standard
    assert not Normal(np.zeros(3), [1, 1, 2]).standard


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "std is 0, and must be above 0"),
        ((0, [1, -2.0]), r"std\[1\] is -2, and must be above 0"),
        ((np.nan, 1), "mean is nan, and must be finite"),
        ((0, [[1, np.nan]]), r"std\[0, 1\] is nan, and must be above 0; for a coordinate of which nothing is known"),
        (([0, np.inf], 1), r"mean\[1\] is inf, and must be finite"),
        (({"a": 0}, {"b": 1}), "mean names a, and std b; name the same coordinates in both"),
        (({"a": 0}, 1), "mean names a, and std is 1; name the same coordinates in both"),
        ((0, {"a": [1, 2]}), "pass a number for each name"),
        ((0, {"a": 0}), "std is 0, and must be above 0"),
        (("zero", 1), "prior=Normal: mean='zero' is text"),
        ((0, 1e-320), "must be above 0"),
    ],
)
def test_what_it_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        Normal(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"prior='Normal\(0, 1\)' asks for the most probable code, and noise=None is not stated; state 'gaussian"),
        ({"noise": "uniform:0.1"}, "noise=uniform:0.1 makes all errors up to its bound equally probable"),
        ({"noise": "outliers:0.1"}, "noise=outliers:0.1 leaves the size of its errors open"),
        ({"noise": "rounding:0.1"}, "noise=rounding:0.1 does not say how its errors are distributed"),
        (
            {"noise": "gaussian:1e-200"},
            "noise=gaussian:1e-200 is more than .*, or so much less, so that squares overflow or vanish",
        ),
        ({"noise": "gaussian:1e200"}, "is more than 1e.100 times what the generator puts out"),
        ({"noise": "gaussian:0.1", "norm": "l1"}, "norm='l1' is not the likelihood of noise=gaussian:0.1"),
        ({"noise": "gaussian:0.1", "norm": "huber"}, "norm='huber' is not the likelihood"),
        ({"noise": "gaussian:0.1", "prior": Normal(np.zeros(3))}, r"mean has shape \(3,\), a code has shape \(4,\)"),
        ({"noise": "gaussian:0.1", "method": "linf"}, "prior=Normal: method='linf' inverts layers"),
        ({"noise": "gaussian:0.1", "prior": Normal(1e20, 1), "bounds": (0, 1)}, "too far to compute with"),
        ({"noise": "gaussian:0.1", "prior": Normal(0, 1e-300), "bounds": (-1e10, 1e10)}, "too far to compute with"),
        ({"noise": "gaussian:0.1", "prior": Normal}, r"must be a number, the weight of \|z\|\^2, or unrelu.Normal"),
    ],
)
def test_what_does_not_suit_it(options, message):
    network, _, _, y = linear()
    error = unrelu.errors.UnreluError if "prior" in options and options["prior"] is Normal else InputError
    with pytest.raises(error, match=message):
        unrelu.invert(network, y, **{"prior": Normal(), **options})
