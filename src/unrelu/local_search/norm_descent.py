"""Descent in l1 and linf by sequential linear programming, from values and Jacobians of any generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import SolverError
from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.layerwise.optimality import ZERO
from unrelu.local_search.halting import Watch
from unrelu.local_search.option_checks import at_least
from unrelu.local_search.squared_error import SquaredError
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation
from unrelu.problem import Problem
from unrelu.result import Ending, Status
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.runtime.run_control import Progress

# A step is accepted if it gains this fraction of what its program predicts.
_ACCEPTED = 0.05
# After a step that gains the first fraction, the radius is at least _GROWN times its length; after a rejected one it is
# _SHRUNK times its length.
_VERY_GOOD, _GROWN, _SHRUNK = 0.7, 2.0, 0.25
# The descent ends at this radius, relative to the code or 1: no step lowers the objective.
_SMALLEST_RADIUS = 1e-9
# The smallest fraction of the objective that is worth a further step.
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class NormDescent:
    r"""Minimise ``|y - A G(z)|_1`` or ``|y - A G(z)|_inf`` from a code, by sequential linear programming.

    .. math:: \min_{|d|_\infty \le \rho, \; l \le z + d \le u} |r - J d|, \qquad r = y - A G(z), \; J = A \, G'(z)

    The minimiser d is a step, accepted if the objective falls by a fraction of the predicted gain. The radius rho of
    the trust region grows after steps that gain nearly what was predicted, and shrinks below a rejected step.

    A code is CONVERGED when its program predicts a gain of at most 1e-7 of the objective, or when no step lowers it at
    the smallest radius, as at a kink of the generator. It is then first-order stationary: on its side of all kinks, no
    direction lowers the objective. It need not be a local optimum.

    Args:
        max_programs: the largest number of linear programs for an observation.

    Raises:
        OptionError: max_programs is below 1.

    Source: Fletcher and Sainz de la Maza, "Nonlinear programming and nonsmooth optimization by successive linear
    programming", Mathematical Programming 43 (1989).
    """

    max_programs: int = 100

    def __post_init__(self) -> None:
        at_least(1, max_programs=self.max_programs)

    def minimise(self, problem: Problem, z0: Array) -> tuple[Array, npt.NDArray[np.object_], Integers]:
        """Descend from codes z0, (B, k); return the codes, how each run ended, and the number of programs it solved.

        No code is worse than its start. A start that is not finite is returned with the status NO_CODE. The callback is
        called before each round, in which every observation makes a step.
        """
        single, start = problem.network.dtype != torch.float64, np.asarray(z0, dtype=np.float64)
        objective = SquaredError.of(problem, problem.network.to(torch.float64) if single else None)
        codes = problem.bounds.clip(start)
        each = zip(start, codes, _residuals(objective, codes, np.arange(problem.size)), strict=True)
        runs = [_Descent(problem, i, *one) for i, one in enumerate(each)]

        def progress() -> Progress:
            done = sum(run.status is not Status.STOPPED for run in runs)
            most = max(run.programs for run in runs)
            return Progress(problem.norm, most, done, len(runs), np.array([run.z for run in runs]))

        watch = Watch(problem.control, progress)
        while (active := [run for run in runs if run.status is Status.STOPPED]) and not watch():
            for first in range(0, len(active), objective.jacobians):
                some = active[first : first + objective.jacobians]
                z, rows = np.array([run.z for run in some]), np.array([run.number for run in some])
                tangents = objective.jacobian(objective.tensor(z), objective.index(rows)).cpu().numpy()
                trials = np.array([run.propose(each.T) for run, each in zip(some, tangents, strict=True)])
                for run, r in zip(some, _residuals(objective, trials, rows), strict=True):
                    run.take(r, self.max_programs)
        for run in active:
            run.status = watch.reason or run.status
        z = np.array([run.z for run in runs])
        # In the precision of the network, a tiny gain may be a loss.
        with np.errstate(invalid="ignore", over="ignore"):
            worse = problem.objective(z) > problem.objective(start)
        z[worse] = start[worse]
        return z, np.array([run.status for run in runs], dtype=object), np.array([run.programs for run in runs])


@torch.no_grad()
def _residuals(objective: SquaredError, z: Array, rows: Index) -> Array:
    """Compute y - A G(z), (b, m), at codes (b, k) of some observations."""
    return -objective.residual(objective.tensor(z), objective.index(rows)).cpu().numpy()


class _Descent:
    """The descent of one observation; its status is STOPPED while it goes on."""

    def __init__(self, problem: Problem, number: int, start: Array, z: Array, r: Array) -> None:
        self.problem, self.number, self.z, self.trial, self.r = problem, number, z, z, r
        self.programs, self.gain, self.value = 0, 0.0, self.norm(r)
        self.status: Status | Ending = Status.STOPPED
        self.nothing = ZERO * np.abs(problem.y[number]).max(initial=0.0)
        self.size = self.radius = max(1.0, float(np.abs(z).max()))
        if not np.isfinite(start).all():
            self.status = Ending.NO_CODE
        elif not np.isfinite(self.value):
            self.status = Ending.DIVERGED
        elif self.value <= self.nothing:
            self.status = Status.CONVERGED

    def norm(self, r: Array) -> float:
        """Compute the objective of a residual."""
        return float(np.abs(r).max() if self.problem.norm == "linf" else np.abs(r).sum())

    def propose(self, jacobian: Array) -> Array:
        """Solve the program of a Jacobian (m, k); return the end of its step, or the code where the descent ends."""
        z, r, rho, bounds = self.z, self.r, self.radius, self.problem.bounds
        if not jacobian.any():
            self.status = Ending.FLAT
            return z
        lower, upper, one = np.maximum(bounds.lower - z, -rho), np.minimum(bounds.upper - z, rho), np.ones(len(r))
        system = LayerSystem(np.ascontiguousarray(jacobian), 0 * r, Activation("identity"), lower, upper)
        stay = Answer(0 * z, np.inf, 0.0, LpStatus.FAILED, 0)
        try:
            left = self.problem.control.remaining()
            answer = least_violation(system, Rows(r, r, one, one, r, 1.0), self.problem.norm, left, stay)
        except SolverError:
            self.status = Ending.SOLVER_FAILED
            return z
        self.programs += 1
        self.gain, self.trial = self.value - answer.objective, bounds.clip(z + answer.h)
        if answer.status is LpStatus.LIMIT:
            self.status = Status.TIME_LIMIT
        elif not self.gain > _TOLERANCE * self.value * min(1.0, rho):
            self.status = Status.CONVERGED
        return self.trial

    def take(self, r: Array, most: int) -> None:
        """Accept the proposed step, which ends at the residual r, if it lowers the objective; adapt the radius."""
        if self.status is not Status.STOPPED:
            return
        length, value = float(np.abs(self.trial - self.z).max()), self.norm(r)
        better = self.value - value
        if better > _ACCEPTED * self.gain:
            self.z, self.r, self.value = self.trial, r, value
            if better > _VERY_GOOD * self.gain:
                self.radius = max(self.radius, _GROWN * length)
        else:
            self.radius = _SHRUNK * min(self.radius, length)
        if self.radius < _SMALLEST_RADIUS * self.size or self.value <= self.nothing:
            self.status = Status.CONVERGED
        elif self.programs >= most:
            self.status = Ending.ITERATION_LIMIT
