"""The worst, median and best observations of a run: observed, reconstructed, and their difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.report.facts import Finished
from unrelu.report.observed import Observations, Observed
from unrelu.report.pictures import Curve, Shape, as_data_uri, curve, differences, picture_shape, values
from unrelu.report.words import number
from unrelu.runs import Run

Array = npt.NDArray[np.float64]

# Observations shown of each kind.
_WORST, _MEDIAN, _BEST = 6, 3, 3


@dataclass(frozen=True)
class Panel:
    """A picture, or a plot of curves.

    Attributes:
        label: what it shows.
        alt: the same in words, for who does not see it.
        src: the picture as a URI, or "" for a plot.
        width, height: of the picture, in pixels.
        curves: of the plot, each with its CSS class.
        low, high: the values at the plot's lower and upper edge.
    """

    label: str
    alt: str
    src: str = ""
    width: int = 0
    height: int = 0
    curves: tuple[tuple[str, Curve], ...] = ()
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Card:
    """One observation: its index, what it is called, how it ended, whether that is good, its residual, its panels."""

    index: int
    name: str
    status: str
    success: bool
    score: float
    problem: str
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Group:
    """Some observations; ``scale`` is the difference at the ends of their shared scale, NaN if none is shown."""

    title: str
    cards: tuple[Card, ...]
    scale: float


@dataclass(frozen=True)
class Gallery:
    """What is shown.

    Attributes:
        column: that observations are ordered by.
        groups: of observations.
        low, high: the values that are black and white.
        pictures, hidden: whether there are pictures, and whether in any entries are hidden.
        measured: whether observations are measurements of the output, not its entries.
    """

    column: str
    groups: tuple[Group, ...]
    low: float
    high: float
    pictures: bool
    hidden: bool
    measured: bool

    @property
    def compared(self) -> bool:
        """Whether any differences are shown."""
        return any(math.isfinite(group.scale) for group in self.groups)


@dataclass(frozen=True, eq=False)
class _Row:
    """An observation with its arrays: x (n,), predicted = A x (m,)."""

    card: Card
    x: Array
    observed: Observed
    predicted: Array | None

    @property
    def y(self) -> Array | None:
        """(m,), NaN where it is hidden."""
        if self.observed.values is None or self.observed.seen is None:
            return None
        return np.where(self.observed.seen, self.observed.values, np.nan)

    @property
    def difference(self) -> Array | None:
        """Observed minus A G(z)."""
        return None if self.y is None or self.predicted is None else self.y - self.predicted


@dataclass(frozen=True)
class _Look:
    """How arrays are drawn: shapes of pictures, or None for curves, and the ranges of their values."""

    output: Shape | None
    observation: Shape | None
    outputs: tuple[float, float]
    observations: tuple[float, float]


def criterion(run: Run) -> str:
    """The column that orders observations: the residual in the norm that was asked for, by default l2."""
    return f"residual_{run.manifest['norm'] or 'l2'}"


def gallery(finished: Finished, observations: Observations) -> Gallery | None:
    """Draw observations; None if no finished one has a finite residual."""
    run, column = finished.run, criterion(finished.run)
    groups = [
        (title, [_row(run, i, column, observations) for i in finished.index(places)])
        for title, places in _chosen(finished.column(column))
    ]
    rows = [row for _, members in groups for row in members]
    if not rows:
        return None
    look = _look(run, rows)
    drawn = tuple(_group(title, members, look) for title, members in groups)
    return Gallery(
        column,
        drawn,
        *look.outputs,
        any(panel.src for group in drawn for card in group.cards for panel in card.panels),
        any(row.observed.seen is not None and not row.observed.seen.all() for row in rows),
        look.observation is None and look.output is not None,
    )


def _chosen(scores: npt.NDArray[Any]) -> list[tuple[str, npt.NDArray[np.intp]]]:
    """Places of the worst, median and best finite scores, (n,); of few, all of them from the worst on."""
    known = np.flatnonzero(np.isfinite(scores))
    order = known[np.argsort(scores[known], kind="stable")]
    if not len(order):
        return []
    if len(order) <= _WORST + _MEDIAN + _BEST:
        return [("All, worst first", order[::-1])]
    middle = len(order) // 2 - _MEDIAN // 2
    return [("Worst", order[: -_WORST - 1 : -1]), ("Median", order[middle : middle + _MEDIAN]), ("Best", order[:_BEST])]


def _row(run: Run, i: int, column: str, observations: Observations) -> _Row:
    observed = observations.row(i)
    x = run.read("reconstructions", i, i + 1)[0].ravel()
    status, score = str(run.read("status", i, i + 1)[0]), float(run.read(column, i, i + 1)[0])
    success = bool(run.read("success", i, i + 1)[0])
    card = Card(i, observed.name, status, success, score, observed.problem)
    return _Row(card, x, observed, observations.measured(x))


def _look(run: Run, rows: Sequence[_Row]) -> _Look:
    """Shapes from those of outputs and data; ranges from what was observed, which no diverged code stretches."""
    output_shape, data_shape = run.manifest["model"]["output_shape"], run.manifest["data"]["shape"]
    alike = np.prod(output_shape) == np.prod(data_shape)
    explicit = picture_shape(data_shape) if sum(n > 1 for n in data_shape) > 1 else None
    output = picture_shape(output_shape) or (explicit if alike else None)
    observation = explicit or (output if alike else None)
    seen = [row.y for row in rows if row.y is not None]
    observed = _range(seen, 0, 100)
    outputs = observed if alike and seen else _range([row.x for row in rows], 1, 99)
    return _Look(output, observation, outputs, observed)


def _range(arrays: Sequence[Array], least: float, most: float) -> tuple[float, float]:
    """Two percentiles of all finite values, apart from each other."""
    together = np.concatenate(arrays) if arrays else np.zeros(0)
    together = together[np.isfinite(together)]
    if not together.size:
        return 0.0, 1.0
    low, high = (float(end) for end in np.percentile(together, (least, most)))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def _group(title: str, rows: Sequence[_Row], look: _Look) -> Group:
    """Cards with one scale of differences: the largest one, up to the whole range of the observations."""
    found = [np.nanmax(np.abs(d)) for row in rows if (d := row.difference) is not None and not np.isnan(d).all()]
    low, high = look.observations
    scale = min(float(max(found)), high - low) if found else float("nan")
    return Group(title, tuple(replace(row.card, panels=_panels(row, look, scale)) for row in rows), scale)


def _panels(row: _Row, look: _Look, scale: float) -> tuple[Panel, ...]:
    y, d, who = row.y, row.difference, f"observation {row.card.index}"
    panels = []
    if look.observation is None and y is not None:
        panels.append(_fit(y, row.predicted, who, look.observations))
    elif look.observation is not None and y is not None:
        panels.append(_picture("observed", who, values(y, look.observation, *look.observations)))
    if look.output is not None:
        panels.append(_picture("reconstruction", who, values(row.x, look.output, *look.outputs)))
    elif look.observation is not None or y is None or row.predicted is None or len(y) != len(row.x):
        panels.append(_plot("reconstruction", who, [("fit", row.x)], look.outputs))
    if d is not None and np.isfinite(scale):
        ends = (-(scale or 1.0), scale or 1.0)
        if look.observation is None:
            panels.append(_plot("difference", who, [("difference", d)], ends))
        else:
            panels.append(_picture("difference", who, differences(d, look.observation, ends[1])))
    return tuple(panels)


def _fit(y: Array, predicted: Array | None, who: str, ends: tuple[float, float]) -> Panel:
    """The observation as a curve, and that of the code over it."""
    if predicted is None:
        return _plot("observed", who, [("observed", y)], ends)
    return _plot("observed and fitted", who, [("observed", y), ("fit", predicted)], ends)


def _picture(label: str, who: str, pixels: npt.NDArray[np.uint8]) -> Panel:
    height, width = pixels.shape[:2]
    return Panel(label, f"{who}, {label}", as_data_uri(pixels), width, height)


def _plot(label: str, who: str, arrays: Sequence[tuple[str, Array]], ends: tuple[float, float]) -> Panel:
    low, high = ends
    curves = tuple((name, curve(array, None, low, high)) for name, array in arrays)
    alt = f"{who}, {label}: a curve of {len(arrays[0][1])} entries between {number(low)} and {number(high)}"
    return Panel(label, alt, curves=curves, low=number(low), high=number(high))
