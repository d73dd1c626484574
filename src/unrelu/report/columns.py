"""Columns of a run over the observations that are finished, one column in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.batch import Run

__all__ = ["Finished", "Spread", "spread_of"]

# Least, middle and most of a column.
_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True, eq=False)
class Finished:
    """The rows of the finished chunks.

    Rows of others may be zeros, empty, or of a chunk that was not recorded; none of them count.

    Attributes:
        run: the folder.
    """

    run: Run

    @cached_property
    def indices(self) -> npt.NDArray[np.int64] | None:
        """Of the observations, (n,), in order; None for all of them."""
        if self.run.finished:
            return None
        spans = [np.arange(r.start, r.stop) for _, r in sorted(self.run.records.items())]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers, (n,); ``status`` as the numbers that the table holds.

        Raises:
            InputError: it cannot be read.
        """
        if not self.run.records:
            return np.zeros(0, dtype=self.run.table.column(name).dtype)
        values = self.run.table.read(name)
        return values if self.indices is None else values[self.indices]

    def known(self, name: str) -> npt.NDArray[Any]:
        """The values of a column that are known: neither NaN, nor what whole numbers have in its place."""
        values = self.column(name)
        return values[np.isfinite(values) if values.dtype.kind == "f" else values >= 0]

    def index(self, places: npt.NDArray[np.intp]) -> list[int]:
        """The observations at places of a column."""
        return [int(i) for i in (places if self.indices is None else self.indices[places])]


@dataclass(frozen=True)
class Spread:
    """Where the values of a column lie.

    Attributes:
        name: of the column.
        what: it is, with its unit.
        least, low, median, high, most: its quantiles 0, 5%, 50%, 95% and 100%; NaN without values.
        known: how many values are finite.
    """

    name: str
    what: str
    least: float
    low: float
    median: float
    high: float
    most: float
    known: int


def spread_of(name: str, what: str, values: npt.NDArray[Any]) -> Spread:
    """The spread of the finite values of a column, (n,)."""
    known = values[np.isfinite(values)]
    # An infinite or huge value has no finite mean with its neighbour, so none is taken.
    found = np.quantile(known, _QUANTILES, method="closest_observation") if known.size else np.full(5, np.nan)
    least, low, median, high, most = (float(value) for value in found)
    return Spread(name, what, least, low, median, high, most, len(known))
