"""``lm``: damped joint Levenberg-Marquardt on the whole network, a batch of observations at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import OptionError
from unrelu.methods.misfit import Misfit
from unrelu.methods.newton import DampedNewton
from unrelu.methods.starts import START_NAMES, starting_codes
from unrelu.methods.watch import Watch
from unrelu.problem import Problem, Progress
from unrelu.result import Inversion, Status

__all__ = ["LevenbergMarquardt"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LevenbergMarquardt:
    r"""Minimise ``|y - A G(z)|_2^2 + prior |z|^2`` by damped Gauss-Newton steps.

    .. math:: (J^T J + (\lambda + \mu) I) s = J^T (y - A G(z)) - \lambda z, \qquad J = A \, G'(z), \lambda = prior

    with Nielsen's update of the damping mu, for all observations at once; each stops on its own. ReLU kinks are
    ignored: J is the Jacobian of the current linear piece. The result is a local optimum: which one depends on the
    start.

    Args:
        start: where to start if no ``z0`` is given: "random" (N(0, I) from the seed), "zero", or a layer-wise method
            ("linf", "l1", "relaxed", "least_squares", "exact").
        max_iterations: steps tried at most, accepted or not.
        damping: first mu, as a share of the mean diagonal of J^T J.

    Raises:
        OptionError: an option has a value it cannot take.

    Source: Madsen, Nielsen and Tingleff, "Methods for non-linear least squares problems" (2004), section 3.2.
    """

    start: str = "random"
    max_iterations: int = 200
    damping: float = 1e-2

    def __post_init__(self) -> None:
        if self.start not in START_NAMES:
            raise OptionError(f"start={self.start!r} is unknown; use one of {', '.join(START_NAMES)}")
        if self.max_iterations < 1:
            raise OptionError(f"max_iterations={self.max_iterations} must be at least 1")
        if not 0 < self.damping < math.inf:
            raise OptionError(f"damping={self.damping} must be above 0 and finite")

    def __call__(self, problem: Problem) -> Inversion:
        """Refine the starting codes of every observation."""
        start = starting_codes(problem, self.start)
        if start.stopped:
            return Inversion.of(problem, start.z, method="lm", status=Status.STOPPED, nit=start.nit, norm="l2")
        z, status, steps = self.minimise(problem, start.z)
        z[start.late & (steps == 0)] = np.nan
        return Inversion.of(problem, z, method="lm", status=status, nit=steps + start.nit, norm="l2")

    def minimise(self, problem: Problem, z0: Array) -> tuple[Array, npt.NDArray[np.object_], npt.NDArray[np.int64]]:
        """Run from codes z0 (B, k): the codes reached, how each run ended, and the steps it took."""
        watch = Watch(problem.control, lambda: _progress(state))
        misfit = Misfit.of(problem)
        every, exact = torch.arange(problem.size, device=misfit.y.device), 1e-30 * (misfit.y * misfit.y).sum(dim=1)
        state = DampedNewton(misfit, misfit.tensor(np.nan_to_num(z0)), every, damping=self.damping, enough=exact)
        state.run(self.max_iterations, watch)
        status = np.full(problem.size, watch.reason or Status.ITERATION_LIMIT, dtype=object)
        status[state.done.cpu().numpy()] = Status.CONVERGED
        status[(state.done & state.flat()).cpu().numpy()] = Status.FLAT
        status[~torch.isfinite(state.f).cpu().numpy()] = Status.DIVERGED
        return _codes(state), status, state.steps.cpu().numpy()


def _progress(state: DampedNewton) -> Progress:
    return Progress("lm", int(state.steps.max()), int(state.done.sum()), len(state.z), _codes(state))


def _codes(state: DampedNewton) -> Array:
    return state.z.cpu().double().numpy().copy()
