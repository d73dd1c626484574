"""Runs, under noise of arrays: as `unrelu.invert`, and resumed."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.support import random_network
from unrelu.errors import InputError

NET = random_network((3, 12, 20), seed=4, bias=True)
RNG = np.random.default_rng([37, 4])
COVARIANCE = 0.01 * (np.exp(-np.abs(np.subtract.outer(np.arange(20), np.arange(20))) / 3) + 0.1 * np.eye(20))
Y = NET(RNG.normal(size=(5, 3))) + RNG.normal(size=(5, 20)) @ np.linalg.cholesky(COVARIANCE).T
NOISES = {"covariance": unrelu.Gaussian(covariance=COVARIANCE), "sizes": unrelu.Gaussian(RNG.uniform(0.05, 0.2, 20))}


def started(folder, noise, **options):
    return unrelu.run(NET, Y, folder, "lm", noise=noise, workers=1, chunk=2, **options)


@pytest.mark.parametrize("name", NOISES)
def test_a_run_is_invert_under_the_same_noise(name, tmp_path):
    run = started(tmp_path / "out", NOISES[name])
    residual = Y - run.read("reconstructions")
    if name == "covariance":
        chi_square = np.einsum("ij,ij->i", residual, np.linalg.solve(COVARIANCE, residual.T).T)
    else:
        chi_square = ((residual / NOISES[name].level) ** 2).sum(axis=1)
    np.testing.assert_allclose(run.read("objective"), chi_square, rtol=1e-8)
    again = unrelu.invert(NET, Y, "lm", noise=NOISES[name], z0=run.read("codes"))
    np.testing.assert_allclose(run.read("p_value"), again.p_value, rtol=1e-4)
    about = run.manifest["about"]
    assert about["noise"] == about["question"]["noise"] == str(NOISES[name])
    assert about["objective"] == "chi-square, whitened"
    assert about["uniform_p"]


def test_it_resumes_under_the_same_noise_alone(tmp_path):
    started(tmp_path / "out", NOISES["covariance"])
    assert started(tmp_path / "out", NOISES["covariance"]).finished
    with pytest.raises(InputError, match="noise_sha256"):
        started(tmp_path / "out", unrelu.Gaussian(covariance=2 * COVARIANCE))
    started(tmp_path / "out", "gaussian:0.1", overwrite=True)


def test_posteriors_of_a_run_are_under_it(tmp_path):
    net = unrelu.from_arrays([RNG.normal(size=(20, 2))], activation="identity")
    y = net([[0.5, -0.5]]) + RNG.normal(size=(1, 20)) @ np.linalg.cholesky(COVARIANCE).T
    run = unrelu.run(net, y, tmp_path / "out", "lm", noise=NOISES["covariance"], posterior=200, workers=1)
    alone = unrelu.posterior(net, y[0], noise=NOISES["covariance"], draws=200)
    np.testing.assert_allclose(run.read("mean")[0], alone.mean)


@pytest.mark.parametrize(
    ("noise", "options", "message"),
    [
        (unrelu.Gaussian(np.full((5, 20), 0.1)), {}, "the level has shape"),
        (unrelu.Gaussian(np.full((2, 20), 0.1)), {}, "differs between observations"),
        (unrelu.Gaussian(covariance=np.eye(19)), {}, "is of 19 entries"),
        (NOISES["covariance"], {"masks": np.ones((5, 20))}, "show the same entries"),
    ],
)
def test_noise_that_does_not_suit_all_observations_is_refused(noise, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        started(tmp_path / "out", noise, **options)
    assert not (tmp_path / "out").exists()
