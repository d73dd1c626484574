"""One p-value of the size and the shape of a residual, and noise that is larger than residuals can be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import chdtr

from unrelu.measurements.noise import Gaussian
from unrelu.problem import Problem

Array = npt.NDArray[np.float64]

# Weights of the tests of a residual's size, its largest entry and its structure. Those of the shape are conservative,
# the more so the fewer entries there are: at equal weights p-values of own outputs would be too large on average.
# Tuned on the decoders of :mod:`unrelu.diagnostics.goodness_of_fit`.
_WEIGHTS = (0.7, 0.2, 0.1)
# Noise that leaves so little so rarely is smaller than stated, or in another unit.
_ONE_OF_A_MILLION = 1e-6


def together(size: Array, shape: Array) -> Array:
    r"""One p-value of a residual's size, (B,), and shape, (B, 2): Sidak's minimum of independent ones, with weights.

    .. math:: p = 1 - \prod_i (1 - w_i x), \qquad x = \min_i p_i / w_i

    Tests that are NaN are left out.
    """
    tests = np.column_stack([size, shape])
    weights = np.where(np.isnan(tests), 0.0, _WEIGHTS)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    x = np.min(np.where(weights > 0, tests / np.where(weights > 0, weights, 1.0), np.inf), axis=1)
    kept = np.log1p(-np.minimum(weights * np.minimum(x, 1e9)[:, None], 1 - 1e-16))
    alone = np.isnan(shape).all(axis=1)
    return np.asarray(np.where(alone | np.isnan(size), size, 0.0 - np.expm1(kept.sum(axis=1))))


def noise_too_large(problem: Problem, residual: Array, used: Array) -> npt.NDArray[np.bool_]:
    """Whether stated Gaussian noise leaves residuals (B, m) so small in at most one of a million observations, (B,).

    Told of no fit that uses half of the entries or more, by the degrees of freedom ``used``, (B,).
    """
    noise, left = problem.noise, problem.observed - used
    if type(noise) is not Gaussian:
        return np.zeros(problem.size, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(residual / noise.level).sum(axis=1)
    return np.asarray((left > used) & (chdtr(np.maximum(left, 1.0), squares) < _ONE_OF_A_MILLION))
