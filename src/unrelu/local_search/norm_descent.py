"""Descent in l1 and linf by sequential linear programming, from values and Jacobians of any generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import OptionError, SolverError
from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, check_norm, least_violation
from unrelu.layerwise.optimality import ZERO
from unrelu.local_search.halting import Watch
from unrelu.local_search.option_checks import at_least
from unrelu.local_search.squared_error import SquaredError
from unrelu.lp.lp_status import LpStatus
from unrelu.models.activations import Activation
from unrelu.problem import Problem, Progress
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Index, Integers

# A step is accepted if it gains this fraction of what its program predicts.
_ACCEPTED = 0.05
# After a step that gains the first fraction, the radius is at least _GROWN times its length; after a rejected one it is
# _SHRUNK times its length.
_VERY_GOOD, _GROWN, _SHRUNK = 0.7, 2.0, 0.25
# The descent ends at this radius, relative to the code or 1: no step lowers the objective.
_SMALLEST_RADIUS = 1e-9


@dataclass(frozen=True)
class NormDescent:
    r"""Minimise ``|y - A G(z)|_1`` or ``|y - A G(z)|_inf`` from a code, by sequential linear programming.

    .. math:: \min_{|d|_\infty \le \rho, \; l \le z + d \le u} |r - J d|, \qquad r = y - A G(z), \; J = A \, G'(z)

    The minimiser d is a step, accepted if the objective falls by a fraction of the predicted gain. The radius rho of
    the trust region grows after steps that gain nearly what was predicted, and shrinks below a rejected step.

    A code is CONVERGED when its program predicts no gain above the fraction ``tolerance`` of the objective, or when no
    step lowers it at the smallest radius, as at a kink of the generator. It is then first-order stationary: on its side
    of all kinks, no direction lowers the objective. It need not be a local optimum.

    Args:
        max_programs: the largest number of linear programs for an observation.
        tolerance: the smallest fraction of the objective that is worth a further step.

    Raises:
        OptionError: max_programs is below 1, or the tolerance not in (0, 1).

    Source: Fletcher and Sainz de la Maza, "Nonlinear programming and nonsmooth optimization by successive linear
    programming", Mathematical Programming 43 (1989).
    """

    max_programs: int = 100
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        at_least(1, max_programs=self.max_programs)
        if not 0 < self.tolerance < 1:
            raise OptionError(f"tolerance={self.tolerance} must be between 0 and 1")

    def minimise(
        self, problem: Problem, z0: Array, norm: str | None = None
    ) -> tuple[Array, npt.NDArray[np.object_], Integers]:
        """Descend from codes z0, (B, k); return the codes, how each run ended, and the number of programs it solved.

        No code is worse than its start. A start that is not finite is returned, with status NO_CODE. The callback is
        called before each round, in which every observation makes a step.

        Args:
            problem: the problem; its prior is ignored.
            z0: starting codes, (B, k).
            norm: "l1" or "linf"; the problem's if None.

        Raises:
            OptionError: the norm is another one.
        """
        norm = norm or problem.norm
        check_norm(norm)
        run = _Descents(problem, np.asarray(z0, dtype=np.float64), norm, self)
        watch = Watch(problem.control, run.progress)
        while len(active := np.flatnonzero(run.status == Status.STOPPED)) and not watch():
            for part in np.array_split(active, -(-len(active) // run.objective.jacobians)):
                run.step(part)
        run.status[run.status == Status.STOPPED] = watch.reason or Status.TIME_LIMIT
        # In the precision of the network, a tiny gain may be a loss.
        with np.errstate(invalid="ignore", over="ignore"):
            worse = problem.objective(run.z, norm) > problem.objective(z0, norm)
        run.z[worse] = z0[worse]
        return run.z, run.status, run.programs


class _Descents:
    """The descents of all observations; the status of those that go on is STOPPED."""

    def __init__(self, problem: Problem, z0: Array, norm: str, options: NormDescent) -> None:
        self.problem, self.norm, self.options = problem, norm, options
        network = problem.network if problem.network.dtype == torch.float64 else problem.network.to(torch.float64)
        self.objective = SquaredError.of(problem, network)
        self.z, self.programs = problem.bounds.clip(z0).copy(), np.zeros(problem.size, dtype=np.int64)
        self.r = self.residual(self.z, np.arange(problem.size))
        self.value = self.norms(self.r)
        self.nothing = ZERO * np.abs(problem.y).max(axis=1, initial=0.0)
        self.size = np.maximum(1.0, np.abs(self.z).max(axis=1))
        self.radius = self.size.copy()
        self.status = np.full(problem.size, Status.STOPPED, dtype=object)
        self.status[self.value <= self.nothing] = Status.CONVERGED
        self.status[~np.isfinite(self.value)] = Status.DIVERGED
        self.status[~np.isfinite(z0).all(axis=1)] = Status.NO_CODE

    def progress(self) -> Progress:
        """What the callback is told."""
        done = int((self.status != Status.STOPPED).sum())
        return Progress(self.norm, int(self.programs.max()), done, len(self.z), self.z.copy())

    def norms(self, r: Array) -> Array:
        """The objectives of residuals (b, m), (b,)."""
        return np.asarray(np.abs(r).max(axis=1) if self.norm == "linf" else np.abs(r).sum(axis=1))

    @torch.no_grad()
    def residual(self, z: Array, some: Index) -> Array:
        """y - A G(z) of some observations, (b, m)."""
        return -self.objective.residual(self.objective.tensor(z), self.objective.index(some)).cpu().numpy()

    def step(self, some: Index) -> None:
        """Solve a program of each of some observations, and make its step if that lowers the objective."""
        tangents = self.objective.jacobian(self.objective.tensor(self.z[some]), self.objective.index(some))
        proposals = [self.propose(i, t.T) for i, t in zip(some, tangents.cpu().numpy(), strict=True)]
        d, gain = np.array([each[0] for each in proposals]), np.array([each[1] for each in proposals])
        trial = self.problem.bounds.clip(self.z[some] + d)
        r = self.residual(trial, some)
        with np.errstate(invalid="ignore", divide="ignore"):
            value, length = self.norms(r), np.abs(trial - self.z[some]).max(axis=1)
            kept = np.nan_to_num((self.value[some] - value) / gain, nan=-1.0)
        going, better = self.status[some] == Status.STOPPED, kept > _ACCEPTED
        moved, lost, good = some[going & better], some[going & ~better], going & (kept > _VERY_GOOD)
        self.z[moved], self.r[moved], self.value[moved] = (x[going & better] for x in (trial, r, value))
        self.radius[some[good]] = np.maximum(self.radius[some[good]], _GROWN * length[good])
        self.radius[lost] = _SHRUNK * np.minimum(self.radius[lost], length[going & ~better])
        self.status[some[going & (self.programs[some] >= self.options.max_programs)]] = Status.ITERATION_LIMIT
        ended = (self.radius[some] < _SMALLEST_RADIUS * self.size[some]) | (self.value[some] <= self.nothing[some])
        self.status[some[going & ended]] = Status.CONVERGED

    def propose(self, i: int, jacobian: Array) -> tuple[Array, float]:
        """The step of one observation and the gain that its program predicts."""
        z, r, rho, k = self.z[i], self.r[i], self.radius[i], self.z.shape[1]
        bounds, one = self.problem.bounds, np.ones(len(r))
        lower, upper = np.maximum(bounds.lower - z, -rho), np.minimum(bounds.upper - z, rho)
        stay = Answer(np.zeros(k), np.inf, 0.0, LpStatus.FAILED, 0)
        if not jacobian.any():
            self.status[i] = Status.FLAT
            return stay.h, 0.0
        system = LayerSystem(np.ascontiguousarray(jacobian), np.zeros(len(r)), Activation("identity"), lower, upper)
        try:
            answer = least_violation(
                system, Rows(r, r, one, one, r, 1.0), self.norm, self.problem.control.remaining(), stay
            )
        except SolverError:
            self.status[i] = Status.SOLVER_FAILED
            return stay.h, 0.0
        self.programs[i] += 1
        gain = float(self.value[i] - answer.objective)
        if answer.status is LpStatus.LIMIT:
            self.status[i] = Status.TIME_LIMIT
        elif not gain > self.options.tolerance * self.value[i] * min(1.0, rho):
            self.status[i] = Status.CONVERGED
        return answer.h, gain
