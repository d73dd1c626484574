"""From the best code in l2 to a local optimum in l1 or linf; in l1, also by reweighted least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.local_search.norm_descent import NormDescent
from unrelu.local_search.option_checks import at_least
from unrelu.measurements import WeightedOperator
from unrelu.problem import Control, Problem, Progress
from unrelu.runtime.array_types import Array, Integers
from unrelu.search.descents import lengths

# Programs of each start and of each perturbed code before the best goes on.
_FIRST = 5
# Perturbations of a code, and their sizes in units of those of the search: from 1% of the code to all of it. Tuned on
# chains of random weights: without them, a tenth of the codes in l1 are above the best ones by more than 1%.
PERTURBATIONS, _SIZE = 8, 0.1
# The floor of the residuals begins at the largest one and ends at this fraction of it.
_LAST_FLOOR = 1e-3


@dataclass(frozen=True)
class Reweighted:
    r"""Iteratively reweighted least squares on the whole network.

    .. math:: z \leftarrow \text{LM steps on } \sum_j w_j (y - A G(z))_j^2, \qquad w_j = 1 / \max(|r_j|, \kappa)

    The floor kappa falls from the largest residual to 1e-3 of it, so the objective goes from l2, which gross errors
    distort, to l1. The best code in l1 is kept: :class:`~unrelu.local_search.norm_descent.NormDescent` starts there.

    Args:
        rounds: how often the weights are set.
        steps: Levenberg-Marquardt steps with the same weights.

    Raises:
        OptionError: a number is below 1.

    Source: Holland and Welsch, "Robust regression using iteratively reweighted least-squares", Communications in
    Statistics 6 (1977), with the graduated floor of Black and Rangarajan, Int. J. Computer Vision 19 (1996).
    """

    rounds: int = 8
    steps: int = 3

    def __post_init__(self) -> None:
        at_least(1, rounds=self.rounds, steps=self.steps)

    def minimise(self, problem: Problem, z0: Array) -> tuple[Array, Integers]:
        """Start from codes z0 (B, k), usually the l2 solutions; return the codes and the steps taken, (B,).

        No code is worse in l1 than its start. At the time limit, or if the callback asks to stop, the best codes so far
        are returned.
        """
        z, best = np.nan_to_num(z0), np.array(z0, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            value = np.nan_to_num(problem.objective(best, "l1"), nan=np.inf)
        steps = np.zeros(problem.size, dtype=np.int64)
        r = np.abs(problem.residual(z))
        largest = r.max(axis=1, keepdims=True)
        refine = LevenbergMarquardt(max_iterations=self.steps)
        for turn in range(self.rounds):
            if problem.control.expired() or problem.control.stopped(partial(_progress, problem, turn, best)):
                break
            floor = largest * _LAST_FLOOR ** (turn / max(1, self.rounds - 1)) + np.finfo(float).tiny
            z, _, more = refine.minimise(_weighted(problem, np.sqrt(floor / np.maximum(r, floor))), z)
            steps += more
            r = np.abs(problem.residual(z))
            reached = r.sum(axis=1)
            better = reached < value
            best[better], value[better] = z[better], reached[better]
        return best, steps


def _progress(problem: Problem, turn: int, z: Array) -> Progress:
    return Progress("reweighted", turn, 0, problem.size, z.copy())


def _weighted(problem: Problem, weight: Array) -> Problem:
    """The problem with each residual multiplied by a weight, (B, m)."""
    network = problem.network
    tensor = torch.tensor(weight, dtype=network.dtype, device=network.device)
    control = Control(problem.control.remaining())
    return replace(
        problem, y=problem.y * weight, operator=WeightedOperator(problem.operator, tensor), norm="l2", control=control
    )


def finish(
    problem: Problem, starts: Sequence[Array], perturbations: Array, max_programs: int
) -> tuple[Array, npt.NDArray[np.object_]]:
    """Descend in l1 or linf from several codes of each observation; return the best codes, and how they ended.

    Each start makes a few steps, and the best of them goes on to the end. For l1, a further start is the code of
    reweighted least squares, which outliers distort less. Then the codes are perturbed again and again (basin hopping).
    A lower code goes on to its end and is perturbed in place of the other. Codes within the bound of the noise are not.

    Args:
        problem: the problem in l1 or linf.
        starts: local optima in l2, the best first, (B, k) each, finite.
        perturbations: (B, h, k), in units of :data:`_SIZE` times the root mean square of the code.
        max_programs: linear programs of a descent.
    """
    starts = list(starts)
    if problem.norm == "l1":
        starts.insert(1, Reweighted().minimise(problem, starts[0])[0])
    first, whole = NormDescent(max_programs=min(max_programs, _FIRST)), NormDescent(max_programs=max_programs)
    best, value = starts[0], problem.objective(starts[0])
    for start in starts:
        if not _ended(problem):
            z = first.minimise(problem, start)[0]
            reached = problem.objective(z)
            best, value = np.where((reached < value)[:, None], z, best), np.fmin(reached, value)
    z, status, _ = whole.minimise(problem, best)
    for perturbation in perturbations.transpose(1, 0, 2):
        value = problem.objective(z)
        left = np.flatnonzero(~(value <= problem.noise.bound))
        if _ended(problem) or not len(left):
            break
        trial = problem.bounds.reflect(z[left] + _SIZE * lengths(z[left]) * perturbation[left])
        trial = first.minimise(problem.part(left), trial)[0]
        lower = left[problem.part(left).objective(trial) < value[left]]
        if len(lower):
            z[lower], status[lower], _ = whole.minimise(problem.part(lower), trial[np.isin(left, lower)])
    return z, status


def _ended(problem: Problem) -> bool:
    """Whether the callback or the time limit ends the run."""
    return problem.control.halted or problem.control.expired()
