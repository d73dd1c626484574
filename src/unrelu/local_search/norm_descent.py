"""Exact local optima in l1 and linf, by linear programs on the linear regions around a code."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unrelu.errors import OptionError, SolverError
from unrelu.layerwise.layer_program import check_norm
from unrelu.layerwise.optimality import ZERO
from unrelu.local_search._local_program import AdjacentRegions, LocalProgram, Observation, Proposal, observations
from unrelu.local_search.option_checks import at_least
from unrelu.measurements.latent_bounds import Bounds
from unrelu.models.network import small
from unrelu.problem import Control, Problem, Progress
from unrelu.result import Status
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.host import abandoned, cores, in_threads
from unrelu.runtime.streams import stream
from unrelu.runtime.work_clock import now

# Lengths tried along a step: 1, 1/2, ..., 2^-9.
_LENGTHS = 0.5 ** np.arange(10)
# A step is taken at once if it gains this fraction of what the model predicts.
_GOOD = 0.1
# After a whole step that gains the first fraction, the radius becomes _GROW times that step. After a shortened or
# failed step it shrinks at most by _SHRINK, as the kinks in the way are then held.
_VERY_GOOD, _GROW, _SHRINK = 0.5, 4.0, 0.25
# A step is on both sides of a kink if min(e, f) exceeds this.
_BOTH = 1e-9
# A held kink within this fraction of the values of its layer is open on both sides: a step up to it gains too little,
# but one past it may gain enough.
_NEAR = 1e-5
# A code is at a bound if it is this close, relative to the bound or 1.
_AT_BOUND = 1e-13
# The search gives up at this radius.
_SMALLEST_RADIUS = 1e-12
# The number of random directions tried if there are too many sides to search.
_DIRECTIONS = 50
# Threads are used if the matrix of a program has more entries; for smaller ones they wait for each other.
_WORTH_A_THREAD = 50_000


@dataclass(frozen=True)
class NormDescent:
    r"""Minimise ``|y - A G(z)|_1`` or ``|y - A G(z)|_inf`` from a code to a local optimum, and prove that it is one.

    G is affine on each of its linear regions. Around the code, the last pre-activation is replaced by its linearisation
    (or A G(z), if A mixes outputs or the last activation is not convex), and the errors by convex functions that are
    nowhere below them (:mod:`~unrelu.local_search._local_program`). A linear program in a box around the code gives a
    step, which is shortened until the true objective falls. If it does not fall, the neurons that switched on the way
    are held on their side in the next program. At a kink, the program covers the regions on all sides at once, as a
    relaxation:

    .. math:: u_j = e_j - f_j, \quad e_j, f_j \ge 0 \qquad (e_j f_j = 0 \text{ is branched on where it fails})

    The code is a local optimum, CONVERGED, when no such program lowers the objective by more than the fraction
    ``tolerance`` within a distance of 1 (r ``tolerance`` within a radius r < 1). For smooth activations it is then a
    stationary point; the last digits take many steps if it is no vertex of the linearised errors. If codes have bounds,
    the optimum is the one within them: a bound within the radius is a kink with one side.

    Args:
        max_programs: the largest number of linear programs for an observation.
        tolerance: the smallest fraction of the objective that is worth a further step.

    Raises:
        OptionError: max_programs is below 1, or the tolerance not in (0, 1).
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
        called for each finished observation, in order; if it asks to stop, the others keep their starts.

        Args:
            problem: the problem; its prior is ignored.
            z0: starting codes, (B, k).
            norm: "l1" or "linf"; the problem's if None.

        Raises:
            OptionError: the norm is another one.
        """
        norm = norm or problem.norm
        check_norm(norm)
        z0 = np.asarray(z0, dtype=np.float64)
        z = z0.copy()
        status = np.full(problem.size, Status.STOPPED, dtype=object)
        programs = np.zeros(problem.size, dtype=np.int64)
        work = partial(self._one, norm, problem.control, problem.bounds)
        starts = list(zip(observations(problem), z0, strict=True))
        large = problem.operator.m * problem.network.latent_dim >= _WORTH_A_THREAD
        with closing(in_threads(work, starts, cores() if large and small(problem.network) else 1)) as results:
            for i, (z[i], status[i], programs[i]) in enumerate(results):
                progress = partial(Progress, norm, int(programs[i]), i + 1, problem.size, z.copy())
                if problem.control.stopped(progress):
                    break
        # In the precision of the network, a tiny gain may be a loss.
        with np.errstate(invalid="ignore", over="ignore"):
            worse = problem.objective(z, norm) > problem.objective(z0, norm)
        z[worse] = z0[worse]
        return z, status, programs

    def _one(
        self, norm: str, control: Control, bounds: Bounds, start: tuple[Observation, Array]
    ) -> tuple[Array, Status, int]:
        observation, z = start
        if control.expired():
            return z, Status.TIME_LIMIT, 0
        if not np.isfinite(z).all():
            return z, Status.NO_CODE, 0
        end = now() + control.remaining()
        run = _Descent(observation, bounds.clip(z), norm, self, end, bounds)
        status = run.status()
        return run.z, status, run.programs


class _End(Exception):
    """Ends a descent with a status."""

    def __init__(self, status: Status) -> None:
        self.status = status


class _Trial(NamedTuple):
    """The best point along a step: its length as a fraction, the objective and u there, and the kinks in the way."""

    step: Array
    length: float
    value: float
    u: Array
    blocking: Index
    gain: float


class _Descent:
    """The run from one start."""

    def __init__(
        self, observation: Observation, z: Array, norm: str, options: NormDescent, end: float, bounds: Bounds
    ) -> None:
        self.observation, self.z, self.norm, self.options, self.end = observation, z.copy(), norm, options, end
        self.bounds = bounds
        trace = observation.trace(z[None, :])
        self.u, self.value = trace.u[0], float(self.values(trace.v)[0])
        self.nothing = ZERO * float(np.abs(observation.y).max(initial=0.0))
        self.radius = max(1.0, float(np.abs(z).max()))
        self.held: Index = np.zeros(0, dtype=np.intp)
        self.programs = 0

    def values(self, v: Array) -> Array:
        """The objective of each v, (..., p), infinite where it is not a number."""
        errors = self.observation.errors(v)
        total = errors.max(axis=-1, initial=0.0) if self.norm == "linf" else errors.sum(axis=-1)
        return np.asarray(np.nan_to_num(total, nan=np.inf))

    def status(self) -> Status:
        """Descend to the end; return how it ended."""
        if not math.isfinite(self.value):
            return Status.DIVERGED
        try:
            while self.value > self.nothing:
                self.step()
                if self.radius < _SMALLEST_RADIUS:  # steps have become rounding
                    return Status.ITERATION_LIMIT
        except SolverError:
            return Status.SOLVER_FAILED
        except _End as end:
            return end.status
        return Status.CONVERGED

    def worth(self, gain: float) -> bool:
        """Whether a gain is worth a further step."""
        return gain > self.options.tolerance * self.value + self.nothing * self.options.tolerance

    def step(self) -> None:
        """Move to a better code, or hold more kinks and reduce the radius."""
        regions, kinks, near, complete = self.around()
        if not regions.movable:
            raise _End(Status.FLAT)
        ways, bends = self.sides_of_outputs(regions)
        for on in ways:
            trial = self.search(LocalProgram(self.observation, regions, self.norm, on), near)
            if trial is not None and self.lowers(trial):
                return self.move(trial)
            if trial is not None:  # stay, hold the neurons that switched before the first point tried
                self.held = np.union1d(kinks, trial.blocking)
                self.radius *= _SHRINK
                return None
        if complete and bends <= 1:
            raise _End(Status.CONVERGED)
        return self.escape()

    def search(self, local: LocalProgram, near: Flags) -> _Trial | None:
        """A step that lowers the objective, one that should but does not, or None if no program predicts any.

        The sides of the kinks near the code are searched depth first. A program that predicts no gain excludes all the
        sides that it covers.
        """
        best: _Trial | None = None
        waiting = [np.where(near, 0, np.where((local.regions.u > 0) | local.regions.bound, 1, -1))]
        while waiting:
            if self.programs >= self.options.max_programs:
                raise _End(Status.ITERATION_LIMIT)
            if now() >= self.end or abandoned():
                raise _End(Status.TIME_LIMIT)
            sides = waiting.pop()
            proposal = local.propose(sides, self.radius, self.end)
            self.programs += proposal.programs
            if proposal.timed_out:
                raise _End(Status.TIME_LIMIT)
            if not self.worth(proposal.most / min(1.0, self.radius)):
                continue
            trial = self.along(proposal)
            best = trial if best is None or trial.value < best.value else best
            crossed = (sides == 0) & (proposal.both > _BOTH * (1 + np.abs(local.regions.u)))
            if self.value - trial.value >= _GOOD * trial.gain:
                return trial
            if not crossed.any():
                return best
            waiting += _branches(sides, proposal, crossed)
        return best if best is not None and self.lowers(best) else None

    def lowers(self, trial: _Trial) -> bool:
        """Whether a step gains enough of what was predicted, or is worth taking all the same."""
        fall = self.value - trial.value
        return fall > 0 and (fall >= _GOOD * trial.gain or self.worth(fall))

    def around(self) -> tuple[AdjacentRegions, Index, Flags, bool]:
        """The linear regions around the code, their kinks, which are near, and whether they are all kinks at the code.

        Kinks are left out if their directions depend on those of others; kinks that no code moves do not count. Bounds
        within the radius are left out likewise: a program then predicts too much, never too little.
        """
        at_kink = self.observation.at_kink(self.u)
        kinks, bounded = np.union1d(np.flatnonzero(at_kink), self.held), self.bounds.within(self.z, self.radius)
        regions, complete = self.regions(kinks, bounded), True
        rank = np.concatenate([1 + at_kink[kinks], 2 * np.abs(self.bounds.active(self.z)[bounded])])
        taken = regions.independent(rank)
        if len(taken) < len(rank):
            left_out = np.setdiff1d(np.arange(len(kinks)), taken)
            moving = regions.u_code[left_out].any(axis=1) | regions.u_kink[left_out].any(axis=1)
            complete = not (moving & at_kink[kinks[left_out]]).any()
            kinks, bounded = kinks[taken[taken < len(kinks)]], bounded[taken[taken >= len(kinks)] - len(kinks)]
            regions = self.regions(kinks, bounded)
        near = np.zeros(len(regions.u), dtype=bool)
        near[: len(kinks)] = self.observation.at_kink(self.u, _NEAR)[kinks]
        return regions, kinks, near, complete

    def regions(self, kinks: Index, bounded: Index) -> AdjacentRegions:
        """The linear regions that meet at these kinks, within the bounds of these coordinates."""
        return self.observation.regions(self.z, kinks).within(self.z, self.bounds, bounded)

    def inside(self, z: Array) -> Array:
        """The nearest codes within the bounds; coordinates that are at a bound up to rounding are moved onto it."""
        if self.bounds.none:
            return z
        for end in (self.bounds.lower, self.bounds.upper):
            near = _AT_BOUND * np.where(np.isfinite(end), np.maximum(1.0, np.abs(end)), 0.0)
            z = np.where(np.abs(z - end) <= near, end, z)
        return self.bounds.clip(z)

    def sides_of_outputs(self, regions: AdjacentRegions) -> tuple[list[Flags], int]:
        """Which outputs are on, in two versions if some with y > 0 are at their kink, and the number of these."""
        v, observation = regions.v, self.observation
        at_kink = observation.at_bend(v) & (observation.y > 0) & (self.norm == "l1")
        at_kink &= regions.v_code.any(axis=1) | regions.v_kink.any(axis=1)
        ways = [(v > 0) & ~at_kink]
        if at_kink.any():
            ways.append((v > 0) | at_kink)
        return ways, int(at_kink.sum())

    def along(self, proposal: Proposal) -> _Trial:
        """The best of some points along a step, and the kinks up to the next longer (or the shortest)."""
        step = proposal.step
        trace = self.observation.trace(self.inside(self.z + _LENGTHS[:, None] * step))
        values = self.values(trace.v)
        i = int(np.argmin(values))
        better = bool(values[i] < self.value)
        here, beyond = (trace.u[i], trace.u[max(i - 1, 0)]) if better else (self.u, trace.u[-1])
        blocking = np.flatnonzero((here > 0) != (beyond > 0))
        when = np.abs(here[blocking]) / np.abs(here[blocking] - beyond[blocking])
        blocking = blocking[np.argsort(when, kind="stable")[: max(1, len(step) // 2)]]
        return _Trial(step, float(_LENGTHS[i]), float(values[i]), trace.u[i], blocking, proposal.gain)

    def move(self, trial: _Trial) -> None:
        """Go to the best point of a step. If that is not its end, the kinks that block the rest of it are held."""
        size, whole = float(np.abs(trial.step).max()), trial.length == 1
        if not whole:
            self.radius = max(2 * trial.length * size, _SHRINK * self.radius)
        elif self.value - trial.value > _VERY_GOOD * trial.gain:
            self.radius = max(self.radius, _GROW * size)
        self.held = self.held[:0] if whole else trial.blocking
        self.z, self.u, self.value = self.inside(self.z + trial.length * trial.step), trial.u, trial.value

    def escape(self) -> None:
        """Leave a code with too many kinks to search, such as the origin of a network without biases."""
        steps = stream("escape directions").standard_normal((_DIRECTIONS, len(self.z)))
        steps = (steps * np.array([1.0, 0.1, 0.01])[:, None, None] * self.radius).reshape(-1, len(self.z))
        trace = self.observation.trace(self.inside(self.z + steps))
        values = self.values(trace.v)
        i = int(np.argmin(values))
        if not self.worth(self.value - values[i]):
            raise _End(Status.ITERATION_LIMIT)
        self.move(_Trial(steps[i], 1.0, float(values[i]), trace.u[i], self.held, 0.0))


def _branches(sides: npt.NDArray[np.int_], proposal: Proposal, crossed: Flags) -> list[npt.NDArray[np.int_]]:
    """The two branches of the kink with the largest min(e, f), the likelier one last."""
    worst = np.arange(len(sides)) == np.argmax(np.where(crossed, proposal.both, -1.0))
    likely = np.where(proposal.prefers_on, 1, -1)
    return [np.where(worst, -likely, sides), np.where(worst, likely, sides)]
