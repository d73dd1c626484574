"""From the best code in l2 to a local optimum in the norm that was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from unrelu.layer import L1, LInf
from unrelu.methods.layerwise import Layerwise
from unrelu.methods.norm_descent import NormDescent
from unrelu.methods.reweighted import Reweighted
from unrelu.problem import Problem, Progress
from unrelu.result import Status

__all__ = ["finish"]

Array = npt.NDArray[np.float64]


def finish(problem: Problem, z: Array, max_programs: int, by_layer: bool) -> tuple[Array, npt.NDArray[np.object_]]:
    """Descend in l1 or linf from the l2 codes (B, k) and from others; the best codes, and how their descents ended.

    The others are, for l1, the codes that reweighted least squares makes of them, which outliers pull less, and, if
    ``by_layer``, those of Algorithm 1 or 2, so that the result is never worse than the paper's.

    Args:
        problem: the problem, its network a chain of layers.
        z: codes, (B, k), finite.
        max_programs: linear programs of each descent.
        by_layer: whether the layers allow layer-wise codes at little cost.
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
        # An observation that was left out of a descent is unfinished, whatever an earlier descent found.
        status = np.where(better | (ended == Status.STOPPED) | (i == 0), ended, status)
    return best, status


def _phase(problem: Problem, i: int, phases: int) -> Problem:
    """The problem for one of several passes over its observations, whose progress is a part of the whole."""

    def report(progress: Progress) -> Progress:
        return replace(progress, done=(i * problem.size + progress.done) // phases)

    return replace(problem, control=problem.control.part(report))
