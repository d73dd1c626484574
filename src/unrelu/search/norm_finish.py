"""From the best codes in l2 to the best in l1 or linf: descents from several starts, and basin hopping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.local_search.norm_descent import NormDescent
from unrelu.measurements import WeightedOperator
from unrelu.problem import Control, Problem
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags
from unrelu.search.descents import lengths
from unrelu.thresholds import SIGNIFICANCE

# Programs of each start and of each perturbed code; the best goes on.
_FIRST = 5
# Perturbations of a code, and their sizes in units of those of the search: from 1% of the code to all of it. Tuned on
# chains of random weights: without them, a tenth of the codes in l1 are above the best ones by more than 1%.
PERTURBATIONS, _SIZE = 8, 0.1
# Of reweighted least squares: how often the weights are set, the Levenberg-Marquardt steps with the same weights, and
# the last floor of the residuals as a fraction of the first.
_ROUNDS, _STEPS, _LAST_FLOOR = 8, 3, 1e-3


def finish(
    problem: Problem, starts: Sequence[Array], perturbations: Array, max_programs: int
) -> tuple[Array, npt.NDArray[np.object_]]:
    """Descend in l1 or linf from several codes of each observation; return the best codes, and how they ended.

    The first descent is from the first start or, in l1, from the code of reweighted least squares if that goes lower.
    If the noise does not explain its end, the other starts follow, then perturbations of the best code (basin hopping).

    Args:
        problem: the problem in l1 or linf.
        starts: local optima in l2, the best first, (B, k) each, finite.
        perturbations: (B, h, k), in units of :data:`_SIZE` times the root mean square of the code.
        max_programs: linear programs of a descent.
    """
    first, whole = NormDescent(max_programs=min(max_programs, _FIRST)), NormDescent(max_programs=max_programs)
    z = starts[0]
    if problem.norm == "l1":
        one, other = first.minimise(problem, z)[0], first.minimise(problem, reweighted(problem, z))[0]
        z = np.where((problem.objective(other) < problem.objective(one))[:, None], other, one)
    z, status, _ = whole.minimise(problem, z)
    further = [*starts[1:], *perturbations.transpose(1, 0, 2)]
    for number, values in enumerate(further, 1):
        left = np.flatnonzero(~_explained(problem, z))
        if _ended(problem) or not len(left):
            break
        part, trial = problem.part(left), values[left]
        if number >= len(starts):
            trial = problem.bounds.reflect(z[left] + _SIZE * lengths(z[left]) * trial)
        trial = first.minimise(part, trial)[0]
        lower = part.objective(trial) < part.objective(z[left])
        if lower.any():
            z[left[lower]], status[left[lower]], _ = whole.minimise(problem.part(left[lower]), trial[lower])
    if _ended(problem):
        status[~_explained(problem, z)] = Status.STOPPED if problem.control.halted else Status.TIME_LIMIT
    return z, status


def _explained(problem: Problem, z: Array) -> Flags:
    """Whether the stated noise explains what codes leave of the observations, (B,)."""
    return np.asarray(problem.p_value(problem.fit_of(problem.network.outputs(z))) >= SIGNIFICANCE)


def _ended(problem: Problem) -> bool:
    """Whether the callback or the time limit ends the run."""
    return problem.control.halted or problem.control.expired()


def reweighted(problem: Problem, z: Array) -> Array:
    r"""The best codes in l1 of iteratively reweighted least squares from codes z, (B, k); none is worse than its start.

    .. math:: z \leftarrow \text{LM steps on } \sum_j w_j (y - A G(z))_j^2, \qquad w_j = 1 / \max(|r_j|, \kappa)

    The floor kappa falls from the largest residual to 1e-3 of it, so the objective goes from l2, which gross errors
    distort, to l1.

    Source: Holland and Welsch, "Robust regression using iteratively reweighted least-squares", Communications in
    Statistics 6 (1977), with the graduated floor of Black and Rangarajan, Int. J. Computer Vision 19 (1996).
    """
    best, network = z, problem.network
    steps, largest = LevenbergMarquardt(max_iterations=_STEPS), np.abs(problem.residual(z)).max(axis=1, keepdims=True)
    for floor in largest * np.geomspace(1, _LAST_FLOOR, _ROUNDS)[:, None, None] + np.finfo(float).tiny:
        if _ended(problem):
            break
        weight = np.sqrt(floor / np.maximum(np.abs(problem.residual(z)), floor))
        tensor = torch.tensor(weight, dtype=network.dtype, device=network.device)
        z = steps.minimise(
            replace(
                problem, y=problem.y * weight, operator=WeightedOperator(problem.operator, tensor), norm="l2",
                control=Control(problem.control.remaining()),
            ), z,
        )[0]  # fmt: skip
        best = np.where((problem.objective(z, "l1") < problem.objective(best, "l1"))[:, None], z, best)
    return best
