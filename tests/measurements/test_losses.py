"""The Huber loss, as the objective of every method by gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from torch import nn

import unrelu
from tests.support import random_network
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.measurements.objectives import Huber
from unrelu.problem import Problem

NET = random_network((5, 30, 120), seed=1)
DELTA = 0.15


def data(network=NET, size=3, outliers=0.1, seed=0):
    """Codes and observations with noise of 0.1, of which some entries are off by 5."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((size, network.latent_dim))
    y = network(z).reshape(size, -1)
    y = y + 0.1 * rng.standard_normal(y.shape) + 5 * (rng.random(y.shape) < outliers) * rng.standard_normal(y.shape)
    return z, y.reshape(size, *network.output_shape)


def test_it_is_twice_what_scipy_and_torch_say():
    r = np.random.default_rng(0).standard_normal((4, 30))
    y, mean = torch.zeros(4, 30, dtype=torch.float64), torch.tensor(r)
    found = Huber(DELTA).total(y, mean, torch.ones_like(y)).numpy()
    for residual, total in zip(r, found, strict=True):
        scipy = least_squares(lambda _, fixed=residual: fixed, [0.0], loss="huber", f_scale=DELTA, max_nfev=1).cost
        torch_ = nn.HuberLoss(delta=DELTA, reduction="sum")(torch.tensor(residual), y[0])
        np.testing.assert_allclose([2 * scipy, 2 * float(torch_)], total, rtol=1e-12)


def test_half_the_derivative_and_the_weight_of_squares():
    loss = Huber(DELTA)
    y, mean = torch.rand(2, 3, 30, dtype=torch.float64)
    r, weight = loss.scoring(y, mean)
    leaf = mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.total(y, leaf, torch.ones_like(y)).sum(), leaf)
    np.testing.assert_allclose(r, gradient / 2, rtol=1e-12)
    assert (weight > 0).all()


@pytest.mark.parametrize("method", ["auto", "lm"])
def test_the_best_code_is_that_of_scipy(method):
    z, y = data()
    result = unrelu.invert(NET, y, method, norm=f"huber:{DELTA}", **({"z0": z} if method == "lm" else {}))
    assert result.norm == "huber"
    for truth, observed, f in zip(z, y, result.fun, strict=True):
        best = least_squares(lambda c: NET(c) - observed, truth, loss="huber", f_scale=DELTA, xtol=1e-12)  # noqa: B023
        # Kinks part optima that are 1e-4 of each other, and SciPy's is not always the lowest.
        assert f <= (1 + (1e-6 if method == "lm" else 1e-3)) * 2 * best.cost


def test_outliers_move_the_code_less_than_in_l2():
    z, y = data()
    error = {norm: np.linalg.norm(unrelu.invert(NET, y, norm=norm).z - z) for norm in ("huber:0.15", "l2")}
    assert error["huber:0.15"] < 0.3 * error["l2"]


def test_the_threshold_follows_from_the_noise():
    z, y = data(outliers=0.0)
    stated = unrelu.invert(NET, y, "lm", norm="huber", noise="gaussian:0.1", z0=z)
    given = unrelu.invert(NET, y, "lm", norm="huber:0.1345", z0=z)
    np.testing.assert_allclose(stated.z, given.z, rtol=1e-9, atol=1e-9)
    assert stated.success.all(), "the p-value is that of the stated noise"
    assert np.isnan(given.p_value).all()
    r = np.abs(y - NET(stated.z)) / 0.1
    chi = np.where(r <= 1.345, r**2, 1.345 * (2 * r - 1.345)).sum(axis=1)
    whitened = unrelu.invert(
        NET, y, "lm", norm="huber", noise=unrelu.Gaussian(np.r_[0.1, np.full(119, 0.1000001)]), z0=z
    )
    np.testing.assert_allclose(whitened.fun, chi, rtol=1e-4)


def test_units_do_not_matter():
    z, y = data(outliers=0.05)
    small = unrelu.from_arrays([layer.matrix() * (1e-6 if layer is NET.layers[-1] else 1) for layer in NET.layers])
    one = unrelu.invert(NET, y, "lm", norm="huber:0.15", z0=z)
    other = unrelu.invert(small, 1e-6 * y, "lm", norm="huber:0.15e-6", z0=z)
    np.testing.assert_allclose(other.fun, 1e-12 * one.fun, rtol=1e-6)


def test_results_are_saved_and_verified(tmp_path):
    z, y = data()
    huber = unrelu.invert(NET, y, "lm", norm="huber:0.15", z0=z)
    huber.save(tmp_path / "huber.npz")
    again = unrelu.load_result(tmp_path / "huber.npz", NET)
    assert (again.norm, again.problem.stated_loss) == ("huber", Huber(0.15))


def test_a_run_takes_the_huber_loss(tmp_path):
    _, y = data()
    run = unrelu.run(NET, y, tmp_path / "out", "lm", norm="huber:0.15", workers=1)
    assert run.manifest["norm"] == "huber:0.15"
    assert run.manifest["about"]["objective"].startswith("Huber loss (huber:0.15)")
    assert "residual (l2)" in str(run)


@pytest.mark.parametrize(
    ("stated", "error", "message"),
    [
        ({"norm": "huber"}, InputError, "norm='huber': D of 'huber:D', .*; without D it is 1.345 standard"),
        ({"norm": "huber", "noise": "outliers:0.1"}, InputError, "of noise='gaussian:S', which must be stated then"),
        ({"norm": "huber:-1"}, InputError, "norm='huber:-1': D of 'huber:D', .* a number above 0"),
        ({"norm": "huber:x"}, InputError, "norm='huber:x': D of 'huber:D'"),
        ({"norm": "hubert"}, InputError, "norm='hubert' is unknown; .*; did you mean 'huber'"),
        ({"norm": "huber:1", "noise": "poisson"}, InputError, "by their deviance; leave norm= out"),
    ],
)  # fmt: skip
def test_what_cannot_be_minimised_is_refused(stated, error, message):
    with pytest.raises(error, match=message):
        Problem.build(NET, np.round(data()[1].clip(0)), **stated)


@pytest.mark.parametrize("method", ["linf", "exact"])
def test_methods_that_do_not_minimise_it_say_so(method):
    with pytest.raises(UnsupportedModelError, match=f"method='{method}' does not minimise norm='huber': use 'auto', "):
        unrelu.invert(NET, data()[1], method, norm="huber:0.1")
