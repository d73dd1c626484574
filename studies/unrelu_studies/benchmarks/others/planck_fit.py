"""Planck 2018 TT, TE and EE (plik-lite) by CosmoPower-JAX's networks: parameters beside the published ones.

613 bins with their covariance, a calibration N(1, .0025) and, in place of the data at low multipoles, the optical depth
tau ~ N(.0544, .0073). The published means and deviations are those of column TT,TE,EE+lowE in table 2 of Planck
Collaboration VI, "Planck 2018 results. VI. Cosmological parameters", A&A 641 (2020), A6, arXiv:1807.06209. They use the
data at low multipoles, and the whole likelihood at high ones. omega_b and omega_cdm are Omega_b h^2 and Omega_c h^2, h
is H_0 / 100. The deviation of tau is the mean of its two sides.

The likelihood is that of Prince and Dunkley, "Data compression in cosmology: a compressed likelihood for Planck data",
Physical Review D 100 (2019), 083502.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import kstest

import unrelu
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu.thresholds import CONFIDENT
from unrelu_studies.benchmarks.others.data_of_others import data_file
from unrelu_studies.kit.published_emulators import cmb_spectra
from unrelu_studies.kit.timing import processor_seconds, timed

# Means with standard deviations.
PUBLISHED = {
    "omega_b": (0.02236, 0.00015), "omega_cdm": (0.1202, 0.0014), "h": (0.6727, 0.0060), "tau_reio": (0.0544, 0.0076),
    "n_s": (0.9649, 0.0044), "ln10^{10}A_s": (3.045, 0.016),
}  # fmt: skip
BOUNDS = {
    "omega_b": (0.019, 0.025), "omega_cdm": (0.08, 0.16), "h": (0.5, 0.9), "tau_reio": (0.01, 0.15), "n_s": (0.85, 1.1),
    "ln10^{10}A_s": (2.6, 3.5),
}  # fmt: skip
# The prior of tau: mean and standard deviation.
_TAU = (0.0544, 0.0073)
# The networks give spectra in units of the temperature of the background, in microkelvin; bins begin at multipole 30.
_TEMPERATURE, _BINS, _POLARISED, _MULTIPOLES, _FIRST = 2.7255e6, 215, 199, 2507, 28


def read_planck(data: str | None) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """The spectra and the matrices of their bins by part, and the covariance.

    Raises:
        OptionError, InputError: a file is missing.
    """
    names = ("cl_cmb_plik_v22.dat", "blmin.dat", "blmax.dat", "bweight.dat", "c_matrix_plik_v22.dat")
    values, first, last, weights, matrix = (data_file(data, "planck2018_plik_lite", name) for name in names)
    y, weight, bins = np.loadtxt(values)[:, 1], np.loadtxt(weights), np.zeros((_BINS, _MULTIPOLES))
    for row, low, high in zip(bins, np.loadtxt(first).astype(int), np.loadtxt(last).astype(int), strict=False):
        row[low + _FIRST : high + _FIRST + 1] = weight[low : high + 1]
    # A record of Fortran: its length in bytes, then the numbers, of which the lower triangle is meant.
    lower = np.tril(np.fromfile(matrix, offset=4, count=len(y) ** 2).reshape(len(y), -1))
    tt, te, ee = np.split(y, [_BINS, _BINS + _POLARISED])
    polarised = bins[:_POLARISED]
    return {"tt": tt, "te": te, "ee": ee}, {"tt": bins, "te": polarised, "ee": polarised}, lower + np.tril(lower, -1).T


def calibrated_spectra() -> Generator:
    """The three spectra joined, with the calibration."""
    joined = unrelu.join(**cmb_spectra())
    return unrelu.extend(joined, lambda x, A_planck: x / A_planck**2, A_planck=unrelu.Normal(1, 0.0025))


def measure_planck(data: str | None, seed: int, quick: bool = False) -> dict[str, Any]:
    """The fit beside published parameters, the profile of h beside fits of its own, the posterior, and mock spectra."""
    y, bins, covariance = read_planck(data)
    network = calibrated_spectra()
    stated: dict[str, Any] = {
        "operator": {part: rows * _TEMPERATURE**2 for part, rows in bins.items()},
        "noise": unrelu.Gaussian(covariance=covariance), "bounds": BOUNDS, "seed": seed,
        "prior": unrelu.Normal({"tau_reio": _TAU[0]}, {"tau_reio": _TAU[1]}),
    }  # fmt: skip
    result, seconds = timed(lambda: unrelu.invert(network, y, **stated), processor_seconds)  # type: ignore[arg-type]
    x = network.by_part(network(result.z))
    r = np.concatenate([y[part] - stated["operator"][part] @ x[part] for part in y])
    intervals, parameters = result.laplace().intervals, {}
    for name, (mean, deviation) in PUBLISHED.items():
        low, high = intervals[name]
        parameters[name] = [float(result.parameters[name]), float(high - low) / 2, mean, deviation]
    found: dict[str, Any] = {
        "part": "planck", "parameters": parameters, "chi-square": float(r @ np.linalg.solve(covariance, r)),
        "bins": len(r), "p": float(result.p_value), "confidence": float(result.confidence),
        "status": result.status.name, "seconds": seconds,
    }  # fmt: skip
    values = np.linspace(0.66, 0.695, 3 if quick else 15)
    profile, spent = timed(lambda: unrelu.profile(network, y, "h", values, **stated), processor_seconds)  # type: ignore[arg-type]
    own = [unrelu.invert(calibrated_spectra(), y, fixed={"h": h}, **stated).fun for h in values]  # type: ignore[arg-type]
    found["profile"] = {
        "values": len(values), "off by": float(np.abs(profile.fun - own).max()), "interval": profile.interval(),
        "sure": int((profile.confidence >= CONFIDENT).sum()), "seconds": spent,
    }  # fmt: skip
    p, spent = timed(lambda: unrelu.posterior(network, y, draws=100 if quick else 1000, **stated), processor_seconds)  # type: ignore[arg-type]
    found["posterior"] = {"status": p.status.name, "h": [float(p.mean[2]), float(p.std[2])], "seconds": spent}
    found["mocks"] = _mocks(network, stated, covariance, 5 if quick else 100)
    return found


def _mocks(network: Generator, stated: dict[str, Any], covariance: Array, count: int) -> dict[str, Any]:
    """Fits of spectra at random parameters within the bounds, with noise from the covariance.

    The best known objective is the lower of that of the fit and that of a descent from the true code.
    """
    rng = stream("mock spectra", stated["seed"])
    low, high = np.transpose(list(BOUNDS.values()))
    z = np.column_stack([rng.uniform(low, high, (count, len(low))), rng.standard_normal(count)])
    z[:, list(BOUNDS).index("tau_reio")] = np.clip(_TAU[0] + _TAU[1] * rng.standard_normal(count), 0.0101, 0.1499)
    spectra = network.by_part(network(z))
    noise = np.split(
        rng.standard_normal((count, len(covariance))) @ np.linalg.cholesky(covariance).T,
        [_BINS, _BINS + _POLARISED], axis=1,
    )  # fmt: skip
    y: Any = {
        part: spectra[part] @ rows.T + e for (part, rows), e in zip(stated["operator"].items(), noise, strict=True)
    }
    r, seconds = timed(lambda: unrelu.invert(network, y, **stated), processor_seconds)
    truth, near = r.problem.objective(z), unrelu.invert(network, y, "lm", z0=z, **stated).fun
    sure, best = r.confidence >= CONFIDENT, np.minimum(r.fun, near)
    return {
        "spectra": count, "at most the truth": float((r.fun <= truth).mean()), "sure": float(sure.mean()),
        "sure and wrong": int((sure & (r.fun > 1.01 * best)).sum()),
        "p uniform": float(kstest(r.p_value, "uniform").pvalue), "seconds": seconds / count,
    }  # fmt: skip
