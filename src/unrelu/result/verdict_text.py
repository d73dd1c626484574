"""Verdicts in words: one observation in a few sentences, a batch as a table of statuses and its worst observations.

The results of :func:`unrelu.invert` and of runs are printed here, from the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import WORST, Html, Printed, printed_batch
from unrelu.errors import InputError, MissingPackageError
from unrelu.measurements.unknown_level import FittedLevel
from unrelu.parameters.names import Names
from unrelu.result.status import Status
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.words import count, duration, listed, number, probability, rounded, share
from unrelu.thresholds import CONFIDENT

if TYPE_CHECKING:
    from pandas import DataFrame

# The method that searches for the best code.
_SEARCHING = "auto"
# The beginning of a message about a residual that is too small for the stated noise.
TOO_LARGE = "the stated noise is too large, or in another unit"
IMAGES = ("observed", "reconstruction", "residual")
_MEANINGS = {status.name: status.value for status in Status}
Columns = Mapping[str, npt.NDArray[Any]]


def worst_first(columns: Columns) -> Index:
    """Order observations, worst first: without success, without a code, with small p-values, with large residuals."""
    p = np.nan_to_num(columns["p_value"], nan=2.0)
    residual = np.where(np.isfinite(columns["residual"]), columns["residual"], np.inf)
    return np.lexsort((-residual, p, np.isfinite(residual), columns["success"].astype(bool)))


def printed_verdicts(
    columns: Columns, title: str, norm: str, places: Index, most: int = WORST,
    images: Sequence[Sequence[Html]] = (), at_bounds: int = 0, explained: Array | None = None,
) -> Printed:  # fmt: skip
    """Format the verdicts on a batch: the statuses, and at most ``most`` of the worst observations, with any images.

    Args:
        columns: columns of the verdict, (B,) each, named like the attributes of :class:`~unrelu.Inversion`; ``status``
            has names, and ``residual`` is the norm of y - A G(z).
        title: the method and the stated noise.
        norm: the norm of the residual.
        places: the numbers of the observations, (B,).
        images: the images of each of the worst observations.
        at_bounds: how many codes are at a bound.
        explained: the share of |y|^2 that each code explains, (B,), to be printed.
    """
    c, size, good = columns, len(columns["status"]), int(np.sum(columns["success"]))
    if not size:
        return Printed(f"no observation, {title}")
    worst = worst_first(c)[:most]
    shown = {"index": [str(places[i]) for i in worst], "status": [str(c["status"][i]) for i in worst]}
    if np.isfinite(c["p_value"]).any():
        shown["p-value"] = [probability(c["p_value"][i]) for i in worst]
    shown[f"residual ({norm})"] = [number(float(c["residual"][i])) for i in worst]
    if explained is not None:
        shown["explains |y|^2"] = [share(float(explained[i])) for i in worst]
    shown["confidence"] = [probability(c["confidence"][i]) for i in worst]
    shown |= dict(zip(IMAGES, map(list, zip(*images, strict=True)), strict=bool(images)))
    excessive = sum(str(message).startswith(TOO_LARGE) for message in c.get("message", ()))
    title = f"{count(size, 'observation')}, {title}: {good} successful ({share(good, size)})"
    if excessive:
        title += f"; {TOO_LARGE}" + (f", of {count(excessive, 'observation')}" if size > 1 else "")
    seconds = float(np.nansum(c["seconds"]))
    ending = f"identifiable near their codes: {int(np.sum(c['identifiable']))} of {size}; "
    ending += f"at a bound: {at_bounds}; " if at_bounds else ""
    ending += f"time {duration(seconds)}, {duration(seconds / size)} each"
    return printed_batch(title, c["status"].tolist(), _MEANINGS, [*shown], [*zip(*shown.values(), strict=True)], ending)


def data_frame(columns: Columns, index: Index, names: Sequence[str] = (), values: Iterable[Any] = ()) -> DataFrame:
    """Make a pandas data frame of the verdict's columns and of named parameters, indexed by observation.

    Raises:
        InputError: a parameter has the name of a column of the verdict.
        MissingPackageError: pandas is not installed.
    """
    try:
        import pandas  # noqa: PLC0415 -- an optional package
    except ImportError as error:
        raise MissingPackageError("to_frame() needs pandas: pip install pandas") from error
    if twice := [name for name in names if name in columns]:
        raise InputError(
            f"the coordinate {twice[0]!r} has the name of a column of the verdict; rename it: network.named([...])"
        )
    of_all = {**columns, **dict(zip(names, values, strict=True))}
    return pandas.DataFrame(of_all, index=pandas.Index(index, name="observation"))


# --- one observation --------------------------------------------------------------------------------------------------


def confidence_text(value: float, method: str, reach: str, learned: bool = True) -> str:
    """Format the confidence; ``reach`` says which codes it is about, such as " (within the bounds)"."""
    searches = method == _SEARCHING
    if not math.isfinite(value):
        return f"unknown: {'it is of least squares' if searches else f'{method} does not look for a better code'}"
    more = "; the search stopped at its budget: raise rounds" if searches and value < CONFIDENT else ""
    more = more if learned else "; it was not learned on this generator: learn=True, or unrelu.calibrate"
    missed = f"that the search missed no better code{reach}{more}"
    return f"0: nothing says {missed}" if value == 0 else f"{probability(value)}: the probability {missed}"


def uniqueness(identifiable: bool, rank: int, freedom: int, k: int) -> str:
    """Say what is known about other codes near a code; ``rank`` is the rank of A J."""
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


def level_text(name: str, level: FittedLevel) -> str:
    """Format a fitted level of noise and its standard error."""
    value, error = float(level.value), float(level.error)
    return (
        f"{name} = {rounded(value, error)} ± {rounded(error, error)}"
        if math.isfinite(error)
        else f"{name} = {value:.4g}"
    )


def code_text(z: Array, names: Names) -> str:
    """Format a code, (k,): first an array of the coordinates without names, then the parameters by name."""
    own = names.coordinate_names or ("",) * len(z)
    named = [f"{name} = {value:.5g}" for name, value in zip(own, names.parameters_of(z), strict=True) if name]
    array = array_text(z[[not name for name in own]], 4)
    return listed([array, *named] if array else named)


def array_text(values: Any, digits: int = 3) -> str:
    """Format a vector of numbers or texts, or only the ends of a long one; an empty vector gives an empty text."""
    return np.array2string(
        values, precision=digits, threshold=8, edgeitems=4, separator=", ", max_line_width=10**6,
        formatter={"object": str},
    ) if values.size else ""  # fmt: skip
