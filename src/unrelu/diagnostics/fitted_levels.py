"""Fit the unknown level of Gaussian noise to the residuals of codes, and compare codes by their likelihood.

The levels and the share of the noise that a fit leaves in each entry depend on each other; a few rounds determine both.
"""

from __future__ import annotations

import numpy as np

from unrelu.diagnostics._goodness_of_fit import goodness_of_fit
from unrelu.diagnostics.code_diagnostics import uniqueness_of
from unrelu.measurements.additive_noise import Gaussian
from unrelu.measurements.unknown_level import FittedGaussian, Variances
from unrelu.measurements.whitening import known_entries
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array

_ROUNDS = 3


def at_highest_levels(problem: Problem) -> FittedGaussian:
    """Return the noise at the highest levels in their ranges, without knowing a code."""
    noise, values, errors = _highest(problem)
    return FittedGaussian.at(noise, variances_at(problem, np.zeros_like(problem.y)), values, errors)


def at_fitted_levels(problem: Problem, z: Array) -> FittedGaussian:
    """Fit the levels to the residuals of codes z, (B, k). An observation without a code has the highest levels.

    Args:
        problem: the problem as stated, of Gaussian noise with an unknown level.
        z: codes, (B, k).
    """
    noise, values, errors = _highest(problem)
    mean = problem.mean_of(problem.network.outputs(z))
    known = np.asarray(np.isfinite(mean).all(axis=1))
    variances = variances_at(problem, np.where(known[:, None], mean, 0.0))
    r = np.where(known_entries(noise, problem.operator, problem.size), problem.y - mean, 0.0)
    kept = np.full_like(r, 1 - min(problem.network.latent_dim / max(problem.observed.min(), 1), 0.5))
    for _ in range(_ROUNDS):
        for i in np.flatnonzero(known):
            values[i], errors[i] = variances[i].fitted(r[i], kept[i])
        fitted = FittedGaussian.at(noise, variances, values.copy(), errors.copy())
        own = problem.with_noise(fitted).equilibrated()
        judged = Inversion.of(own, own.units.coordinates(z), method="levels").batch
        residual = own.residual_of(judged.reconstruction)
        kept = goodness_of_fit(own, judged.z, residual, uniqueness_of(judged)).kept
    return fitted


def variances_at(problem: Problem, mean: Array) -> list[Variances]:
    """Return the variances of each observation as functions of its levels, at predictions A G(z) = ``mean``, (B, m)."""
    assert isinstance(problem.noise, Gaussian)
    seen = known_entries(problem.noise, problem.operator, problem.size)
    return Variances.of(problem.noise, problem.operator.shape, mean, seen)


def minus_two_log_likelihood(problem: Problem, z: Array) -> Array:
    r"""Compute :math:`\sum_j r_j^2 / v_j + \log v_j`, (B,), with any prior, for whitened noise of known levels."""
    stated = problem.stated
    seen = known_entries(stated.noise, stated.operator, problem.size)
    deviation = np.broadcast_to(stated.noise.spread(stated.operator.shape, problem.size), seen.shape)
    logs = 2 * np.where(seen, np.log(np.where(seen, deviation, 1.0)), 0.0).sum(axis=1)
    return np.asarray(problem.objective(z) / problem.noise.dispersion_parameter + logs)


def _highest(problem: Problem) -> tuple[Gaussian, Array, Array]:
    """Return the noise, the highest levels and infinite errors, (B, P) each."""
    assert isinstance(problem.noise, Gaussian)
    values = np.repeat(problem.noise.ranges[None, :, 1], problem.size, axis=0)
    return problem.noise, values, np.full_like(values, np.inf)
