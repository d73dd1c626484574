"""The last stage of a search in l1 or linf: descents in that norm from the best codes in l2, then basin hopping."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unrelu.local_search.norm_descent import NormDescent
from unrelu.problem import Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags
from unrelu.search.descents import lengths
from unrelu.thresholds import SIGNIFICANCE

# The linear programs for each further start and each perturbed code. The descent goes on if its code is then the best.
_FIRST = 5
# The number of perturbations of a code, and their size as a fraction of the search's perturbations: from 1% of the code
# to all of it. Tuned on chains of random weights: without perturbations, a tenth of the codes in l1 have objectives
# more than 1% above the best.
PERTURBATIONS, _SIZE = 16, 0.1


def finish(
    problem: Problem, starts: Sequence[Array], perturbations: Array, max_programs: int
) -> tuple[Array, npt.NDArray[np.object_]]:
    """Descend in l1 or linf from several codes of each observation; return the best codes and their statuses.

    If the noise does not explain the end of the first descent, the other starts follow, then perturbations of the
    best code (basin hopping).

    Args:
        problem: the problem in l1 or linf.
        starts: local optima in l2, the best first, (B, k) each, finite.
        perturbations: (B, h, k), in units of :data:`_SIZE` times the root mean square of the code.
        max_programs: the most linear programs of a descent.
    """
    first, whole = NormDescent(max_programs=min(max_programs, _FIRST)), NormDescent(max_programs=max_programs)
    z, status, _ = whole.minimise(problem, starts[0])
    for number, values in enumerate([*starts[1:], *perturbations.transpose(1, 0, 2)], 1):
        left = np.flatnonzero(~_explained(problem, z))
        if problem.control.halted or problem.control.expired() or not len(left):
            break
        part, trial = problem.part(left), values[left]
        if number >= len(starts):
            trial = problem.bounds.reflect(z[left] + _SIZE * lengths(z[left]) * trial)
        trial = first.minimise(part, trial)[0]
        lower = part.objective(trial) < part.objective(z[left])
        if lower.any():
            z[left[lower]], status[left[lower]], _ = whole.minimise(problem.part(left[lower]), trial[lower])
    if problem.control.halted or problem.control.expired():
        status[~_explained(problem, z)] = Status.STOPPED if problem.control.halted else Status.TIME_LIMIT
    return z, status


def _explained(problem: Problem, z: Array) -> Flags:
    """Check whether the stated noise explains the residuals of codes, (B,)."""
    return np.asarray(problem.p_value(problem.fit_of(problem.network.outputs(z))) >= SIGNIFICANCE)
