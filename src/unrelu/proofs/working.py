"""The rows that matter: most outputs of a ReLU are far below what would cost anything, at every node of a tree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unrelu.proofs.relaxation import ERROR, Rows
from unrelu.proofs.simplex import VIOLATED

__all__ = ["WorkingRows"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


class WorkingRows:
    """A growing part of the rows, as contiguous arrays.

    At first those that are no errors, and errors with a lower side: of outputs that have to be on, and sums.

    Args:
        rows: all rows.
        norms: of all rows.
    """

    def __init__(self, rows: Rows, norms: Array) -> None:
        self._rows, self._norms = rows, norms
        self._inside = (rows.kind != ERROR) | ((rows.scale > 0) & np.isfinite(rows.lo))
        self._gather()

    def _gather(self) -> None:
        self.index: Index = np.flatnonzero(self._inside)
        self._local = np.full(len(self._inside), -1)
        self._local[self.index] = np.arange(len(self.index))
        self.matrix = np.ascontiguousarray(self._rows.matrix[self.index])
        self.norms, self.q = self._norms[self.index], self._rows.q[self.index]

    def include(self, numbers: Index) -> None:
        """Let rows take part from now on."""
        new = numbers[~self._inside[numbers]]
        if len(new):
            self._inside[new] = True
            self._gather()

    def local(self, numbers: Index) -> Index:
        """Numbers among the working rows, of rows among them and of the artificial rows behind all."""
        m = len(self._inside)
        ours = self._local[np.minimum(numbers, m - 1)]
        return np.where(numbers < m, ours, numbers - m + len(self.index))

    def everywhere(self, local: Index) -> Index:
        """The reverse."""
        m = len(self.index)
        ours = self.index[np.minimum(local, m - 1)]
        return np.where(local < m, ours, local - m + len(self._inside))

    def missing(self, x: Array, lo: Array, hi: Array) -> Index:
        """Rows left out that a point violates."""
        r = self._rows.matrix @ x
        gap = np.maximum(lo - r, r - hi)
        return np.flatnonzero((gap > 2 * VIOLATED * self._norms) & ~self._inside)
