"""``projected``: projected gradient on the output; an inversion is the projection onto the generator's range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from unrelu.baselines._first_order import ASTRONOMICAL, need_adjoint
from unrelu.baselines.adam import Adam
from unrelu.errors import InputError, UnsupportedModelError
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.local_search.halting import HALTS
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardt
from unrelu.local_search.option_checks import above_zero, at_least, one_of
from unrelu.local_search.starts import LAYER_METHODS
from unrelu.measurements import IdentityOperator
from unrelu.measurements.noise import UnknownNoise
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion, Status
from unrelu.runtime.array_types import Array, Flags, Index

# Shah and Hegde project by Adam from the last code: learning rate 0.1, 100 steps.
_SEARCHES: dict[str, Callable[[Problem], Inversion]] = {
    "lm": LevenbergMarquardt(),
    "adam": Adam(learning_rate=0.1, max_iterations=100, restarts=1),
}
_PROJECTIONS = (*LAYER_METHODS, *_SEARCHES)


@dataclass(frozen=True)
class Projected:
    r"""x <- P(x + step A^T (y - A x)) from x = 0 or G(z0), where P(u) = G(z) and z is the code found by inverting u.

    .. math:: u = x + \eta A^T (y - A x), \qquad z = \operatorname{argmin}_z |u - G(z)|, \qquad x \gets G(z)

    Of all iterates, the code with the least ``|y - A G(z)|_2^2 + prior |z|_2^2`` is returned. A step above
    :math:`2 / \|A\|_2^2` need not converge. For a mask, the step 1 replaces the hidden pixels by those of the iterate.

    With a prior, the search minimises :math:`|u - G(z)|_2^2 + \eta \, prior \, |z|_2^2` instead of the distance: a
    proximal gradient step on the objective.

    Args:
        projection: how u is inverted: by a layer-wise method ("linf", "l1", "relaxed", "least_squares", "exact"), or by
            a search from the last code: "lm", or "adam" as in Shah and Hegde (learning rate 0.1, 100 steps). The
            paper has "linf"; with hidden pixels "l1" and "lm" come much closer (benchmarks).
        step: :math:`\eta`, in units of 1/A^2. The released code of Shah and Hegde has 0.5, for
            :math:`A_{ij} \sim N(0, 1/m)`; the paper does not say.
        max_iterations: the most projections of an observation; 10 in the released code.
        tolerance: an observation has converged when ``|y - A x|_2`` changes by at most this fraction; ours, as the
            released code makes every step.

    Raises:
        OptionError: an option has a value it cannot take.
        InputError: the problem has a prior and the projection is layer-wise.
        UnsupportedModelError: a layer-wise projection cannot take the generator; "lm" and "adam" take any.

    Source: Shah and Hegde, "Solving linear inverse problems using GAN priors: an algorithm with provable guarantees"
    (ICASSP 2018), Algorithm 1, and https://github.com/shahviraj/pgdgan; section 5.2 and Figure 4 of the paper.
    """

    projection: str = "linf"
    step: float = 0.5
    max_iterations: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        one_of(_PROJECTIONS, projection=self.projection)
        above_zero(step=self.step)
        at_least(1, max_iterations=self.max_iterations)
        at_least(0, tolerance=self.tolerance)

    def check(self, problem: Problem) -> None:
        """Raise the errors of the class, and refuse counts and measurements without an adjoint."""
        need_adjoint(problem, "projected")
        if self.projection in _SEARCHES:
            return
        if problem.prior:
            raise InputError(
                f"prior={problem.stated_prior}: projection={self.projection!r} inverts layers, which have no |z|^2; "
                "use projection='lm'"
            )
        layers = Layerwise(LAYER_METHODS[self.projection](), "projected")
        try:
            layers.check(replace(problem, operator=_whole(problem), prior=0.0, given=None))
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{error}, or projection='lm' of 'projected'") from None

    def __call__(self, problem: Problem) -> Inversion:
        """Step and project all observations at once until they have converged."""
        self.check(problem)
        run = _Run(problem, self)
        for t in range(self.max_iterations):
            if not run.active.any():
                break
            if problem.control.expired() or problem.control.stopped(partial(run.progress, t)):
                run.retire(run.active.copy(), Status.TIME_LIMIT if problem.control.expired() else Status.STOPPED, t)
                break
            run.iterate(t)
        return Inversion.of(problem, run.best, method="projected", status=run.status, nit=run.nit, norm="l2")


def _whole(problem: Problem) -> IdentityOperator:
    return IdentityOperator(problem.network.output_shape, problem.network.output_dim)


class _Run:
    """The iterate and the best code of every observation.

    Attributes:
        z: the code of the iterate, (B, k); NaN stands for the first iterate x = 0.
        draws: starts of the first search.
        best, objective: the best code so far and its objective.
        size: ``|y - A x|_2``, (B,).
        active, status, nit: which observations are not finished, how they ended, and how often they were projected.
    """

    def __init__(self, problem: Problem, method: Projected) -> None:
        self.problem, self.method, batch = problem, method, problem.size
        # In the units of the problem, A is 2^(data - output) times the user's A.
        with np.errstate(over="ignore", under="ignore"):
            self.step = float(np.ldexp(method.step, 2 * (problem.units.output - problem.units.data)))
        self.draws = problem.start()
        self.z, self.objective = np.full_like(self.draws, np.nan), np.full(batch, np.inf)
        self.size = np.linalg.norm(problem.y, axis=1)
        if problem.z0 is not None:
            self.z, self.objective = self.draws.copy(), problem.objective(self.draws, "l2")
            self.size = np.linalg.norm(problem.residual(self.z), axis=1)
        self.best, self.active = self.z.copy(), np.ones(batch, dtype=bool)
        self.status = np.full(batch, Status.ITERATION_LIMIT, dtype=object)
        self.nit = np.zeros(batch, dtype=np.int64)

    def iterate(self, t: int) -> None:
        """Make one step of the active observations, and retire those that ended."""
        observations = np.flatnonzero(self.active)
        u = self.gradient_step(observations)
        far = np.asarray(~(np.abs(u).max(axis=1) < ASTRONOMICAL))
        self.retire(observations[far], Status.DIVERGED, t)
        observations, u = observations[~far], u[~far]
        if not len(observations):
            return
        found = self.project(observations, u, t)
        reached = np.asarray(np.isfinite(found.z).all(axis=1))
        self.accept(observations[reached], found.z[reached], t + 1)
        for halt in HALTS:
            if halt in found.status:
                self.retire(self.active.copy(), halt)
        for i in np.flatnonzero(~reached & self.active[observations]):
            self.retire(observations[[i]], found.status[i])

    def gradient_step(self, observations: Index) -> Array:
        """x + step A^T (y - A x), (a, n)."""
        part = self.problem.part(observations)
        x = np.zeros((len(observations), self.problem.network.output_dim))
        there = np.isfinite(self.z[observations]).all(axis=1)
        if there.any():
            x[there] = self.problem.network.outputs(self.z[observations][there]).reshape(-1, x.shape[1])
        r = part.y - part.operator.values(x)
        return x + self.step * np.asarray(part.operator.adjoint(torch.tensor(r)))

    def project(self, observations: Index, u: Array, t: int) -> Inversion:
        """Invert u, (a, n), by the chosen projection, in the time that is left."""
        problem, projection = self.problem, self.method.projection
        started = np.isfinite(self.z[observations]).all(axis=1, keepdims=True)
        target = replace(
            problem.part(observations, problem.control.part(lambda _: self.progress(t))), y=u, operator=_whole(problem),
            noise=UnknownNoise(), norm="l2", prior=self.step * problem.prior,
            z0=np.where(started, self.z[observations], self.draws[observations]),
        )  # fmt: skip
        if projection in _SEARCHES:
            return _SEARCHES[projection](target)
        return Layerwise(LAYER_METHODS[projection](), "projected")(target)

    def accept(self, observations: Index, z: Array, nit: int) -> None:
        """Move observations to codes z, and retire those whose residual has converged."""
        if not len(observations):  # when the time is up, there may be no codes
            return
        part = self.problem.part(observations)
        size, objective = np.linalg.norm(part.residual(z), axis=1), part.objective(z, "l2")
        last = self.size[observations]
        converged = np.abs(size - last) <= self.method.tolerance * last
        better = objective < self.objective[observations]
        self.z[observations], self.size[observations], self.nit[observations] = z, size, nit
        self.best[observations[better]], self.objective[observations[better]] = z[better], objective[better]
        self.retire(observations[converged], Status.CONVERGED, nit)

    def retire(self, observations: Index | Flags, why: Status, nit: int | None = None) -> None:
        """End observations with a status."""
        self.active[observations], self.status[observations] = False, why
        if nit is not None:
            self.nit[observations] = nit

    def progress(self, iteration: int) -> Progress:
        """The progress for the callback, with the best codes so far."""
        done = int((~self.active).sum())
        return Progress("projected", iteration, done, len(self.active), self.best.copy())
