"""From the best code in l2 to a local optimum in l1 or linf; in l1, also by reweighted least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from unrelu.layerwise import L1, LInf
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.local_search.norm_descent import NormDescent
from unrelu.local_search.option_checks import at_least
from unrelu.measurements import WeightedOperator
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Integers

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
    problem: Problem, z: Array, max_programs: int, by_layer: bool, further: Sequence[Array] = ()
) -> tuple[Array, npt.NDArray[np.object_]]:
    """Descend in l1 or linf from the l2 codes (B, k) and from others; return the best codes, and how they ended.

    For l1, a second start is the code of reweighted least squares, which outliers distort less. If ``by_layer``, a
    further one is the code of Algorithm 1 or 2, so the result is never worse than the paper's.

    Args:
        problem: its network is a chain of layers.
        z: codes, (B, k), finite.
        max_programs: linear programs of each descent.
        by_layer: whether layer-wise codes cost little.
        further: codes to descend from, (B, k) each, if the result is not within the bounds of the noise.
    """
    phases = 1 + 2 * by_layer + 2 * (problem.norm == "l1")
    phase = (_phase(problem, i, phases) for i in range(phases))
    starts = [z]
    if problem.norm == "l1":
        starts.append(Reweighted().minimise(next(phase), z)[0])
    if by_layer:
        method = LInf() if problem.norm == "linf" else L1()
        found = Layerwise(method, problem.norm)(next(phase)).z
        starts.append(np.where(np.isfinite(found).all(axis=1, keepdims=True), found, z))
    descent = NormDescent(max_programs=max_programs)
    best, status, value = z, np.full(problem.size, Status.STOPPED, dtype=object), np.full(problem.size, np.inf)
    for i, start in enumerate(starts):
        if problem.control.halted:
            status[:] = Status.STOPPED
            break
        reached, ended, _ = descent.minimise(next(phase), start)
        reached_value = problem.objective(reached)
        better = reached_value < value
        best = np.where(better[:, None], reached, best)
        value = np.where(better, reached_value, value)
        # An observation that this descent did not reach is unfinished, whatever an earlier descent found.
        status = np.where(better | (ended == Status.STOPPED) | (i == 0), ended, status)
    for start in further:
        value = problem.objective(best)
        unexplained = (value > problem.noise.bound) & np.isfinite(start).all(axis=1) & (start != best).any(axis=1)
        left = np.flatnonzero(unexplained)
        if problem.control.halted or not len(left):
            continue
        part = problem.part(left, problem.control.part(lambda progress: replace(progress, done=problem.size)))
        reached, ended, _ = descent.minimise(part, start[left])
        better = part.objective(reached) < value[left]
        best[left[better]] = reached[better]
        status[left] = np.where(better | (ended == Status.STOPPED), ended, status[left])
    return best, status


def _phase(problem: Problem, i: int, phases: int) -> Problem:
    """The problem for one of several passes over its observations; the progress of each is a share of the whole."""

    def report(progress: Progress) -> Progress:
        return replace(progress, done=(i * problem.size + progress.done) // phases)

    return replace(problem, control=problem.control.part(report))
