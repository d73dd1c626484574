r"""The linear programs of many observations of one layer, solved side by side by an interior-point method in torch.

Each program is shifted and scaled, h = h0 + sigma w with h0 a least-squares point and sigma the size of its errors, so
that precision is relative to the noise and not to the observation. :mod:`unrelu.layer.interior` has the steps. Near the
optimum the vertex of the heaviest rows is tried, which is exact where the optimum is a vertex.

Nothing here is trusted: every answer is checked on the host by :func:`unrelu.layer.proof.prove` with its multipliers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import OptionError
from unrelu.layer.convex import Answer, check_norm
from unrelu.layer.highs import LpStatus
from unrelu.layer.interior import MOST_ENTRIES, Point, Programs, Shared, factorise, first_point, solve_normal, step
from unrelu.layer.proof import GAP, ZERO, prove
from unrelu.layer.rows import LayerSystem, Rows

__all__ = ["least_violation_batch"]

Array = npt.NDArray[np.float64]

# Solves of one program at most: the later ones are shifted to the best point so far.
_ROUNDS = 3
_STEPS = 50
# Gap aimed at, as a share of what the proof accepts: for noise far below max|x| the latter is a coarse measure.
_AIM, _AIM_ZERO = 0.5, 5e-4
# A complementarity below this share of the objective is rounding.
_ROUNDING = 1e-14
# A vertex is tried once the complementarity is below this share of the objective.
_VERTEX_GAP = 0.05
# Rounds and ridge of the least-squares points.
_LEAST_SQUARES = 2
_RIDGE = 1e-12


def least_violation_batch(
    system: LayerSystem,
    rows: Sequence[Rows],
    norm: str,
    device: str | torch.device = "cpu",
    time_limit: float = math.inf,
) -> list[Answer]:
    r"""min over lower <= h <= upper of max_j e_j(h) ("linf") or sum_j e_j(h) ("l1"), for every element of ``rows``.

    Programs are solved so many at a time that an array of their slacks, bounds and k x k matrices has at most 2^23
    entries, 64 MiB; the solver holds about 20 arrays of that kind.

    Args:
        system: the layer; W, (n, k), and the bounds of h are shared by the batch.
        rows: what each observation says about W h; both sides of a row start at one point.
        norm: "linf" or "l1".
        device: where the iterations run, in float64; the check is on the host.
        time_limit: in seconds for the whole batch.

    Returns:
        An answer per element, in order; objective and bound are those of the proof. The status is OPTIMAL only where
        the proof holds, LIMIT where the time was up, and FAILED elsewhere: ask another solver then.

    Raises:
        OptionError: there is no such norm or device.
        SolverError: W is sparse with more than 4e6 entries.
    """
    check_norm(norm)
    end = time.perf_counter() + time_limit
    if not rows:
        return []
    shared = Shared.of(system, norm, _usable(device))
    chunk = max(1, MOST_ENTRIES // (2 * (system.n_out + system.n_in) + system.n_in**2))
    answers: list[Answer] = []
    for begin in range(0, len(rows), chunk):
        part = rows[begin : begin + chunk]
        h, y, steps = _solve(_Observations.of(shared, part), end)
        otherwise = LpStatus.FAILED if time.perf_counter() < end else LpStatus.LIMIT
        answers += [_answer(system, one, norm, h[i], y[i], int(steps[i]), otherwise) for i, one in enumerate(part)]
    return answers


def _usable(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    # PyTorch has several for one that is not there.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return found


def _answer(system: LayerSystem, rows: Rows, norm: str, h: Array, y: Array, steps: int, otherwise: LpStatus) -> Answer:
    """What can be proved about h with the multipliers y."""
    h = system.inside(h)
    proof = prove(system, rows, norm, h, y)
    status = LpStatus.OPTIMAL if proof.holds else otherwise
    return Answer(h, proof.objective, proof.bound, status, steps, y, engine="interior point")


def _solve(batch: _Observations, end: float) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """h (B, k), multipliers y (B, n) and steps (B,)."""
    h = batch.least_squares()
    y, bound = torch.zeros_like(batch.center), torch.zeros_like(batch.scale)
    steps = torch.zeros(len(h), dtype=torch.long, device=h.device)
    # A point without violations is optimal, with y = 0.
    todo = torch.nonzero(batch.objective(h) > ZERO * batch.scale)[:, 0]
    for _ in range(_ROUNDS):
        if not len(todo) or time.perf_counter() >= end:
            break
        part, near = batch.take(todo), h[todo]
        errors = part.errors(near)
        sigma = errors.mean(1) if batch.shared.summed else errors.amax(1)
        best, taken = _iterate(part.around(near, sigma), end)
        steps[todo] += taken
        h[todo] = near + sigma[:, None] * best.w
        higher = sigma * best.bound > bound[todo]
        y[todo[higher]], bound[todo[higher]] = best.y[higher], (sigma * best.bound)[higher]
        todo = todo[~best.proved]
    return (h / batch.shared.size).cpu().numpy(), y.cpu().numpy(), steps.cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Observations:
    """A batch of rows as tensors: where the sides start, c, the inverse slopes, all (B, n), and the scale, (B,)."""

    shared: Shared
    center: Tensor
    alpha: Tensor
    beta: Tensor
    scale: Tensor

    @classmethod
    def of(cls, shared: Shared, rows: Sequence[Rows]) -> _Observations:
        high, low = np.stack([one.high for one in rows]), np.stack([one.low for one in rows])
        has_high, has_low = np.isfinite(high), np.isfinite(low)
        center = np.where(has_high, high, np.where(has_low, low, 0.0))
        alpha = np.where(has_high, 1 / np.stack([one.high_slope for one in rows]), 0.0)
        beta = np.where(has_low, 1 / np.stack([one.low_slope for one in rows]), 0.0)
        scale = np.array([one.scale for one in rows])
        arrays = (center, alpha, beta, scale)
        return cls(shared, *(torch.as_tensor(array, device=shared.matrix.device) for array in arrays))

    def take(self, keep: Tensor) -> _Observations:
        return _Observations(self.shared, self.center[keep], self.alpha[keep], self.beta[keep], self.scale[keep])

    def residual(self, h: Tensor) -> Tensor:
        return h @ self.shared.matrix.T - self.center

    def errors(self, h: Tensor) -> Tensor:
        r = self.residual(h)
        return torch.maximum(self.alpha * r, -self.beta * r)

    def objective(self, h: Tensor) -> Tensor:
        errors = self.errors(h)
        return errors.sum(1) if self.shared.summed else errors.amax(1)

    def least_squares(self) -> Tensor:
        """Points near the least sum of squared violations, moved into the bounds, (B, k).

        First of the two-sided rows alone; then every row counts as the sign of its residual says, where that helps.
        """
        shared = self.shared
        h = torch.zeros(len(self.scale), 1, dtype=torch.float64, device=self.scale.device)
        h = h.clamp(shared.lower, shared.upper)
        best, weight = torch.square(self.errors(h)).sum(1), self.alpha * self.beta
        for _ in range(_LEAST_SQUARES):
            factor = factorise(shared.gram(weight), _RIDGE)
            dh = solve_normal(factor, -(weight * self.residual(h)) @ shared.matrix)
            trial = (h + dh).clamp(shared.lower, shared.upper)
            value = torch.square(self.errors(trial)).sum(1)
            better = value < best
            h, best = torch.where(better[:, None], trial, h), torch.where(better, value, best)
            r = self.residual(h)
            weight = torch.where(r > 0, self.alpha, torch.where(r < 0, self.beta, 0.0)) ** 2
        return h

    def around(self, h: Tensor, sigma: Tensor) -> Programs:
        """The programs in w, h + sigma w."""
        unit = sigma[:, None]
        lower, upper = (self.shared.lower - h) / unit, (self.shared.upper - h) / unit
        start, zero = self.residual(h) / unit, ZERO * self.scale / sigma
        return Programs(self.shared, start, self.alpha, self.beta, lower, upper, zero)


@dataclass(frozen=True, eq=False)
class _Best:
    """The lowest objective with its w and the highest bound with its y so far, of every program."""

    w: Tensor
    y: Tensor
    objective: Tensor
    bound: Tensor
    zero: Tensor

    @classmethod
    def first(cls, programs: Programs) -> _Best:
        """w = 0, and y of the rows of W that are zero: their violations do not depend on w.

        Where they decide the optimum, the other rows' y tends to 0, and with it what W^T y is measured by.
        """
        w = programs.inside(torch.zeros_like(programs.lower))
        errors = torch.where(programs.shared.row_norm == 0, programs.errors(programs.start), 0.0)
        decides = (errors > 0) & ((errors == errors.amax(1, keepdim=True)) | programs.shared.summed)
        y = torch.where(decides, torch.where(programs.start > 0, programs.alpha, -programs.beta), 0.0)
        return cls(w, y, *programs.score(w, y), programs.zero)

    def update(self, index: Tensor, programs: Programs, w: Tensor, y: Tensor) -> None:
        """Keep of (w, y), points and multipliers of the programs ``index``, what is better."""
        w = programs.inside(w)
        objective, bound = programs.score(w, y)
        lower, higher = objective < self.objective[index], bound > self.bound[index]
        self.w[index[lower]], self.objective[index[lower]] = w[lower], objective[lower]
        self.y[index[higher]], self.bound[index[higher]] = y[higher], bound[higher]

    @property
    def final(self) -> Tensor:
        """Where the gap is small beside the objective, or the objective is zero, (B,)."""
        small = self.objective - self.bound <= _AIM * GAP * self.objective + _AIM_ZERO * self.zero
        return small | (self.objective <= _AIM * self.zero)

    @property
    def proved(self) -> Tensor:
        """Where the gap is well below what the proof accepts, (B,)."""
        return self.objective - self.bound <= _AIM * (GAP * self.objective + self.zero)


def _iterate(programs: Programs, end: float) -> tuple[_Best, Tensor]:
    """Steps until each program is solved, and their numbers; a program that is solved leaves the batch."""
    best, x = _Best.first(programs), first_point(programs)
    live = torch.arange(len(programs.zero), device=programs.zero.device)
    steps = torch.zeros_like(live)
    for _ in range(_STEPS):
        x = step(programs, x)
        steps[live] += 1
        best.update(live, programs, x.w, programs.multipliers(x.dual))
        gap = (x.slack * x.dual).sum(1) / best.objective[live]
        near = (gap <= _VERTEX_GAP) & ~best.final[live]
        if near.any():
            part = programs.take(near)
            best.update(live[near], part, *_vertex(part, x.take(near)))
        keep = ~best.final[live] & (gap > _ROUNDING) & torch.isfinite(x.slack.sum(1) + x.dual.sum(1))
        if not keep.all():
            live, programs, x = live[keep], programs.take(keep), x.take(keep)
        if not len(live) or time.perf_counter() >= end:
            break
    return best, steps


def _vertex(programs: Programs, x: Point) -> tuple[Tensor, Tensor]:
    """The vertex where the heaviest rows and bounds hold with equality, and its multipliers y.

    A row's weight is its part of the trace of the normal matrix.
    """
    n, m = programs.start.shape[1], programs.side.shape[1]
    few = n + m < x.w.shape[1] if programs.shared.summed else 2 * n + m <= x.w.shape[1]
    if few:
        return x.w, programs.multipliers(x.dual)
    weight = x.dual / x.slack
    return _vertex_of_sum(programs, weight) if programs.shared.summed else _vertex_of_largest(programs, weight)


def _vertex_of_sum(programs: Programs, weight: Tensor) -> tuple[Tensor, Tensor]:
    """M w = side for k rows; the others have y at the end that their residual says, and M^T y_basis = -W^T y_rest."""
    shared, (n, k) = programs.shared, programs.shared.matrix.shape
    on_a, on_b = weight[:, :n], weight[:, n : 2 * n]
    on_row = on_a * (on_b / (on_a + on_b)) * ((programs.alpha + programs.beta) * shared.row_norm) ** 2
    basis = torch.cat([on_row, weight[:, 2 * n :]], 1).topk(k, dim=1).indices
    side = torch.cat([-programs.start, programs.side], 1).gather(1, basis)
    factors = torch.linalg.lu_factor_ex(shared.normals[basis])[:2]
    w = torch.linalg.lu_solve(*factors, side[:, :, None])[:, :, 0]
    rest = torch.where(programs.residual(w) > 0, programs.alpha, -programs.beta)
    y = torch.cat([rest, torch.zeros_like(programs.side)], 1).scatter(1, basis, 0.0)
    pull = -(y[:, :n] @ shared.matrix)
    on_basis = torch.linalg.lu_solve(*factors, pull[:, :, None], adjoint=True)[:, :, 0]
    return w, y.scatter(1, basis, on_basis)[:, :n]


def _vertex_of_largest(programs: Programs, weight: Tensor) -> tuple[Tensor, Tensor]:
    """M (w, d) = side for k + 1 sides or bounds, and M^T lambda = (0, 1), 0 on the others."""
    shared, (n, k) = programs.shared, programs.shared.matrix.shape
    slopes = torch.cat([-programs.alpha, programs.beta, torch.ones_like(programs.side)], 1)
    size = torch.cat([shared.row_norm, shared.row_norm, torch.ones_like(shared.bounds[1])])
    basis = (weight * (slopes * size) ** 2).topk(k + 1, dim=1).indices
    slope, row = slopes.gather(1, basis)[:, :, None], torch.where(basis < n, basis, basis - n)
    side = torch.cat([-programs.start, programs.side], 1).gather(1, row)[:, :, None]
    on_d = (basis < 2 * n).to(slope.dtype)[:, :, None]
    factors = torch.linalg.lu_factor_ex(torch.cat([slope * shared.normals[row], on_d], 2))[:2]
    w = torch.linalg.lu_solve(*factors, slope * side)[:, :k, 0]
    cost = torch.zeros_like(side)
    cost[:, k] = 1.0
    found = torch.linalg.lu_solve(*factors, cost, adjoint=True)[:, :, 0].clamp_min(0.0)
    return w, programs.multipliers(torch.zeros_like(weight).scatter(1, basis, found))
