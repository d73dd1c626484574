"""Verdicts in words: one observation in a few sentences, a batch as a table of statuses and its worst observations.

Results of :func:`unrelu.invert` and of runs are printed here, from the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import WORST, Html, Printed, printed_batch
from unrelu.errors import InputError, MissingPackageError
from unrelu.result.status import Status
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import count, duration, listed, number, probability, share
from unrelu.thresholds import CONFIDENT

if TYPE_CHECKING:
    from pandas import DataFrame

# The method that looks for the best code.
_SEARCHING = "auto"
# The most bounds that are named, and the most parts of an output.
_NAMED, _NAMED_PARTS = 5, 8
# The beginning of a message about a residual that is too small for the stated noise.
TOO_LARGE = "the stated noise is too large, or in another unit"
IMAGES = ("observed", "reconstruction", "residual")
_MEANINGS = {status.name: status.value for status in Status}


@dataclass(frozen=True, eq=False)
class VerdictTable:
    """The verdicts on a batch.

    Attributes:
        columns: columns of the verdict, (B,) each, named like the attributes of :class:`~unrelu.Inversion`; ``status``
            has names, and ``residual`` is the norm of y - A G(z).
        method: the method that found the codes.
        noise: the stated noise, or "".
        norm: the norm of the residual.
        at_bounds: how many codes are at a bound.
        places: the numbers of the observations, (B,); by default 0, 1, ...
    """

    columns: Mapping[str, npt.NDArray[Any]]
    method: str
    noise: str
    norm: str
    at_bounds: int = 0
    places: Index | None = None

    def __len__(self) -> int:
        return len(self.columns["status"])

    def worst_first(self) -> Index:
        """Observations, worst first: those without success, without a code, with small p-values, large residuals."""
        c = self.columns
        p = np.nan_to_num(c["p_value"], nan=2.0)
        residual = np.where(np.isfinite(c["residual"]), c["residual"], np.inf)
        return np.lexsort((-residual, p, np.isfinite(residual), c["success"].astype(bool)))

    def printed(self, most: int = WORST, images: Sequence[Sequence[Html]] = ()) -> Printed:
        """The statuses and the worst observations, at most so many, each with its images if there are some."""
        if not len(self):
            return Printed(f"no observation, method {self.method}")
        c, good = self.columns, int(np.sum(self.columns["success"]))
        judged = bool(np.isfinite(c["p_value"]).any())
        rows = []
        for i in self.worst_first()[:most]:
            p = [probability(c["p_value"][i])] if judged else []
            place, residual = i if self.places is None else self.places[i], number(float(c["residual"][i]))
            rows.append([str(place), str(c["status"][i]), *p, residual, probability(c["confidence"][i])])
        headings = ["index", "status", *(["p-value"] if judged else []), f"residual ({self.norm})", "confidence"]
        if images:
            headings, rows = [*headings, *IMAGES], [[*row, *own] for row, own in zip(rows, images, strict=True)]
        noise = f", noise {self.noise}" if self.noise else ""
        title = f"{count(len(self), 'observation')}, method {self.method}{noise}: {good} successful"
        title += f" ({share(good, len(self))}){self._excess()}"
        seconds = float(np.nansum(c["seconds"]))
        ending = [f"identifiable near their codes: {int(np.sum(c['identifiable']))} of {len(self)}"]
        if self.at_bounds:
            ending.append(f"at a bound: {self.at_bounds}")
        ending.append(f"time {duration(seconds)}, {duration(seconds / len(self))} each")
        return printed_batch(title, c["status"].tolist(), _MEANINGS, headings, rows, "; ".join(ending))

    def _excess(self) -> str:
        """The end of a title if the stated noise is too large for residuals, else empty."""
        at = sum(str(message).startswith(TOO_LARGE) for message in self.columns.get("message", ()))
        if not at:
            return ""
        return f"; {TOO_LARGE}, of {count(at, 'observation')}" if len(self) > 1 else f"; {TOO_LARGE}"


def data_frame(columns: Mapping[str, Any], index: Index) -> DataFrame:
    """Return the columns as a pandas data frame, indexed by observation.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    try:
        import pandas  # noqa: PLC0415 -- an optional package
    except ImportError as error:
        raise MissingPackageError("to_frame() needs pandas: pip install pandas") from error
    return pandas.DataFrame(dict(columns), index=pandas.Index(index, name="observation"))


def with_parameters(columns: Mapping[str, Any], names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
    """Columns of a verdict and columns of parameters.

    Raises:
        InputError: a parameter has the name of a column of the verdict.
    """
    if twice := [name for name in names if name in columns]:
        raise InputError(
            f"the coordinate {twice[0]!r} has the name of a column of the verdict; rename it: network.named([...])"
        )
    return {**columns, **dict(zip(names, values, strict=True))}


# --- one observation --------------------------------------------------------------------------------------------------


def confidence_text(value: float, method: str, reach: str) -> str:
    """The confidence in words; ``reach`` says which codes it is about, " within the bounds"."""
    searches = method == _SEARCHING
    if not math.isfinite(value):
        return f"unknown: {'it is of least squares' if searches else f'{method} does not look for a better code'}"
    more = "; the search stopped at its budget: raise rounds" if searches and value < CONFIDENT else ""
    lower = f"that no code{reach} has an objective more than 1% lower{more}"
    return f"0: nothing says {lower}" if value == 0 else f"{probability(value)} {lower}"


def uniqueness(identifiable: bool, rank: int, freedom: int, k: int) -> str:
    """Say in words what is known about other codes near a code; ``rank`` is that of A J."""
    if rank < 0:
        return "unknown"
    of = f"(rank {rank} of {k})"
    if identifiable:
        return f"no other code near it gives the same observation {of}"
    if freedom > 0:
        return f"a set of codes around it, of {count(freedom, 'dimension')}, gives the same observation {of}"
    if freedom < 0:
        return f"other codes near it may give the same observation {of}"
    return f"the observation does not tell the code to a small part of its length {of}"


def chi_square_text(value: float, freedom: float, p: float) -> str:
    """Chi-square, its degrees of freedom and its own p-value in words; empty if there is none."""
    if not math.isfinite(value):
        return ""
    left = f"for {freedom:.4g} degrees of freedom" if freedom >= 0.5 else "and no degree of freedom left"
    return f"chi-square {number(value)} {left}, p = {probability(p)}; "


def code_text(z: Array, names: Sequence[str], parameters: Mapping[str, float]) -> str:
    """A code, (k,): an array of the coordinates without a name of their own, then the parameters by name."""
    array = array_text(z[[name not in parameters for name in names]], 4)
    named = [f"{name} = {value:.5g}" for name, value in parameters.items()]
    return listed([*([array] if array else []), *named])


def array_text(values: Array, digits: int) -> str:
    """A vector, of a long one the ends; empty for none."""
    return np.array2string(
        values, precision=digits, threshold=8, edgeitems=4, separator=", ", max_line_width=10**6
    ) if values.size else ""  # fmt: skip


def bounds_text(active: npt.NDArray[np.int8], names: Sequence[str]) -> str:
    """The bounds that a code is at, (k,), by name."""
    places = np.flatnonzero(active)
    named = [f"{names[j]} at its {'lower' if active[j] < 0 else 'upper'} bound" for j in places[:_NAMED]]
    more = len(places) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def parts_text(misfits: Mapping[str, float], unit: str) -> str:
    """The root mean squares of the residual in the named parts of the output."""
    shown = [f"{name} {number(value)}" for name, value in list(misfits.items())[:_NAMED_PARTS]]
    more = len(misfits) - len(shown)
    return f"{', '.join(shown)}{f' and {more} more' if more else ''} ({unit}, root mean square)" if shown else ""
