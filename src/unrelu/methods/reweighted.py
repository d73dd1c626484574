"""From the l2 solution towards the l1 one: Levenberg-Marquardt with weights that play down what does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.methods.lm import LevenbergMarquardt
from unrelu.operators import Operator
from unrelu.problem import Control, Problem, Progress

__all__ = ["Reweighted"]

Array = npt.NDArray[np.float64]

# The floor of the residuals begins at the largest one and ends at this share of it.
_LAST_FLOOR = 1e-3


@dataclass(frozen=True)
class Reweighted:
    r"""Iteratively reweighted least squares on the whole network.

    .. math:: z \leftarrow \text{LM steps on } \sum_j w_j (y - A G(z))_j^2, \qquad w_j = 1 / \max(|r_j|, \kappa)

    with a floor kappa that falls from the largest residual to 1e-3 of it: from l2, which gross errors pull away, to
    l1. The best code of each observation in l1 is kept; :class:`~unrelu.methods.norm_descent.NormDescent` finishes it.

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
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name}={getattr(self, name)} must be at least 1")

    def minimise(self, problem: Problem, z0: Array) -> tuple[Array, npt.NDArray[np.int64]]:
        """Go from codes z0 (B, k), mostly the l2 solutions: the codes and the steps taken, (B,).

        No code is worse than its start in l1. At the time limit, or when the callback asks to stop, the best codes so
        far are returned.
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
        problem, y=problem.y * weight, operator=_Weighted(problem.operator, tensor), norm="l2", control=control
    )


@dataclass(frozen=True, eq=False)
class _Weighted(Operator):
    """A with a weight for each entry of each observation, (B, m)."""

    inner: Operator
    weight: Tensor

    def __post_init__(self) -> None:
        for name in ("n", "m", "shape"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def forward(self, x: Tensor) -> Tensor:
        """W A x."""
        return self.inner.forward(x) * self.weight

    def adjoint(self, r: Tensor) -> Tensor:
        """A^T W r."""
        return self.inner.adjoint(r * self.weight)

    def tangents(self, t: Tensor) -> Tensor:
        """W A on every direction."""
        return self.inner.tangents(t) * self.weight[:, None, :]

    @property
    def count(self) -> int:
        """One for each observation."""
        return len(self.weight)

    def take(self, rows: npt.NDArray[np.intp] | Tensor) -> _Weighted:
        """The weighted operators of some observations."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.weight.device)
        return _Weighted(self.inner.take(rows), self.weight[index])

    def to(self, dtype: torch.dtype, device: torch.device) -> _Weighted:
        """The same as another type."""
        return _Weighted(self.inner.to(dtype, device), self.weight.to(device=device, dtype=dtype))
