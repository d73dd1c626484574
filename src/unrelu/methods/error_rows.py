r"""Convex functions above the errors |y - psi(v)|, psi(v) = max(v, c v) with 0 <= c <= 1, as rows of a layer program.

The error is convex in v for y <= 0. For y > 0 it bends down at v = 0, and a row takes one of two functions above it,

.. math:: |y - v| \;\text{ (exact for } v \ge 0), \qquad \max(y - c v, v - y) \;\text{ (exact for } v \le 0).

For the sum of errors the sign of v decides. For the largest error nothing is lost: where it is to stay below a level,
a row with y >= level has to be on, and one with y < level may be off, whatever the sign of v is now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.layer import Rows

__all__ = ["ErrorRows", "rows_below", "rows_of_sum"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class ErrorRows:
    """Errors that are zero at a kink of v and have a slope on each side of it.

    Attributes:
        entry: which v each row is about, (n,).
        kink: where its error is zero, (n,).
        up, down: the slopes of the error above and below the kink, (n,); 0 where it stays zero.
    """

    entry: Index
    kink: Array
    up: Array
    down: Array

    def around(self, v: Array) -> Rows:
        """The rows of v' - v for the programs of a layer."""
        center, up, down = self.kink - v[self.entry], self.up > 0, self.down > 0
        one = np.ones(len(center))
        return Rows(
            low=np.where(down, center, -np.inf),
            high=np.where(up, center, np.inf),
            low_slope=np.divide(1.0, self.down, out=one.copy(), where=down),
            high_slope=np.divide(1.0, self.up, out=one, where=up),
            target=np.where(up & down, center, 0.0),
            threshold=1.0,
        )


def rows_below(y: Array, slopes: Array, level: float) -> ErrorRows:
    """For the largest error, where it is to be at most a level.

    A ReLU with y < level that is off has an error of y, which these rows leave out: they are below the errors there,
    and above them elsewhere. Which rows there are does not depend on the level, only their slopes do.

    Args:
        y: (p,).
        slopes: c, (p,), in [0, 1].
        level: above 0.
    """
    entry, n = np.arange(len(y)), len(y)
    on = (y >= level) | (slopes == 1)
    bent = (slopes > 0) & (slopes < 1)
    c = slopes[bent]
    # psi(v) <= y + d: v <= y + d and c v <= y + d.
    # psi(v) >= y - d: v >= y - d where y - d > 0, otherwise c v >= y - d.
    straight = ErrorRows(entry, y, np.ones(n), on.astype(np.float64))
    return _joined([straight, ErrorRows(entry[bent], y[bent] / c, c, np.where(on[bent], 0.0, c))])


def rows_of_sum(y: Array, slopes: Array, on: npt.NDArray[np.bool_]) -> ErrorRows:
    """For the sum of errors, less those that do not change: y of a ReLU that is off.

    Args:
        y: (p,).
        slopes: c, (p,), in [0, 1].
        on: which rows with y > 0 take |y - v|, (p,).
    """
    entry, c = np.arange(len(y)), slopes
    plain = (c == 1) | ((y > 0) & on)
    # y <= 0: |y - psi(v)| = |c v - y| - [c = 0] |y| + (1 - c) max(0, v).
    # y > 0, off: max(y - c v, v - y) <= |c v - y| + (1 + c) max(0, v - 2 y / (1 + c)), equal for v <= y / c.
    slope = np.where(plain, 1.0, c)
    two, bends = slope > 0, ~plain
    off = bends & (y > 0)
    kink = np.where(off, 2 * y / (1 + c), 0.0)[bends]
    first = ErrorRows(entry[two], y[two] / slope[two], slope[two], slope[two])
    return _joined([first, ErrorRows(entry[bends], kink, np.where(off, 1 + c, 1 - c)[bends], np.zeros(len(kink)))])


def _joined(parts: Sequence[ErrorRows]) -> ErrorRows:
    return ErrorRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("entry", "kink", "up", "down")))
