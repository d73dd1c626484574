"""Levenberg-Marquardt on the joint network: steps of a batch of codes, and ``lm``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.local_search import damping as rule
from unrelu.local_search.halting import Steps, Stop, Watch
from unrelu.local_search.option_checks import above_zero, at_least, one_of
from unrelu.local_search.refinement import Refined, refine
from unrelu.local_search.squared_error import SquaredError
from unrelu.local_search.starts import START_NAMES, check_start, starting_codes
from unrelu.problem import Problem
from unrelu.result import Ending, Inversion, Status
from unrelu.runtime.array_types import Array, Integers
from unrelu.runtime.run_control import Progress

# A descent may end where a step is predicted to gain less than this fraction of f; a refinement goes on from there.
ENOUGH_DECREASE = 1e-2
# The share of f that may be rounding, and the most steps for the last digits of a code.
_ROUNDED, _MOST_LAST_STEPS = 1e-9, 20


def on_plateau(z: Tensor, f: Tensor, gram: Tensor) -> Tensor:
    """Check whether the Jacobian is zero at codes (b, k): a step of their size changes f (b,) by less than 1e-10 f."""
    change = gram.diagonal(dim1=1, dim2=2).amax(dim=1).sqrt() * (1 + z.norm(dim=1))
    plateau: Tensor = torch.isfinite(f) & (change <= 1e-10 * f.sqrt())
    return plateau


def bounded_step(gram: Tensor, gradient: Tensor, held: Tensor, damping: float | Tensor) -> tuple[Tensor, Tensor]:
    """Solve (H + mu I) s = -g without the ``held`` coordinates (b, k), which do not move.

    Args:
        gram, gradient: H, (b, k, k), and g, (b, k).
        damping: mu, a number or (b, 1).

    Returns:
        The steps s, (b, k), and whether the system has a finite solution, (b,).
    """
    free = ~held
    gram = gram * (free[:, :, None] & free[:, None, :])
    gram.diagonal(dim1=1, dim2=2).add_(held + damping)
    root, info = torch.linalg.cholesky_ex(gram)
    s = -torch.cholesky_solve((gradient * free)[:, :, None], root)[:, :, 0]
    return s, (info == 0) & torch.isfinite(s).all(dim=1)


class LevenbergMarquardtSteps(Steps):
    r"""Codes that descend f(z) = |A G(z) - y|^2 + lambda |z|^2 by the rule of :mod:`~unrelu.local_search.damping`.

    A code is finished when f is small, after two tiny steps in a row, when its next step promises a tiny decrease, or
    when it cannot reach its ceiling.

    Attributes:
        gram, gradient: J^T J + lambda I, (b, k, k), and half the gradient, (b, k); out of date where ``stale``.
        damping: mu, (b,).

    Args:
        damping: the first mu as a fraction of the mean diagonal of J^T J + lambda I, or one mu for each code.
        tiny_decrease: a decrease of f by less than this fraction is tiny.
        enough: values of f below which a code is finished, (b,).
        ceiling: values of f that codes must reach, (b,). Codes that cannot reach theirs are given up.
    """

    def __init__(
        self, objective: SquaredError, z: Tensor, observations: Tensor, *, tiny_decrease: float = 1e-13,
        damping: float | Tensor = rule.FIRST_DAMPING, enough: Tensor | None = None, ceiling: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.tiny_decrease = tiny_decrease
        self.gram, self.gradient, f = objective.system(z, observations)
        super().__init__(objective, z, observations, f, torch.full_like(f, -1.0) if enough is None else enough.to(f))
        self.done |= ~torch.isfinite(f)
        self.ceiling = torch.full_like(f, torch.inf) if ceiling is None else ceiling.to(f)
        self.small, self.stale = torch.zeros_like(self.steps), torch.zeros_like(self.done)
        self.growth, self._smallest = torch.full_like(f, 2.0), torch.finfo(f.dtype).tiny
        if isinstance(damping, Tensor):
            self.damping = damping.clone()
        else:
            self.damping = (damping * self._mean(self.gram)).clamp_min(self._smallest)

    def step(self, at: Tensor) -> None:
        """Make one trial step of some codes, with a new Jacobian where the last step was accepted."""
        self.refresh(at)
        z, f, mu, mean = self.z[at], self.f[at], self.damping[at], self._mean(self.gram[at])
        gradient = self.gradient[at]
        s, solved = bounded_step(self.gram[at], gradient, self.objective.held(z, gradient), mu[:, None])
        s = torch.where(solved[:, None], s, torch.zeros_like(s))
        promised, enough = (s * (mu[:, None] * s - gradient)).sum(dim=1), self.tiny_decrease * f
        self.steps[at] += 1
        ended = rule.arrived(mu, mean, promised, enough) | rule.hopeless(self.steps[at], f, promised, self.ceiling[at])
        self.done[at] |= ended & solved
        trial = self.objective.clip(z + s)
        reached = self.objective.values(trial, self.observations[at])
        better = (reached < f) & solved & ~ended
        self.z[at], self.f[at] = torch.where(better[:, None], trial, z), torch.where(better, reached, f)
        self.stale[at] |= better
        change, nu = rule.factor(f - reached, promised.clamp_min(self._smallest)), self.growth[at]
        self.damping[at] = mu * torch.where(better, change.clamp(rule.LEAST_FACTOR, 1.0), nu)
        self.growth[at] = torch.where(better, torch.full_like(nu, 2.0), 2 * nu)
        tiny = rule.tiny(f - reached, enough, (s * s).sum(dim=1), (z * z).sum(dim=1), mu, mean)
        self.small[at] = torch.where(tiny, self.small[at] + 1, 0) * solved + self.small[at] * ~solved
        self.done[at] |= (self.small[at] >= rule.TINY_STEPS) | (self.f[at] <= self.enough[at])

    @staticmethod
    def _mean(gram: Tensor) -> Tensor:
        """Compute the means of the diagonals, (b,)."""
        return gram.diagonal(dim1=1, dim2=2).mean(dim=1)

    def refresh(self, at: Tensor) -> None:
        """Compute the normal equations of the codes that have moved since the last time."""
        at = at[self.stale[at]]
        if len(at):
            self.gram[at], self.gradient[at], _ = self.objective.system(self.z[at], self.observations[at])
            self.stale[at] = False

    def flat(self) -> Tensor:
        """Check whether codes are on a plateau and do not fit well, (b,)."""
        return on_plateau(self.z, self.f, self.gram) & (self.f > self.enough)


def refine_damped(
    objective: SquaredError, z: Tensor, observations: Tensor, enough: Tensor, most: int, stop: Stop | None = None
) -> Refined:
    """Refine codes (:func:`~unrelu.local_search.refinement.refine`), and make damped steps if G has no known kinks.

    In the bent valley of an ill-conditioned generator, BFGS soon gains as little as at a kink, and ends. Damped steps
    compute a Jacobian each, and follow the valley. If the first one gains nothing, as at an unknown kink, it is the
    last. At the end, undamped steps determine the last digits.
    """
    found, network = refine(objective, z, observations, enough, most, stop), objective.network
    if not len(z) or network.smoothed(1.0, z[:1]) is not network:
        return found
    state, left = (
        LevenbergMarquardtSteps(objective, found.z, observations, enough=enough),
        most - int(found.steps.max()),
    )
    state.run(min(left, 1), stop).done |= state.f >= found.f
    state.run(left - 1, stop)
    optimal = found.optimal | (state.done & state.f.isfinite())
    last = torch.nonzero(optimal & (state.f > enough))[:, 0]
    state.z[last], state.f[last] = _last_digits(objective, state.z[last], state.f[last], observations[last])
    return Refined(state.z, state.f, found.steps + state.steps, optimal)


def _last_digits(objective: SquaredError, z: Tensor, f: Tensor, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Make Gauss-Newton steps from optimal codes (b, k); return the codes reached, and their f, (b,).

    Rounding hides differences of f between these codes, but the gradient still shows them. A step is accepted if the
    next one promises at most half as much, and f does not rise visibly.
    """
    z, f, promised = z.clone(), f.clone(), torch.full_like(f, torch.inf)
    at, trial = torch.arange(len(z), device=z.device), z
    for _ in range(_MOST_LAST_STEPS):
        gram, gradient, reached = objective.system(trial, observations[at])
        s, solved = bounded_step(gram, gradient, objective.held(trial, gradient), 0.0)
        gain = -(s * gradient).sum(dim=1)
        better = (gain <= 0.5 * promised[at]) & (reached <= (1 + _ROUNDED) * f[at])
        z[at[better]], f[at[better]], promised[at[better]] = trial[better], reached[better], gain[better]
        going = better & solved & (gain > 0)
        at, trial = at[going], objective.clip(trial + s)[going]
        if not len(at):
            break
    return z, f


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Minimise ``|y - A G(z)|_2^2 + prior |z|^2`` by damped Gauss-Newton steps, then refine to a local optimum.

    .. math:: (J^T J + (\lambda + \mu) I) s = J^T (y - A G(z)) - \lambda z, \qquad J = A \, G'(z), \lambda = prior

    The damping mu follows the rule of :mod:`~unrelu.local_search.damping`. All observations move at once, and each
    stops on its own. The steps ignore ReLU kinks: J is the Jacobian of the current linear region. Once a step is
    predicted to gain less than 1% of the objective, :mod:`~unrelu.local_search.refinement` goes on to first-order
    optimality, also at kinks. The result is a local optimum, which depends on the start.

    Args:
        start: where to start if no ``z0`` is given: "random" (N(0, I) from the seed), "zero", or a layer-wise method
            ("linf", "l1", "relaxed", "least_squares", "exact").
        max_iterations: the largest number of steps tried, accepted or not, including steps of the refinement.
        damping: the first mu, as a fraction of the mean diagonal of J^T J.

    Raises:
        OptionError: an option has a value it cannot take.

    Source: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), section 3.2.
    """

    start: str = "random"
    max_iterations: int = 3000
    damping: float = rule.FIRST_DAMPING

    def __post_init__(self) -> None:
        one_of(START_NAMES, start=self.start)
        at_least(1, max_iterations=self.max_iterations)
        above_zero(damping=self.damping)

    def check(self, problem: Problem) -> None:
        """Raise an error if the start is a method that cannot take the generator."""
        check_start(problem, self.start)

    def __call__(self, problem: Problem) -> Inversion:
        """Refine the starting codes of every observation."""
        (z, nit, timed_out), norm = starting_codes(problem, self.start), problem.descent_norm
        if problem.control.halted:
            return Inversion.of(problem, z, method="lm", status=Status.STOPPED, nit=nit, norm=norm)
        z, status, steps = self.minimise(problem, z)
        z[timed_out & (steps == 0)] = np.nan
        return Inversion.of(problem, z, method="lm", status=status, nit=steps + nit, norm=norm)

    def minimise(self, problem: Problem, z0: Array) -> tuple[Array, npt.NDArray[np.object_], Integers]:
        """Run from codes z0 (B, k); return the codes reached, how each run ended, and the steps it took."""

        def progress() -> Progress:
            return Progress("lm", int(state.steps.max()), int(state.done.sum()), problem.size, _codes(state.z))

        objective, watch = SquaredError.of(problem), Watch(problem.control, progress)
        every, exact = objective.index(np.arange(problem.size)), objective.tensor(1e-30 * problem.energy)
        start = objective.tensor(np.nan_to_num(z0))
        state = LevenbergMarquardtSteps(
            objective, start, every, damping=self.damping, tiny_decrease=ENOUGH_DECREASE, enough=exact
        )
        state.run(self.max_iterations, watch)
        flat, done = state.done & state.flat(), state.done.clone()
        left = torch.nonzero(state.done & ~flat & (state.f > exact))[:, 0]
        if len(left):
            most = self.max_iterations - int(state.steps[left].max())
            found = refine_damped(objective, state.z[left], every[left], exact[left], most, watch)
            state.z[left], state.f[left], done[left] = found.z, found.f, found.optimal
            state.steps[left] += found.steps
        status = np.full(problem.size, watch.reason or Ending.ITERATION_LIMIT, dtype=object)
        for which, name in ((done, Status.CONVERGED), (flat, Ending.FLAT), (~state.f.isfinite(), Ending.DIVERGED)):
            status[which.cpu().numpy()] = name
        return _codes(state.z), status, state.steps.cpu().numpy()


def _codes(z: Tensor) -> Array:
    return z.cpu().double().numpy().copy()
