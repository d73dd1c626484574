"""Verdicts of codes from all diagnostics: identifiability, degrees of freedom and the shape of residuals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from unrelu.diagnostics._goodness_of_fit import chance, free_jacobians, goodness_of_fit
from unrelu.diagnostics.identifiability import local_rank
from unrelu.errors import SolverError
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.result import Inversion, JudgedCodes, Status
from unrelu.result.uniqueness import LocalUniqueness, Uniqueness
from unrelu.runtime.array_types import Array, Flags, Index

# Errors that mean a numerical breakdown: from an LP solver, from linear algebra, or from overflow.
BREAKDOWNS = (SolverError, np.linalg.LinAlgError, torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]


def alone_after_breakdown(
    work: Callable[[Index], Inversion], problem: Problem, method: str, rows: Index | None = None
) -> Inversion:
    """Apply ``work`` to the observations of a problem; after a numerical breakdown, apply it to each one alone.

    Observations that break down alone are failures. An error of the user's callback is raised.
    """
    rows = np.arange(problem.size) if rows is None else rows
    try:
        return work(rows)
    except BREAKDOWNS as error:
        if problem.control.raised(error):
            raise
        if len(rows) == 1:
            nothing = np.full((1, problem.network.latent_dim), np.nan)
            lost = Inversion.of(problem.part(rows), nothing, method=method, status=Status.ERROR).batch
            return Inversion(replace(lost, message=np.array([f"could not be inverted: {error}"], dtype=object)))
    alone = [alone_after_breakdown(work, problem, method, rows[[i]]).batch for i in range(len(rows))]
    return Inversion(JudgedCodes.joined(alone, problem))


def diagnosed(result: Inversion) -> Inversion:
    """Judge codes by their degrees of freedom, the shape of their residuals and, for exact fits, their uniqueness.

    For other codes, uniqueness is computed on demand.
    """
    problem, codes = result.problem, result.batch
    residual = problem.residual_of(codes.reconstruction)
    fits = np.isfinite(codes.z).all(axis=1) & problem.is_exact(residual)
    uniqueness = uniqueness_of(codes)
    free = np.where(fits, uniqueness.known.freedom, -1) if fits.any() else np.full(problem.size, -1)
    used, shape, _ = goodness_of_fit(problem, codes.z, residual, uniqueness)
    by_chance = None
    if not problem.noise.stated:
        by_chance = chance(residual, problem.y, problem.operator.seen(problem.size), used)
    directions = None if problem.network.too_large else partial(free_jacobians, problem, codes.z)
    return result.with_diagnostics(free, uniqueness, used, shape, by_chance, directions)


def uniqueness_of(codes: JudgedCodes) -> Uniqueness:
    """Return the uniqueness of codes, computed on demand."""
    residual = codes.problem.residual_of(codes.reconstruction)
    fits = np.isfinite(codes.z).all(axis=1) & codes.problem.is_exact(residual)
    return Uniqueness(partial(_local_uniqueness, codes, fits))


def _local_uniqueness(codes: JudgedCodes, fits: Flags) -> LocalUniqueness:
    """Find out whether other codes near each code have the same observation; ``fits`` marks exact fits, (B,)."""
    problem = codes.problem
    rank, free, sigma = local_rank(problem.network, codes.z, problem.operator, problem.bounds)
    identifiable = free == 0
    # Where the rank is below k, sigma_min is 0, and only kinks can make a code unique.
    doubtful = np.flatnonzero(fits & identifiable & (rank == problem.network.latent_dim))
    identifiable[doubtful] = _determined(codes, sigma, doubtful)
    return LocalUniqueness(rank, free, identifiable)


def _determined(codes: JudgedCodes, sigma: Array, rows: Index) -> Flags:
    r"""Check whether exact fits determine their codes: |r|_2 / sigma_min is a small fraction of max(|z|_2, 1).

    If y is exact, |r|_2 / sigma_min bounds the error of z. The rank counts singular values down to 1e-10 of the
    largest. Along such a direction A G hardly changes: an exact fit allows a residual of up to 1e-8 max|y|, which can
    hide any step. The test uses the actual residual, not the tolerance. A fit to rounding errors thus determines codes
    down to sigma_min = 1e-9 sigma_max, while a search that stopped at 1e-10 of the data may have missed part of the
    code. The fraction is 100 times the tolerance of an exact fit: 1e-6 in double precision, 1e-3 in single.

    Residuals below the rounding errors of y and A G(z), even 0, are replaced by these errors.
    """
    if not len(rows):
        return np.ones(0, dtype=bool)
    problem = codes.problem
    x = codes.reconstruction.reshape(problem.size, -1)[rows]
    residual = np.linalg.norm(problem.y[rows] - problem.operator.take(rows).values(x), axis=1)
    residual = np.maximum(residual, _rounding(problem, codes.z[rows], x, rows))
    length = np.maximum(np.linalg.norm(codes.z[rows], axis=1), 1.0)
    return np.asarray(residual <= 100 * problem.tolerance[rows] * length * sigma[rows])


def _rounding(problem: Problem, z: Array, x: Array, rows: Index) -> Array:
    """Estimate the norms of the rounding errors of y and A G(z), (b,), at codes (b, k) with outputs x (b, n).

    Where terms cancel, errors of G can be much larger than errors of y. They are estimated by evaluating G in the other
    precision, and scaled by the ratio of the precisions. Without known layers, they are not estimated.
    """
    network, double = problem.network, float(np.finfo(np.float64).eps)
    of_data = double * np.linalg.norm(problem.y[rows], axis=1)
    if not isinstance(network, Network):
        return np.asarray(of_data)
    single = network.dtype == torch.float32
    ratio = 1.0 if single else double / torch.finfo(torch.float32).eps
    again = network.to(torch.float64 if single else torch.float32, "cpu").outputs(z).reshape(len(z), -1)
    of_outputs = np.linalg.norm(problem.operator.take(rows).values(again - x), axis=1)
    return np.asarray(np.maximum(of_data, np.where(np.isfinite(of_outputs), ratio * of_outputs, np.inf)))
