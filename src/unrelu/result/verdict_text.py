"""Print verdicts: one observation in a few sentences, a batch as a table of statuses and its worst observations.

Results of :func:`unrelu.invert` and of runs are printed here, from the same columns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unrelu.display.text_tables import html_table, named_lines, shortened, text_table
from unrelu.errors import InputError, MissingPackageError
from unrelu.result._residual_tests import TESTS
from unrelu.result.status import p_values
from unrelu.runtime.array_types import Index
from unrelu.runtime.words import count, duration, listed, number, probability, share
from unrelu.thresholds import CONFIDENT, RADIUS

if TYPE_CHECKING:
    from pandas import DataFrame

# Rows of the tables of a batch: a printed result has at most 15 lines.
_STATUSES, _WORST = 4, 5
_MEANING = 64
# The method that looks for the best code.
_SEARCHING = "auto"
# The most bounds that are named, and the most parts of an output.
_NAMED, _NAMED_PARTS = 5, 8
# The beginning of a message about a residual that is too small for the stated noise.
TOO_LARGE = "the stated noise is too large, or in another unit"
_LEFT = ("status", "meaning")
_IMAGES = ("observed", "reconstruction", "residual")


@dataclass(frozen=True, eq=False)
class VerdictSummary:
    """Everything that a printed verdict of a batch contains.

    Attributes:
        columns: columns of the verdict, (B,) each, named like the attributes of :class:`~unrelu.Inversion`; ``status``
            has names, and ``residual`` is the norm of y - A G(z).
        meanings: the meaning of each status.
        method: the method that found the codes.
        noise: the stated noise, or "".
        norm: the norm of the residual.
        k: number of latent coordinates.
        radius: see :class:`~unrelu.search.auto.Search`.
        active: the bounds that codes are at, (B, k), as in ``scipy.optimize``.
        places: the numbers of the observations, (B,); by default 0, 1, ...
        chi_square: for a single observation, chi-square and its degrees of freedom; NaN if noise is not Gaussian.
        code, largest: for a single observation, its code, (k,), and the largest entry of its residual.
        names: the names of the coordinates, (k,), and in place of those that have none, their places.
        parameters: for a single observation, what is reported by name, in the place of these coordinates of its code.
        misfits: for a single observation, the root mean square of its residual by named part, in units of the noise.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    meanings: Mapping[str, str]
    method: str
    noise: str
    norm: str
    k: int
    radius: float = RADIUS
    active: npt.NDArray[np.int8] | None = None
    places: Index | None = None
    code: Any = None
    largest: float = math.nan
    chi_square: tuple[float, float] = (math.nan, math.nan)
    names: Sequence[str] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    misfits: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["status"])

    @property
    def judged(self) -> bool:
        """Whether there are p-values, because noise was stated."""
        return bool(np.isfinite(self.columns["p_value"]).any())

    def worst_first(self) -> Index:
        """Observations, worst first: those without success, without a code, with small p-values, large residuals."""
        c = self.columns
        p = np.nan_to_num(c["p_value"], nan=2.0)
        residual = np.where(np.isfinite(c["residual"]), c["residual"], np.inf)
        return np.lexsort((-residual, p, np.isfinite(residual), c["success"].astype(bool)))

    def statuses(self) -> list[list[str]]:
        """Rows of status, count, share and meaning, the most frequent first."""
        counts = Counter(self.columns["status"].tolist()).most_common()
        shown = counts if len(counts) <= _STATUSES else counts[: _STATUSES - 1]
        rows = [
            [name, count(n), share(n, len(self)), shortened(self.meanings.get(name, ""), _MEANING)] for name, n in shown
        ]
        others = counts[len(shown) :]
        if others:
            n = sum(n for _, n in others)
            rows.append([f"{len(others)} others", count(n), share(n, len(self)), ""])
        return rows

    def row(self, i: int) -> list[str]:
        """Index, status, p-value (if there are any), residual and confidence of an observation."""
        c = self.columns
        p = [probability(c["p_value"][i])] if self.judged else []
        place = i if self.places is None else self.places[i]
        return [str(place), str(c["status"][i]), *p, number(float(c["residual"][i])), probability(c["confidence"][i])]

    def headings(self) -> list[str]:
        """The headings of :meth:`row`."""
        return ["index", "status", *(["p-value"] if self.judged else []), f"residual ({self.norm})", "confidence"]

    def title(self) -> str:
        """The number of observations, the method, and the number of successes."""
        good = int(np.sum(self.columns["success"]))
        noise = f", noise {self.noise}" if self.noise else ""
        return f"{count(len(self), 'observation')}, method {self.method}{noise}: {good} successful" + (
            f" ({share(good, len(self))}){self.excess()}" if len(self) else ""
        )

    def excess(self) -> str:
        """The end of a title if the stated noise is too large for residuals, else empty."""
        at = sum(str(message).startswith(TOO_LARGE) for message in self.columns.get("message", ()))
        if not at:
            return ""
        return f"; {TOO_LARGE}" + (f", of {count(at, 'observation')}" if len(self) > 1 else "")

    def ending(self) -> str:
        """Identifiable codes, active bounds and time, in a line."""
        c, parts = self.columns, []
        known = int(np.sum(c["identifiable"]))
        parts.append(f"identifiable near their codes: {known} of {len(self)}")
        if self.active is not None and (at := int(np.any(self.active != 0, axis=1).sum())):
            parts.append(f"at a bound: {at}")
        seconds = float(np.nansum(c["seconds"]))
        parts.append(f"time {duration(seconds)}, {duration(seconds / max(1, len(self)))} each")
        return "; ".join(parts)


def batch_lines(summary: VerdictSummary) -> list[str]:
    """A batch in at most 15 lines."""
    if not len(summary):
        return [f"no observation, method {summary.method}"]
    worst = [summary.row(int(i)) for i in summary.worst_first()[:_WORST]]
    which = "all, worst first" if len(summary) <= _WORST else f"the worst {_WORST}"
    headings = summary.headings()
    return [
        summary.title(),
        *text_table(["status", "count", "share", "meaning"], summary.statuses(), _LEFT),
        f"  {which}:",
        *text_table(headings, worst, _LEFT),
        f"  {summary.ending()}",
    ]


def batch_html(summary: VerdictSummary, shown: Index, images: Sequence[Sequence[str]]) -> str:
    """A batch as HTML: the table of statuses, and a table of the observations in ``shown`` with their images."""
    statuses = html_table(["status", "count", "share", "meaning"], summary.statuses(), _LEFT)
    which = "" if len(shown) == len(summary) else f"<p>the worst {len(shown)}:</p>"
    rows = [summary.row(i) + list(cells) for i, cells in zip(shown, images, strict=True)]
    headings = [*summary.headings(), *(_IMAGES if any(images) else ())]
    observations = html_table(headings, rows, _LEFT) if rows else ""
    return (
        f"<div><p>{escape(summary.title())}</p>{statuses}{which}{observations}<p>{escape(summary.ending())}</p></div>"
    )


def observation_html(summary: VerdictSummary, images: Sequence[str]) -> str:
    """One observation as HTML: the content of :func:`observation_lines`, and its images."""
    verdict = "successful" if summary.columns["success"][0] else "no success"
    entries = [[name, text] for name, text in _entries(summary) if text]
    words = html_table(["verdict", verdict], entries, ("verdict", verdict))
    return f"<div><p>{escape(summary.title())}</p>{words}{html_table(_IMAGES, [images], _IMAGES)}</div>"


def observation_lines(summary: VerdictSummary) -> list[str]:
    """One observation in at most 15 lines."""
    verdict = "successful" if summary.columns["success"][0] else "no success"
    return [f"One observation, method {summary.method}: {verdict}{summary.excess()}", *named_lines(_entries(summary))]


def _entries(summary: VerdictSummary) -> list[tuple[str, str]]:
    """The lines about one observation, as names and texts."""
    c, known = {name: values[0] for name, values in summary.columns.items()}, np.isfinite(summary.code).all()
    shown = _code(summary)
    fit = p_values(c["p_value"], *(c[name] for name in TESTS), under=f" under {summary.noise}")
    fit = fit if summary.noise else "no noise was stated, so there is no p-value"
    left = f"residual {number(float(c['residual']))} ({summary.norm}), largest entry {number(summary.largest)}; "
    left += _chi_square(*summary.chi_square, float(c["p_size"])) + fit
    return [
        (str(c["status"]), str(c["message"])),
        ("code", shown if known else ""),
        ("fit", left if known else "no code, so no fit"),
        ("by part", _by_part(summary)),
        ("confidence", _confidence(float(c["confidence"]), summary)),
        ("uniqueness", uniqueness(bool(c["identifiable"]), int(c["rank"]), int(c["freedom"]), summary.k)),
        ("active bounds", "" if summary.active is None else _active(summary.active[0], summary.names)),
        ("effort", f"{count(int(c['nit']), 'iteration')}, {duration(float(c['seconds']))}"),
    ]


def _by_part(summary: VerdictSummary) -> str:
    shown = [f"{name} {number(value)}" for name, value in list(summary.misfits.items())[:_NAMED_PARTS]]
    more = len(summary.misfits) - len(shown)
    unit = "residual / noise" if summary.noise else "residual"
    return f"{', '.join(shown)}{f' and {more} more' if more else ''} ({unit}, root mean square)" if shown else ""


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


def _confidence(value: float, summary: VerdictSummary) -> str:
    searches = summary.method == _SEARCHING
    if not math.isfinite(value):
        return (
            f"unknown: {'it is of least squares' if searches else f'{summary.method} does not look for a better code'}"
        )
    more = "; the search stopped at its budget: raise rounds" if searches and value < CONFIDENT else ""
    among = "" if summary.active is None else " within the bounds"
    if searches and summary.active is None and value < 1:
        among = f" up to {summary.radius:g} sqrt(k) long, or as long as this one,"
    lower = f"that no code{among} has an objective more than 1% lower{more}"
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


def _chi_square(value: float, freedom: float, p: float) -> str:
    """Chi-square, its degrees of freedom and its own p-value in words; empty if there is none."""
    if not math.isfinite(value):
        return ""
    left = f"for {freedom:.4g} degrees of freedom" if freedom >= 0.5 else "and no degree of freedom left"
    return f"chi-square {number(value)} {left}, p = {probability(p)}; "


def _code(summary: VerdictSummary) -> str:
    """A code: an array of the coordinates without names, then the others by name."""
    unnamed = summary.code[[name not in summary.parameters for name in summary.names]]
    array = np.array2string(unnamed, precision=4, threshold=8, edgeitems=4, separator=", ", max_line_width=10**6)
    named = [f"{name} = {value:.5g}" for name, value in summary.parameters.items()]
    return listed([*([array] if unnamed.size else []), *named])


def _active(active: npt.NDArray[np.int8], names: Sequence[str]) -> str:
    places = np.flatnonzero(active)
    named = [f"{names[j]} at its {'lower' if active[j] < 0 else 'upper'} bound" for j in places[:_NAMED]]
    more = len(places) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
