"""Planck 2018 TT, TE and EE by three published networks joined, against SciPy on the same likelihood.

The data (plik-lite) are in the folder ``planck2018_plik_lite`` of UNRELU_DATA; the networks are CosmoPower-JAX's.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import linalg, optimize

import unrelu
from unrelu.result import Status

DATA = os.environ.get("UNRELU_DATA")
PACKAGE = find_spec("cosmopower_jax")
pytestmark = pytest.mark.skipif(not DATA or PACKAGE is None, reason="UNRELU_DATA is not set, or no cosmopower_jax")

BOUNDS = {
    "omega_b": (0.019, 0.025), "omega_cdm": (0.08, 0.16), "h": (0.5, 0.9), "tau_reio": (0.01, 0.15), "n_s": (0.85, 1.1),
    "ln10^{10}A_s": (2.6, 3.5),
}  # fmt: skip
# The binned likelihood of planck-lite-py at the Planck 2015 spectra: -2 log L.
PUBLISHED = 2 * 291.33481


@pytest.fixture(scope="module")
def likelihood():
    """Measurements in microkelvin^2, the matrix of bins of spectra from multipole 2 on, and the covariance."""
    folder = Path(DATA) / "planck2018_plik_lite"
    first, last = (np.loadtxt(folder / f"bl{end}.dat").astype(int) for end in ("min", "max"))
    weights, bins = np.loadtxt(folder / "bweight.dat"), np.zeros((215, 2507))
    for row, low, high in zip(bins, first, last, strict=False):
        row[low + 28 : high + 29] = weights[low : high + 1]
    # A record of Fortran: its length in bytes, then the numbers.
    covariance = np.fromfile(folder / "c_matrix_plik_v22.dat", offset=4, count=613**2).reshape(613, 613)
    covariance = np.tril(covariance) + np.tril(covariance, -1).T
    return np.loadtxt(folder / "cl_cmb_plik_v22.dat")[:, 1], bins, covariance


@pytest.fixture(scope="module")
def network():
    """Spectra in (K/2.7255)^2, joined, with the calibration."""
    folder = Path(PACKAGE.submodule_search_locations[0])
    arrays = (
        np.load(folder / f"pca_utils/cmb_te_{n}.npy") for n in ("pca_transform_matrix", "training_std", "training_mean")
    )
    matrix, std, mean = arrays
    tt, ee = (unrelu.load(folder / f"trained_models/cmb_{name}.pkl", output_log=10) for name in ("tt", "ee"))
    te = unrelu.load(folder / "trained_models/cmb_te.pkl", output_basis=(matrix * std, mean))
    joined = unrelu.join(tt=tt, te=te, ee=ee)
    return unrelu.extend(joined, lambda x, A_planck: x / A_planck**2, A_planck=unrelu.Normal(1, 0.0025))


def test_the_fit_is_that_of_scipy(network, likelihood):
    values, bins, covariance = likelihood
    bins = bins * 2.7255e6**2
    problem = {
        "operator": {"tt": bins, "te": bins[:199], "ee": bins[:199]}, "noise": unrelu.Gaussian(covariance=covariance),
        "prior": unrelu.Normal({"tau_reio": 0.0544}, {"tau_reio": 0.0073}), "bounds": BOUNDS,
    }  # fmt: skip
    result = unrelu.invert(network, {"tt": values[:215], "te": values[215:414], "ee": values[414:]}, **problem)
    assert result.status == Status.NOISE_LEVEL
    assert result.confidence > 0.98
    factor = np.linalg.cholesky(covariance)

    def residual(u):
        x = network.by_part(network(low + (high - low) * u))
        measured = np.concatenate([bins @ x["tt"], bins[:199] @ x["te"], bins[:199] @ x["ee"]])
        z = low + (high - low) * u
        return [*linalg.solve_triangular(factor, values - measured, lower=True), (z[3] - 0.0544) / 0.0073, z[6]]

    low, high = np.transpose([*BOUNDS.values(), (-5, 5)])
    rng = np.random.default_rng(0)
    fits = [optimize.least_squares(residual, rng.uniform(0.2, 0.8, 7), bounds=(0, 1), xtol=1e-10) for _ in range(3)]
    best = min(fits, key=lambda fit: fit.cost)
    assert result.fun == pytest.approx(2 * best.cost, abs=0.01)
    deviations = (high - low) * np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))
    assert (np.abs(result.z - (low + (high - low) * best.x)) <= 0.1 * deviations).all()
    assert list(result.parameters) == [*BOUNDS, "A_planck"]
    assert result.parameters["A_planck"] == pytest.approx(1 + 0.0025 * result.z[6])


def test_the_bins_are_those_of_planck_lite(likelihood):
    values, bins, covariance = likelihood
    multipole, *spectra = np.loadtxt(Path(DATA) / "planck2018_plik_lite" / "Dl_planck2015fit.dat").T
    used = (multipole >= 2) & (multipole <= 2508)
    tt, te, ee = (2 * np.pi * d[used] / (multipole * (multipole + 1))[used] for d in spectra)
    r = values - np.concatenate([bins @ tt, bins[:199] @ te, bins[:199] @ ee])
    assert r @ np.linalg.solve(covariance, r) == pytest.approx(PUBLISHED, abs=1e-4)
