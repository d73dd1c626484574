"""Descents of many codes to local optima of the l2 objective: compiled for small dense networks, else in PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unrelu.local_search.damping import FIRST_DAMPING
from unrelu.local_search.descent_kernel import SHORTEST_CODE, compile_descents, descend_and_perturb, work_arrays
from unrelu.local_search.halting import Steps, Watch
from unrelu.local_search.levenberg_marquardt import ENOUGH_DECREASE, LevenbergMarquardtSteps
from unrelu.local_search.limited_memory import LimitedMemorySteps
from unrelu.local_search.packed_observations import INPUTS, OUTPUTS, PackedObservations, packable
from unrelu.local_search.squared_error import SquaredError
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.search._stopping_rule import BATCH, COMPILED, COUNTS, LIMITED_MEMORY, NONLINEAR, Schedule
from unrelu.search.sample_cache import SampleCache

# Smoothing schedule: widths, as fractions of the size of a layer's outputs; one step with each.
_WIDTHS = np.geomspace(1.0, 0.02, 8)
# Steps on the exact generator after those.
_EXACT_STEPS = 16
# Microseconds of a step, for each of the :func:`step_terms`.
STEP_COST = (0.5, 0.9, 1.3e-4, 1e-5, 1e-3)
# Microseconds of a step of all codes at once: for each code, and for each multiplication of its Jacobian.
_BATCH_COST = (70.0, 3e-5)
# ENOUGH_DECREASE for large generators.
_ENOUGH_DECREASE_LARGE = 3e-5
# Of a refinement: the codes refined side by side, the steps after which half of them are given up, the steps before
# convergence is tested, and the predicted decrease at which a code ends.
_REFINED, _HALVED_AFTER, _REFINED_SURELY, _REFINED_DECREASE = 4, 5, 30, 1e-7
# A code has converged if its last steps together gained less than this fraction of its objective.
LAST_STEPS, CONVERGED = 10, 1e-3


class Start(NamedTuple):
    """Codes of some observations, which descents improve in place.

    Attributes:
        observations: which, (b,).
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
        """One code of each observation, (b, k), near an optimum: smoothed generators would lead away from it."""
        b, k = z.shape
        return cls(observations, z[:, None].copy(), np.full((b, 1), np.inf), np.empty((b, 1, 0, k)), False)


class Descents(ABC):
    """Levenberg-Marquardt descents with a smoothing homotopy, each followed by perturbations to find other optima.

    Source: Nocedal and Wright, Numerical Optimization (2006), section 10.3 (Levenberg-Marquardt); Allgower and Georg,
    Introduction to Numerical Continuation Methods (2003) (homotopy); Wales and Doye, J. Physical Chemistry A 101 (1997)
    (basin hopping: a perturbation and a descent, kept if it is lower).

    Attributes:
        schedule: the budget of a search with these descents.
        refines: whether :meth:`refined` refines codes with a residual, since a Jacobian costs too much.
    """

    schedule: ClassVar[Schedule]
    refines: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, problem: Problem, cache: SampleCache, objective: SquaredError) -> None: ...

    @staticmethod
    @abstractmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Whether these descents suit a problem; kinds earlier in :data:`KINDS` are asked first."""

    def microseconds(self, steps: Integers) -> Array:
        """The processor time of ``steps``; 0 if there is no estimate."""
        return np.zeros(len(steps))

    def resolve(self, observations: Index) -> bool:
        """Descend in double precision from now on, for some observations; False if these descents do not change it."""
        return False

    @abstractmethod
    def improve(self, start: Start, enough: Array, watch: Watch) -> Integers:
        """Descend and perturb, in place in ``start.z`` and ``start.f``; return the steps of each observation, (b,).

        Args:
            enough: objectives at which a descent may end, (b,).
            watch: asked repeatedly whether to stop; codes not reached by then keep their f.
        """

    def refined(self, observations: Index, z: Array, most: int, watch: Watch) -> tuple[Array, Flags]:
        """Refine the ends of restarts; return one code of each observation, (b, k), and whether it converged, (b,).

        Args:
            z: where the restarts ended, the best first, (b, c, k).
            most: the largest number of steps.
            watch: see :meth:`improve`.
        """
        raise NotImplementedError

    @staticmethod
    def of(problem: Problem, cache: SampleCache, objective: SquaredError) -> Descents:
        """The first of :data:`KINDS` that suits."""
        return next(kind(problem, cache, objective) for kind in KINDS if kind.suits(problem, cache, objective))


def lengths(z: Array) -> Array:
    """The root mean squares of codes (..., k), (..., 1): the unit of perturbations."""
    return np.asarray(np.maximum(np.sqrt(np.square(z).mean(axis=-1, keepdims=True)), SHORTEST_CODE))


def step_terms(layout: Integers) -> Array:
    """The terms of the time of a step on a packed network, (5,).

    1, the number of layers, that of weights, outputs times latent coordinates squared (normal equations), and latent
    coordinates cubed (their solution). ``python -m unrelu_studies.benchmarks.tuning.step_costs`` measures times.
    """
    inputs, outputs = layout[:, INPUTS].astype(float), layout[:, OUTPUTS].astype(float)
    k = inputs[0]
    return np.array([1.0, len(layout), inputs @ outputs, outputs[-1] * k**2, k**3])


class CompiledDescents(Descents):
    """Compiled descents of one code after another (:mod:`~unrelu.local_search.descent_kernel`).

    They are in single precision, and in double precision for observations that single precision does not resolve.
    """

    schedule = COMPILED

    @staticmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Whether the network is small and dense, and the measurement a choice of outputs or a small matrix."""
        single = cache.fits and objective.y.dtype == torch.float32
        return single and objective.squares and packable(problem.network, problem.operator)

    def __init__(self, problem: Problem, cache: SampleCache, objective: SquaredError) -> None:
        compile_descents()
        assert isinstance(problem.network, Network)
        self.problem = problem
        self.packed = PackedObservations(problem.network, problem.operator, problem.y)
        self._network, self._in_double = problem.network, np.zeros(problem.size, dtype=bool)
        self._box = np.stack([problem.bounds.lower, problem.bounds.upper])

    def microseconds(self, steps: Integers) -> Array:
        """See :meth:`Descents.microseconds`."""
        return np.asarray(float(step_terms(self.packed.layout) @ STEP_COST) * steps)

    @cached_property
    def _double(self) -> PackedObservations:
        compile_descents(np.float64)
        return PackedObservations(self._network, self.problem.operator, self.problem.y, np.float64)

    def resolve(self, observations: Index) -> bool:
        """See :meth:`Descents.resolve`."""
        self._in_double[observations] = True
        return True

    def improve(self, start: Start, enough: Array, watch: Watch) -> Integers:
        """See :meth:`Descents.improve`."""
        steps = np.zeros(start.f.shape, dtype=np.int64)
        widths = _WIDTHS if start.smoothed else _WIDTHS[:0]
        layout: Integers | None = None
        for i, observation in enumerate(start.observations.tolist()):
            if watch():
                break
            double = self._in_double[observation]
            network, y = (self._double if double else self.packed).of(observation)
            if network.layout is not layout:
                layout, work = network.layout, work_arrays(network.layout, np.float64 if double else np.float32)
            limits = np.array([_EXACT_STEPS, ENOUGH_DECREASE, enough[i], np.inf])
            descend_and_perturb(
                *network, widths, y, self.problem.weights, limits, self._box, start.z[i],
                start.f[i], start.perturbations[i], steps[i], work,
            )  # fmt: skip
        return np.asarray(steps.sum(axis=1))


class BatchDescents(Descents):
    """Descents of all codes at once, for generators of any kind on any device."""

    schedule = BATCH
    widths: ClassVar[Array] = _WIDTHS
    # Steps on the exact generator, after one with each smoothed one.
    exact_steps: ClassVar[int] = _EXACT_STEPS

    @staticmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Always."""
        return True

    def __init__(self, problem: Problem, cache: SampleCache, objective: SquaredError) -> None:
        self.bounds, self.objective = problem.bounds, objective
        smoothed = (cache.smoothed(float(width), objective.network) for width in self.widths)
        self._smoothed = [replace(objective, network=network) for network in smoothed]

    def microseconds(self, steps: Integers) -> Array:
        """See :meth:`Descents.microseconds`."""
        network = self.objective.network
        return np.asarray((_BATCH_COST[0] + _BATCH_COST[1] * network.latent_dim * network.work) * steps)

    def improve(self, start: Start, enough: Array, watch: Watch) -> Integers:
        """See :meth:`Descents.improve`."""
        steps = np.zeros(start.f.shape, dtype=np.int64)
        floor = np.broadcast_to(enough[:, None], start.f.shape)
        each = np.broadcast_to(start.observations[:, None], start.f.shape)
        new = ~np.isfinite(start.f)
        if new.any():
            start.z[new], start.f[new], steps[new] = self._descend(
                each[new], start.z[new], floor[new], start.f[new], start.smoothed, watch
            )
        for turn in range(start.perturbations.shape[2]):
            left = start.f > floor
            if watch() or not left.any():
                break
            perturbed = start.z + lengths(start.z) * start.perturbations[:, :, turn]
            z, f, count = self._descend(
                each[left], self.bounds.reflect(perturbed[left]), floor[left], start.f[left], False, watch
            )
            steps[left] += count
            lower = f < start.f[left]
            start.z[left] = np.where(lower[:, None], z, start.z[left])
            start.f[left] = np.where(lower, f, start.f[left])
        return np.asarray(steps.sum(axis=1))

    def _descend(
        self, observations: Index, z: Array, enough: Array, ceiling: Array, smoothed: bool, watch: Watch
    ) -> tuple[Array, Array, Integers]:
        """Codes (b, k) where descents ended, their objectives and the steps taken, (b,).

        Descents that cannot reach the ``ceiling`` are given up, (b,).
        """
        each, at = self.objective.index(observations), self.objective.tensor(z)
        floor, top = self.objective.tensor(enough), self.objective.tensor(ceiling)
        steps, state = torch.zeros_like(each), None
        for objective in self._smoothed if smoothed else []:
            if watch():
                break
            state = self._steps(objective, at, each, floor, top, state).run(1)
            at, steps = state.z, steps + state.steps
        state = self._steps(self.objective, at, each, floor, top, state).run(self.exact_steps, watch)
        f = state.f.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return state.z.cpu().double().numpy(), f.cpu().double().numpy(), (steps + state.steps).cpu().numpy()

    def _steps(
        self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, ceiling: Tensor, last: Any
    ) -> Steps:
        """Steps on a smoothed or the exact generator, with the damping of the ``last`` ones, if there are any."""
        damping = FIRST_DAMPING if last is None else last.damping
        if objective is not self.objective:
            return LevenbergMarquardtSteps(objective, z, observations, damping=damping, tiny_decrease=0.0)
        return LevenbergMarquardtSteps(
            objective, z, observations, damping=damping, tiny_decrease=ENOUGH_DECREASE, enough=enough, ceiling=ceiling
        )


class NonlinearDescents(BatchDescents):
    """Batch descents for measurements that are not linear: they add optima, so there are more restarts."""

    schedule = NONLINEAR

    @staticmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Whether the measurement is not linear."""
        return not problem.operator.linear


class DevianceDescents(BatchDescents):
    """Batch descents for noise with a deviance, such as counts, with more restarts, and perturbations.

    They are for small dense networks, whose compiled kernel minimises squares only.

    A strongly smoothed ReLU puts out more than the exact one. To fit small counts, a descent would turn it off for
    good, so the smoothing schedule begins at a small width.
    """

    schedule = COUNTS
    widths = _WIDTHS[4:]

    @staticmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Whether only the deviance prevents compiled descents."""
        return not objective.squares and CompiledDescents.suits(problem, cache, replace(objective, loss=None))


class LimitedMemoryDescents(BatchDescents):
    """Batch descents for large generators, by L-BFGS: a Jacobian costs as much as hundreds of its steps."""

    schedule = LIMITED_MEMORY
    refines = True
    widths = np.empty(0)
    exact_steps = 200

    @staticmethod
    def suits(problem: Problem, cache: SampleCache, objective: SquaredError) -> bool:
        """Whether a Jacobian is expensive."""
        return cache.large

    def _steps(
        self, objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, ceiling: Tensor, last: Any
    ) -> Steps:
        return LimitedMemorySteps(objective, z, observations, _ENOUGH_DECREASE_LARGE, enough)

    def refined(self, observations: Index, z: Array, most: int, watch: Watch) -> tuple[Array, Flags]:
        """See :meth:`Descents.refined`. Single precision resolves all that there is to gain.

        A few restarts are refined side by side, because restarts of nearly equal objectives may end at different kinks.
        That costs little more than one. The worse half is given up again and again.
        """
        z = z[:, :_REFINED]
        left, where = z.shape[1], self.objective.index(np.repeat(observations, z.shape[1]))
        codes = self.objective.tensor(z.reshape(-1, z.shape[2]))
        floor = torch.zeros_like(codes[:, 0])
        state = LimitedMemorySteps(self.objective, codes, where, _REFINED_DECREASE, floor)
        halved = 0
        while left > 1 and most > _HALVED_AFTER:
            f = state.run(_HALVED_AFTER, watch).f.nan_to_num(nan=torch.inf).reshape(z.shape[:2])
            left, most, halved = left // 2, most - _HALVED_AFTER, halved + _HALVED_AFTER
            state.retire((f.argsort(dim=1).argsort(dim=1) >= left).flatten())
        surely = max(0, min(most, _REFINED_SURELY - halved) - LAST_STEPS) if z.shape[1] > 1 else 0
        f, most = state.run(surely, watch).f, most - surely
        arrived = torch.zeros_like(state.done)
        while most > 0 and not arrived.all() and not watch():
            before = f.clone()
            f, most = state.run(min(most, LAST_STEPS), watch).f, most - LAST_STEPS
            arrived = state.done | (f >= (1 - CONVERGED) * before)
            state.retire(arrived)
        each = np.arange(len(observations))
        best = f.nan_to_num(nan=torch.inf).reshape(z.shape[:2]).argmin(dim=1).cpu().numpy()
        return (
            state.z.cpu().double().numpy().reshape(z.shape)[each, best],
            arrived.cpu().numpy().reshape(z.shape[:2])[each, best],
        )


# The first kind that suits is taken.
KINDS: tuple[type[Descents], ...] = (
    CompiledDescents, DevianceDescents, LimitedMemoryDescents, NonlinearDescents, BatchDescents,
)  # fmt: skip
