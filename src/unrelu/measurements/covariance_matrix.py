"""The covariance of the errors of an observation, as users give it, and its Cholesky factor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.errors import InputError
from unrelu.models.generator import numbers

Array = npt.NDArray[np.float64]

# Entries of an observation up to which a covariance is written out: 128 MiB.
_CORRELATED = 4096


def written_covariance(given: Any) -> Array:
    """A covariance, written out.

    Raises:
        InputError: it is not square, too large, not finite or not symmetric.
    """
    shape = tuple(np.shape(given)) or tuple(getattr(given, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
        raise InputError(
            f"covariance= has shape {shape}; pass a square one, (m, m), of the m entries of an observation"
        )
    if shape[0] > _CORRELATED:
        raise InputError(
            f"covariance= is {shape[0]} x {shape[0]}, and is factored up to {_CORRELATED} x {_CORRELATED}: whiten y "
            "and operator= yourself, as L^-1 y and L^-1 A, with noise='gaussian:1'"
        )
    if sparse.issparse(given):
        given = given.toarray()
    elif callable(getattr(given, "matvec", None)):
        given = np.stack([np.asarray(given.matvec(unit)).ravel() for unit in np.eye(shape[0])], axis=1)
    array = np.array(numbers(given, "covariance"))
    if not np.isfinite(array).all():
        raise InputError("covariance= has NaN or infinite entries; hide entries of which nothing is known by operator=")
    off = np.abs(array - array.T).max()
    if off > 1e-10 * np.abs(array).max():
        raise InputError(
            f"covariance= is not symmetric: C and C^T differ by {off:.1e}; if that is rounding, pass (C + C^T) / 2"
        )
    array.setflags(write=False)
    return array


def cholesky_factor(covariance: Array) -> Array:
    """L, lower triangular, of a covariance L L^T.

    Raises:
        InputError: it is not positive definite.
    """
    try:
        factor: Array = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(covariance)[0])
        raise InputError(
            f"covariance= is not positive definite: its least eigenvalue is {least:.2g}; add the variance of the "
            "independent errors that every measurement has to its diagonal"
        ) from None
    factor.setflags(write=False)
    return factor
