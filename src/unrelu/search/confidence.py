"""The best code of each observation in a search, how often it was found, and what that says of better ones.

The agreement of descents from independent starts says what is to be expected of optima that none of them found.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaln
from torch import Tensor

from unrelu.search.levenberg_marquardt import LevenbergMarquardtSteps, on_plateau

Array = npt.NDArray[np.float64]


# Terms of the series that are summed. What is left out matters only where nearly all of hundreds of descents ended
# apart, and the probability is next to 0.
_TERMS = 10_000
# Objectives this close relative to each other are the same optimum, found again.
_SAME = 1e-2
# All exact fits are the same optimum: objectives of outputs that are off by at most so many units of the precision.
_UNITS = 20


@lru_cache(maxsize=4096)
def best_seen_probability(descents: int, optima: int) -> float:
    r"""The probability that the best of all local optima is among those that independent descents ended in.

    Of n descents that ended in w different optima, Boender and Rinnooy Kan give the posterior of the number
    :math:`\kappa` of optima when all ways to divide the starts among them are as likely beforehand:

    .. math:: P(\kappa) \propto \pi(\kappa) \, \frac{\kappa! \, (\kappa - 1)!}{(n + \kappa - 1)! \, (\kappa - w)!},
              \qquad \kappa \ge w.

    The prior here is :math:`\pi(\kappa) = 1 / \kappa`, which prefers no order of magnitude; theirs is constant, and so
    wide that two descents which agree say nothing. If how low an optimum lies says nothing about how many starts lead
    to it, the lowest of all is among the w with probability :math:`w / \kappa`. Returned is its mean,

    .. math:: \sum_{\kappa \ge w} P(\kappa) \, \frac{w}{\kappa},

    0.64 where two descents agree, 0.79 and 0.85 for three and four, 0.99 for 51; 0 where no two did (n = w).

    Args:
        descents: n.
        optima: w, from 1 to n.

    Source: C. G. E. Boender and A. H. G. Rinnooy Kan, Bayesian stopping rules for multistart global optimization
    methods, Mathematical Programming 37 (1987), equation for the posterior of the number of local minima.
    """
    n, w = descents, optima
    if n <= w:
        return 0.0
    kappa = np.arange(w, w + _TERMS, dtype=np.float64)
    logarithms = 2 * gammaln(kappa) - gammaln(n + kappa) - gammaln(kappa - w + 1)
    weights = np.exp(logarithms - logarithms.max())
    return float((weights * w / kappa).sum() / weights.sum())


class Candidates:
    """Best codes of a batch.

    Attributes:
        z, f: best code (B, k) and its objective (B,), infinite before the first.
        gram: J^T J there, (B, k, k).
        ends: the objectives at which the descents from independent starts ended, (B, n): infinite where one ended on a
            plateau or nowhere, NaN where the observation took no part in it.
        steps: steps spent, (B,).
        size, zero: |y|^2 and the objective that is rounding, (B,).
        double: the codes in double precision, (B, k); NaN before the first.
    """

    def __init__(self, y: Tensor, k: int) -> None:
        batch = len(y)
        self.size = y.square().sum(dim=1)
        self.zero = (_UNITS * torch.finfo(y.dtype).eps) ** 2 * self.size
        self.z, self.gram = y.new_zeros(batch, k), y.new_zeros(batch, k, k)
        self.f = y.new_full((batch,), torch.inf)
        self.ends = y.new_zeros(batch, 0)
        self.steps = torch.zeros(batch, dtype=torch.int64, device=y.device)
        self.double = np.full((batch, k), np.nan)

    def add(self, state: LevenbergMarquardtSteps, steps: Tensor, independent: bool = True) -> None:
        """Take the ends of some descents, one to an observation at most.

        Args:
            state: where they ended.
            steps: that they took, (b,).
            independent: whether their starts owe nothing to what was found before, so that they are evidence of it.
                Ends on a plateau, where the output does not change with the code, are no optima that could be found
                again: dead neurons bring many starts there.
        """
        rows, values = state.rows, state.f.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.steps[rows] += steps
        better = torch.nonzero(values < self.f[rows])[:, 0]
        state.refresh(better)
        at = rows[better]
        self.f[at], self.z[at], self.gram[at] = values[better], state.z[better], state.gram[better]
        self.double[at.cpu().numpy()] = state.z[better].cpu().double().numpy()
        if independent:
            column = torch.full_like(self.f, torch.nan)
            column[rows] = torch.where(state.flat(), torch.inf, values)
            self.ends = torch.cat([self.ends, column[:, None]], dim=1)

    @property
    def times_found(self) -> Tensor:
        """How many independent descents ended at the best objective, to 1%, (B,)."""
        same = torch.maximum((1 + _SAME) * self.f, self.zero)[:, None]
        return ((self.ends <= same) & self.ends.isfinite()).sum(dim=1)

    def confidence(self) -> Array:
        """The probability that no optimum has an objective more than 1% below the best, (B,).

        It is that of :func:`~unrelu.search.confidence.best_seen_probability`. Ends are those of one optimum up to 1%
        above the lowest of them. It is 0 where fewer than two independent descents ended at the best, whatever
        perturbations of it came to.
        """
        descents = (~self.ends.isnan()).sum(dim=1)
        ends = self.ends.nan_to_num(nan=torch.inf, posinf=torch.inf).sort(dim=1).values
        optima, lowest = torch.zeros_like(descents), torch.full_like(self.f, -torch.inf)
        for i, end in enumerate(ends.unbind(dim=1)):
            # Those that took no part were sorted to the end. Descents that ended nowhere are one optimum together.
            another = (end > torch.maximum((1 + _SAME) * lowest, self.zero)) | torch.isneginf(lowest)
            another &= (descents > i) & ~torch.isposinf(lowest)
            optima += another.long()
            lowest = torch.where(another, end, lowest)
        counts = zip(self.times_found.tolist(), descents.tolist(), optima.tolist(), strict=True)
        return np.array([best_seen_probability(n, w) if times_found >= 2 else 0.0 for times_found, n, w in counts])

    def replace(self, rows: Tensor, z: Array) -> None:
        """The same codes, refined."""
        self.double[rows.cpu().numpy()] = z
        self.z[rows] = torch.as_tensor(z, dtype=self.z.dtype, device=self.z.device)

    def flat(self) -> Tensor:
        """The best codes that are on a plateau."""
        return on_plateau(self.z, self.f, self.gram)

    def codes(self) -> Array:
        """A copy of the codes."""
        return self.double.copy()
