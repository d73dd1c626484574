"""The layer programs in the form that the exchange simplex takes, whole or only the rows that matter.

All are in shifted and scaled variables: w = 0 is a point nearby, r = W w + r0 the residuals, columns of W have norm 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from unrelu.lp.dense_linear_algebra import ROUTINES
from unrelu.lp.interior_point import largest_violation_steps, violation_sum_steps

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

# The interior-point steps end when basic rows outweigh the others by this power of two: earlier where pivots are cheap.
_DECIDED, _DECIDED_NARROW, _NARROW = 8.0, 6.0, 128
# One-sided rows this many units below their kink do not take part in the interior-point steps.
_FAR = 4.0
# A row with a smaller weight is so far away that the vertex is better completed by a fill-in.
_FILL_IN = 1e-7
# A left-out row is missing if its residual has the wrong sign by more than this.
_WRONG = 1e-9


@dataclass(frozen=True, eq=False)
class KernelUnits:
    """The bounds of the unknowns as rows with one entry, preceded by one fill-in row for each unknown.

    A fill-in has no weight and only completes a basis; a bound is held by a penalty that no multiplier reaches.
    """

    column: Index
    shift: Array
    lo: Array
    hi: Array

    @classmethod
    def of(cls, lower: Array, upper: Array, penalty: Array) -> KernelUnits:
        """For lower <= w <= upper; ``penalty`` is above any multiplier of the bounds at an optimum, (k,)."""
        k = len(lower)
        if not (np.isfinite(lower).any() or np.isfinite(upper).any()):
            return cls(np.arange(k), np.zeros(k), np.zeros(k), np.zeros(k))
        below, above = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
        none, no_lo, no_hi = np.zeros(k), np.zeros(len(above)), np.zeros(len(below))
        return cls(
            np.concatenate([np.arange(k), below, above]),
            np.concatenate([none, -lower[below], -upper[above]]),
            np.concatenate([none, -penalty[below], no_lo]),
            np.concatenate([none, no_hi, penalty[above]]),
        )

    def scores(self, barrier: Array) -> Array:
        """The weight of every unit row from those of the bounds, (k,), with the fill-ins before any far row."""
        k = len(barrier)
        return np.concatenate([np.full(k, _FILL_IN), barrier[self.column[k:]]])


@dataclass(frozen=True, eq=False)
class Approach:
    """What interior-point steps say: how likely rows (N,) and bounds (K,) are basic, and which rows to begin with.

    All scores are zero where the steps break down; the exchange then begins at w = 0.
    """

    scores: Array
    barrier: Array
    kept: Mask


@dataclass(frozen=True, eq=False)
class Part:
    """The kept rows a v + shift with their kinks lo and hi, and the gradient of all the others."""

    rows: Array
    shift: Array
    lo: Array
    hi: Array
    gradient: Array


class KernelProgram(Protocol):
    """N rows in K unknowns."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""

    def units(self) -> KernelUnits:
        """The bounds of the unknowns."""

    def approach(self, steps: int) -> Approach:
        """At most so many interior-point steps."""

    def warm_start(self) -> Mask:
        """The rows to begin with around w = 0."""

    def part(self, kept: Index) -> Part:
        """The program without the kinks of the rows that are not kept."""

    def missing(self, v: Array, kept: Mask) -> Mask:
        """The rows not kept whose kink v has crossed."""

    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        """w, (k,), and one signed multiplier for each row of the layer, (n,)."""


def _decided(k: int) -> float:
    return _DECIDED_NARROW if k <= _NARROW else _DECIDED


class Sum:
    r"""min sum_j hi_j max(0, r_j) + lo_j min(0, r_j), lower <= w <= upper, with lo_j <= 0 <= hi_j.

    Args:
        matrix: W, (n, k).
        sizes: squared norms of its rows.
        r0: (n,).
        lo, hi: (n,).
        lower, upper: (k,), around 0.
        cap: values of hi above this one are penalties that stand for a constraint.
    """

    def __init__(
        self, matrix: Array, sizes: Array, r0: Array, lo: Array, hi: Array, lower: Array, upper: Array,
        cap: float = np.inf,
    ) -> None:  # fmt: skip
        self._matrix, self._sizes, self._r0, self._lo, self._hi = matrix, sizes, r0, lo, hi
        self._lower, self._upper, self._cap = lower, upper, cap
        self._far = np.where(r0 > 0, hi, lo)

    @property
    def shape(self) -> tuple[int, int]:
        return self._matrix.shape[0], self._matrix.shape[1]

    def units(self) -> KernelUnits:
        # t = W^T y with columns of norm 1, so |t_i| <= |y|_2.
        largest = max(float(self._hi.max(initial=1.0)), -float(self._lo.min(initial=-1.0)))
        penalty = 1.01 * np.sqrt(len(self._r0)) * largest
        return KernelUnits.of(self._lower, self._upper, np.full(self.shape[1], penalty))

    def approach(self, steps: int) -> Approach:
        index = np.flatnonzero((self._lo < 0) | ((self._r0 > -_FAR) & (self._hi > 0)))
        matrix, sizes = self._matrix[index], self._sizes[index]
        lo, hi = self._lo[index], self._hi[index]
        cap = min(self._cap, float(hi.max(initial=0.0)))
        bounds, decided = (self._lower, self._upper), _decided(self._matrix.shape[1])
        r0 = self._r0[index]
        w, weight, barrier = violation_sum_steps(ROUTINES, matrix, r0, sizes, lo, hi, cap, *bounds, decided, steps)
        if not np.isfinite(w).all():
            return Approach(np.zeros(len(self._r0)), np.zeros(len(w)), self.warm_start())
        scores, r = np.zeros(len(self._r0)), self._r0.copy()
        scores[index] = weight * sizes
        r[index] += matrix @ w
        self._far = np.where(r > 0, self._hi, self._lo)
        return Approach(scores, barrier, self._around(r, -scores))

    def warm_start(self) -> Mask:
        return self._around(self._r0, np.abs(self._r0))

    def _around(self, r: Array, order: Array) -> Mask:
        """The two-sided rows with the smaller residuals, one half, and the first 3 k / 2 rows in the order of a key."""
        size, some = np.abs(r), min((3 * self.shape[1]) // 2, len(r) - 1)
        two = size[self._lo < 0]
        half = len(two) // 2
        kept = size <= np.partition(two, half)[half] if len(two) else np.zeros(len(r), dtype=bool)
        kept[np.argpartition(order, some)[:some]] = True
        return np.asarray(kept & (self._hi > self._lo))

    def part(self, kept: Index) -> Part:
        rest = self._far.copy()
        rest[kept] = 0.0
        return Part(self._matrix[kept], self._r0[kept], self._lo[kept], self._hi[kept], self._matrix.T @ rest)

    def missing(self, v: Array, kept: Mask) -> Mask:
        r = self._r0 + self._matrix @ v
        side = np.where(r > 0, self._hi, self._lo)
        return np.asarray(~kept & (side != self._far) & (np.abs(r) > _WRONG))

    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        multipliers = self._far.copy()
        multipliers[kept] = y
        return v, multipliers


class Largest:
    r"""min d over d >= 0 and lower <= w <= upper with r_j <= p_j d and -r_j <= q_j d.

    The unknowns are (w, d). Row j is the upper side of the layer's row j and row n + j the lower one. A side is held by
    a penalty: as sum p y+ + q y- = 1 at an optimum, no multiplier exceeds 1 / p or 1 / q.

    Args:
        matrix: W, (n, k).
        sizes: squared norms of its rows.
        r0: (n,).
        up, down: p and q, (n,), 0 where the side is missing.
        lower, upper: (k,), around 0.
    """

    def __init__(
        self, matrix: Array, sizes: Array, r0: Array, up: Array, down: Array, lower: Array, upper: Array
    ) -> None:
        self._matrix, self._sizes, self._r0, self._up, self._down = matrix, sizes, r0, up, down
        self._lower, self._upper = lower, upper
        self._slope = np.concatenate([up, down])

    @property
    def shape(self) -> tuple[int, int]:
        return 2 * self._matrix.shape[0], self._matrix.shape[1] + 1

    def units(self) -> KernelUnits:
        penalty = np.full(self.shape[1], 1.5 / float(self._slope.min(initial=1.0, where=self._slope > 0)))
        penalty[-1] = 1.5
        return KernelUnits.of(np.append(self._lower, 0.0), np.append(self._upper, np.inf), penalty)

    def approach(self, steps: int) -> Approach:
        index = np.flatnonzero((self._down > 0) | ((self._r0 > -_FAR * self._up) & (self._up > 0)))
        matrix, sizes = self._matrix[index], self._sizes[index]
        up, down = self._up[index], self._down[index]
        bounds, decided = (self._lower, self._upper), _decided(self._matrix.shape[1])
        r0 = self._r0[index]
        w, d, scores, barrier = largest_violation_steps(ROUTINES, matrix, r0, sizes, up, down, *bounds, decided, steps)
        n = len(self._r0)
        if not (np.isfinite(w).all() and 0 < d < np.inf):
            return Approach(np.zeros(2 * n), np.zeros(len(w) + 1), self.warm_start())
        sides, r = np.zeros(2 * n), self._r0.copy()
        sides[index], sides[n + index] = scores[: len(index)], scores[len(index) :]
        r[index] += matrix @ w
        return Approach(sides, np.append(barrier, 0.0), self._around(r, d))

    def warm_start(self) -> Mask:
        r = np.concatenate([self._r0, -self._r0])
        there = self._slope > 0
        return self._around(self._r0, float((r[there] / self._slope[there]).max(initial=0.0)))

    def _around(self, r: Array, d: float) -> Mask:
        """The sides that use up at least half of d."""
        return np.asarray((self._slope > 0) & (np.concatenate([r, -r]) > 0.5 * d * self._slope))

    def part(self, kept: Index) -> Part:
        n, k = self._matrix.shape
        middle = np.searchsorted(kept, n)
        above, below = kept[:middle], kept[middle:] - n
        rows = np.empty((len(kept), k + 1))
        rows[:middle, :k] = self._matrix[above]
        np.negative(self._matrix[below], out=rows[middle:, :k])
        slope = self._slope[kept]
        rows[:, k] = -slope
        shift = np.concatenate([self._r0[above], -self._r0[below]])
        # A basic side that is missing in these rows has no weight, so it leaves.
        hi = np.divide(1.5, slope, out=np.zeros(len(kept)), where=slope > 0)
        return Part(rows, shift, np.zeros(len(kept)), hi, np.append(np.zeros(k), 1.0))

    def missing(self, v: Array, kept: Mask) -> Mask:
        r = self._r0 + self._matrix @ v[:-1]
        over = np.concatenate([r, -r]) > (v[-1] + _WRONG) * self._slope
        return np.asarray(~kept & (self._slope > 0) & over)

    def answer(self, v: Array, y: Array, kept: Index) -> tuple[Array, Array]:
        n = len(self._r0)
        sides = np.zeros(2 * n)
        sides[kept] = y
        return v[:-1], sides[:n] - sides[n:]
