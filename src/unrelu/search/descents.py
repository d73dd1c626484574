"""Descents of many codes to local optima of the l2 objective: compiled for small dense networks, else in PyTorch.

A descent makes one step on each of several smoothed generators, less and less smooth, then steps on the exact generator
(smoothing homotopy). Perturbations of its end start further descents, which find other optima.

Source: Nocedal and Wright, Numerical Optimization (2006), section 10.3 (Levenberg-Marquardt); Allgower and Georg,
Introduction to Numerical Continuation Methods (2003) (homotopy); Wales and Doye, J. Physical Chemistry A 101 (1997)
(basin hopping: a perturbation and a descent, kept if it is lower).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unrelu.local_search.damping import FIRST_DAMPING
from unrelu.local_search.descent_kernel import (
    SHORTEST_CODE,
    DescentArrays,
    DescentLimits,
    compile_descents,
    descend_and_perturb,
)
from unrelu.local_search.halting import Steps, Watch
from unrelu.local_search.levenberg_marquardt import ENOUGH_DECREASE, LevenbergMarquardtSteps
from unrelu.local_search.limited_memory import LimitedMemorySteps
from unrelu.local_search.packed_observations import INPUTS, OUTPUTS, PackedObservations, latent_dim, packable
from unrelu.local_search.squared_error import SquaredError
from unrelu.measurements.operators import WeightedOperator
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.search import _schedules
from unrelu.search._schedules import Schedule
from unrelu.search.sample_cache import SampleCache
from unrelu.thresholds import SAME_OPTIMUM

# The ENOUGH_DECREASE of L-BFGS descents: restarts that end earlier do not agree to 1%.
_ENOUGH_DECREASE_LARGE = 3e-5
# The predicted decrease at which a refinement by L-BFGS ends. On a residual generator 64 -> 512 -> 784, codes are then
# within 1e-6 of the codes that smaller values reach.
_REFINED_DECREASE = 3e-7
# The microseconds of a compiled step for each term of :func:`step_terms`. The microseconds of a batched step for each
# code, and for each multiplication of its Jacobian.
_STEP_COST, _BATCH_COST = (0.5, 0.9, 1.3e-4, 1e-5, 1e-3), (70.0, 3e-5)
# The most steps at a raised noise level, and the relative decrease of f that is tiny there (tuned on 21cmEMU).
_TEMPERED, _TEMPERED_DECREASE = 12, 1e-2
# The least variance at a raised noise level: as a share of the observation's largest, and if no output varies.
_LEAST_VARIANCE, _TINY = 1e-12, 1e-20
# With at most this many coordinates, a Jacobian of a large generator takes less time than the steps that it saves.
_FEW = 16


class Start(NamedTuple):
    """Codes of some observations, which descents improve in place.

    Attributes:
        observations: the indices of the observations, (b,).
        z: codes, (b, c, k).
        f: their objectives, (b, c); infinite for a code that no descent has started from.
        perturbations: (b, c, h, k), in units of the root mean square of the code. After the first descent, each
            perturbs the best code so far and starts a further descent; its end is kept if it is lower.
        smoothed: whether the first descent begins on the smoothed generators.
    """

    observations: Index
    z: Array
    f: Array
    perturbations: Array
    smoothed: bool = True

    @classmethod
    def unperturbed(cls, observations: Index, z: Array) -> Start:
        """Return a start at codes (b, c, k) near an optimum, without smoothing, which would lead away from it."""
        b, c, k = z.shape
        return cls(observations, z.copy(), np.full((b, c), np.inf), np.empty((b, c, 0, k)), False)


def lengths(z: Array) -> Array:
    """Compute the root mean squares of codes (..., k), which are the unit of perturbations, (..., 1)."""
    return np.asarray(np.maximum(np.sqrt(np.square(z).mean(axis=-1, keepdims=True)), SHORTEST_CODE))


def step_terms(layout: Integers) -> Array:
    """Return the terms of the time of a step on a packed network, (5,).

    For m outputs and k latent coordinates, they are 1, the number of layers, the number of weights, m k^2 (normal
    equations), and k^3 (their solution).
    """
    inputs, outputs = layout[:, INPUTS].astype(float), layout[:, OUTPUTS].astype(float)
    k = latent_dim(layout)
    return np.array([1.0, len(layout), inputs @ outputs, outputs[-1] * k**2, k**3])


class CompiledDescents:
    """Descents in compiled code, one code after another (:mod:`~unrelu.local_search.descent_kernel`)."""

    schedule = _schedules.COMPILED
    first_tempered: SquaredError | None = None

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.packed = PackedObservations(problem.network, problem.operator, problem.y)
        compile_descents(heads=self.packed.heads)
        self._in_double = np.zeros(problem.size, dtype=bool)
        self._box, self._widths = np.stack([problem.bounds.lower, problem.bounds.upper]), np.array(self.schedule.widths)

    def microseconds(self, steps: Integers) -> Array:
        """Return the processor time of ``steps`` in microseconds."""
        return np.asarray(float(step_terms(self.packed.layout) @ _STEP_COST) * steps)

    @cached_property
    def _double(self) -> PackedObservations:
        """The packed network and observations in double precision."""
        compile_descents(np.float64, self.packed.heads)
        return PackedObservations(self.problem.network, self.problem.operator, self.problem.y, np.float64)

    def resolve(self, observations: Index) -> None:
        """Search some observations in double precision from now on, because single precision does not resolve them."""
        self._in_double[observations] = True

    def improve(self, start: Start, enough: Array, watch: Watch) -> Integers:
        """Descend and perturb, in place in ``start.z`` and ``start.f``; return the steps of each observation, (b,).

        Args:
            start: the codes from which to descend.
            enough: objectives at which a descent may end, (b,).
            watch: asked repeatedly whether to stop. Codes whose descent has not begun by then keep their f.
        """
        steps = np.zeros(start.f.shape, dtype=np.int64)
        widths = self._widths if start.smoothed else self._widths[:0]
        layout: Integers | None = None
        for i, observation in enumerate(start.observations.tolist()):
            if watch():
                break
            double = self._in_double[observation]
            network, y = (self._double if double else self.packed).of(observation)
            if network.layout is not layout:
                layout, work = network.layout, DescentArrays.of(network.layout, np.float64 if double else np.float32)
            limits = DescentLimits(self.schedule.steps, ENOUGH_DECREASE, float(enough[i]))
            descend_and_perturb(
                network, widths, y, self.problem.weights, limits, self._box, start.z[i], start.f[i],
                start.perturbations[i], steps[i], work,
            )  # fmt: skip
        return np.asarray(steps.sum(axis=1))


class BatchDescents:
    """Descents of all codes at once, for generators of any kind on any device."""

    def __init__(self, schedule: Schedule, problem: Problem, cache: SampleCache, objective: SquaredError) -> None:
        self.schedule, self.problem, self.cache, self.objective = schedule, problem, cache, objective

    @cached_property
    def _smoothed(self) -> list[SquaredError]:
        """The objectives of the smoothed generators."""
        network = self.objective.network
        return [replace(self.objective, network=network.smoothed(width)) for width in self.schedule.widths]

    @property
    def first_tempered(self) -> SquaredError | None:
        """The objective at the first raised level of noise; None without tempering."""
        return self._tempered[0] if self._tempered else None

    @cached_property
    def _tempered(self) -> list[SquaredError]:
        """The objectives at raised noise levels: residuals are divided by the noise's deviations, up to a factor."""
        objective, levels = self.objective, self.schedule.tempering
        if not levels:
            return []
        spread = torch.stack([x.var(dim=0) for x in self.cache.measured(objective.operator)])
        noise = objective.tensor(self.problem.noise.variance(self.problem.y))[:, None]
        variances = [noise + level**2 * spread for level in levels]
        # If outputs do not vary and no noise is stated, nothing says how far residuals may be from 0.
        least = [_LEAST_VARIANCE * each.amax(dim=1, keepdim=True).clamp_min(_TINY) for each in variances]
        weights = [each.maximum(low).rsqrt() for each, low in zip(variances, least, strict=True)]
        weights = [weight / weight.amax(dim=1, keepdim=True) for weight in weights]
        return [
            replace(objective, operator=WeightedOperator(objective.operator, weight), y=weight * objective.y)
            for weight in weights
        ]

    def microseconds(self, steps: Integers) -> Array:
        """Return the time of ``steps``, see :meth:`CompiledDescents.microseconds`."""
        network = self.objective.network
        return np.asarray((_BATCH_COST[0] + _BATCH_COST[1] * network.latent_dim * network.work) * steps)

    def improve(self, start: Start, enough: Array, watch: Watch) -> Integers:
        """Descend and perturb, see :meth:`CompiledDescents.improve`."""
        steps = np.zeros(start.f.shape, dtype=np.int64)
        floor = np.broadcast_to(enough[:, None], steps.shape)
        each = np.broadcast_to(start.observations[:, None], steps.shape)

        def descend(some: Flags, z: Array, smoothed: bool) -> None:
            """Descend from the codes z at the places ``some``, and keep the ends that are lower."""
            end, f, count = self._descend(each[some], z[some], floor[some], start.f[some], smoothed, watch)
            lower = f < start.f[some]
            start.z[some] = np.where(lower[:, None], end, start.z[some])
            start.f[some] = np.where(lower, f, start.f[some])
            steps[some] += count

        if (new := ~np.isfinite(start.f)).any():
            descend(new, start.z, start.smoothed)
        for turn in range(start.perturbations.shape[2]):
            if watch() or not (left := start.f > floor).any():
                break
            perturbed = start.z + lengths(start.z) * start.perturbations[:, :, turn]
            descend(left, self.problem.bounds.reflect(perturbed), False)
        return np.asarray(steps.sum(axis=1))

    def _descend(
        self, observations: Index, z: Array, enough: Array, ceiling: Array, smoothed: bool, watch: Watch
    ) -> tuple[Array, Array, Integers]:
        """Descend from codes z (b, k); return the codes reached, their objectives and the numbers of steps, (b,).

        Give up descents that cannot reach their ``ceiling``, (b,). Each smoothed stage hands its damping to the next.
        """
        each, (at, floor, top) = self.objective.index(observations), map(self.objective.tensor, (z, enough, ceiling))
        damping: float | Tensor = FIRST_DAMPING
        state: Steps
        steps = torch.zeros_like(each)
        for objective in self._smoothed if smoothed else []:
            if watch():
                break
            smooth = LevenbergMarquardtSteps(objective, at, each, damping=damping, tiny_decrease=0.0).run(1)
            at, damping, steps = smooth.z, smooth.damping, steps + smooth.steps
        for objective in self._tempered if smoothed else []:
            warm = LevenbergMarquardtSteps(objective, at, each, tiny_decrease=_TEMPERED_DECREASE).run(_TEMPERED, watch)
            at, steps = warm.z, steps + warm.steps
        if self.schedule.limited_memory:
            state = LimitedMemorySteps(self.objective, at, each, _ENOUGH_DECREASE_LARGE, floor)
        else:
            tiny = 0.1 * SAME_OPTIMUM if self.schedule.large else ENOUGH_DECREASE
            state = LevenbergMarquardtSteps(
                self.objective, at, each, damping=damping, tiny_decrease=tiny, enough=floor, ceiling=top
            )
        state.run(self.schedule.steps, watch)
        f = state.f.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return state.z.cpu().double().numpy(), f.cpu().double().numpy(), (steps + state.steps).cpu().numpy()

    def refined(self, observations: Index, z: Array, most: int, watch: Watch) -> tuple[Array, Flags]:
        """Refine codes (b, k) by at most ``most`` steps; return the codes, and whether each converged, (b,).

        Single precision resolves all that L-BFGS steps can gain. Other steps are made in double precision, because
        their Jacobian may be ill-conditioned.
        """
        exact = self.objective if self.schedule.limited_memory else SquaredError.of(self.problem)
        at, each = exact.tensor(z), exact.index(observations)
        state: Steps
        if self.schedule.limited_memory:
            state = LimitedMemorySteps(exact, at, each, _REFINED_DECREASE, torch.zeros_like(at[:, 0]))
        else:
            state = LevenbergMarquardtSteps(exact, at, each, tiny_decrease=_REFINED_DECREASE)
        state.run(most, watch)
        return state.z.cpu().double().numpy(), state.done.cpu().numpy()


Descents: TypeAlias = CompiledDescents | BatchDescents


def descents_for(problem: Problem, cache: SampleCache, objective: SquaredError) -> Descents:
    """Return the descents for a problem, with the schedule from :func:`schedule_for`."""
    schedule = schedule_for(problem, cache, objective)
    compiled = schedule is _schedules.COMPILED
    return CompiledDescents(problem) if compiled else BatchDescents(schedule, problem, cache, objective)


def schedule_for(problem: Problem, cache: SampleCache, objective: SquaredError) -> Schedule:
    """Choose the schedule for the generator and the measurement of a problem.

    Small dense networks descend in compiled code, in single precision. This code only handles squares, and measurements
    that select outputs or are small matrices. Other generators with an expensive Jacobian descend by L-BFGS if they
    have many coordinates, else by tempering: the noise level falls from the spread of the measurements.
    """
    small = cache.fits and objective.y.dtype == torch.float32 and packable(problem.network, problem.operator)
    if small:
        return _schedules.COMPILED if objective.squares else _schedules.COUNTS
    if cache.large:
        few = problem.network.latent_dim <= _FEW and objective.squares
        return _schedules.FEW_COORDINATES if few else _schedules.LIMITED_MEMORY
    return _schedules.BATCH if problem.operator.linear else _schedules.NONLINEAR
