"""Draw posteriors: observation, mean, standard deviation and draws of the output; and the coordinates in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unrelu.display.corner_figure import CornerPanels
from unrelu.display.observation_figure import (
    FITTED,
    OBSERVED,
    OTHER,
    ObservationFigure,
    ObservationPanels,
    PanelColumn,
    PanelCurves,
    draw_columns,
    scaled,
)
from unrelu.display.pixels import value_range
from unrelu.problem import Problem
from unrelu.result.result_pictures import panels
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.runtime.words import share

# Draws that are shown, and the probability of the band of curves.
DRAWN, BAND = 4, 0.9
# The most modes with a colour of their own.
_COLOURED = 5


def posterior_figure(
    problem: Problem,
    outputs: Sequence[Array],
    rows: Index,
    labels: Sequence[str],
    title: str,
    shape: Sequence[int] | None,
) -> ObservationFigure:
    """Draw the posteriors of some observations, a row each.

    Args:
        problem: the problem of the batch.
        outputs: G(z) of draws of each of these observations, (N, *output_shape); none for one without draws.
        rows: the indices of the observations.
        labels: the text beside each.
        title: the title.
        shape: the shape in which outputs are drawn, see :meth:`unrelu.Inversion.plot`.

    Raises:
        OptionError: outputs cannot have that shape.
    """
    full = (problem.size, *problem.network.output_shape)
    mean = np.full(full, np.nan)
    for i, drawn in zip(rows, outputs, strict=True):
        if len(drawn):
            mean[i] = drawn.mean(axis=0)
    chosen = panels(problem, mean, rows, labels, shape)
    n = problem.network.output_dim
    deviation, low, high = (np.full((len(rows), n), np.nan) for _ in range(3))
    single = np.full((DRAWN, len(rows), n), np.nan)
    for row, drawn in enumerate(outputs):
        if len(drawn):
            flat = drawn.reshape(len(drawn), n)
            deviation[row] = flat.std(axis=0)
            low[row], high[row] = np.quantile(flat, ((1 - BAND) / 2, (1 + BAND) / 2), axis=0)
            single[:, row] = flat[((np.arange(DRAWN) + 0.5) * len(flat) / DRAWN).astype(np.intp)]
    columns = (_curves if chosen.output is None else _pictures)(chosen, deviation, (low, high), single)
    return draw_columns(columns, labels, chosen.titled(title))[0]


def _pictures(
    chosen: ObservationPanels, deviation: Array, band: tuple[Array, Array], single: Array
) -> list[PanelColumn]:
    """Columns of pictures: observation, mean, standard deviation, draws."""
    ends, most = chosen.output_range, (0.0, value_range([deviation, np.zeros(1)])[1])
    return [
        _observed(chosen, band if chosen.alike else None),
        PanelColumn(scaled("mean", ends), chosen.output, ends, PanelCurves(chosen.outputs, FITTED)),
        PanelColumn(scaled("standard deviation", most), chosen.output, most, PanelCurves(deviation, OTHER)),
        *(
            PanelColumn(f"draw {i + 1}\n", chosen.output, ends, PanelCurves(draw, FITTED))
            for i, draw in enumerate(single)
        ),
    ]


def _curves(chosen: ObservationPanels, deviation: Array, band: tuple[Array, Array], single: Array) -> list[PanelColumn]:
    """Columns of curves: observation, mean and band; draws; standard deviation."""
    ends = value_range([single, *band, chosen.outputs])
    first, *others = (PanelCurves(draw, FITTED, "", 0.6) for draw in single)
    mean = PanelCurves(chosen.outputs, FITTED, "mean", 1.2)
    columns = [_observed(chosen, band if chosen.alike else None)]
    if not chosen.alike:
        columns.append(PanelColumn(f"mean, band: {BAND:.0%}", None, ends, mean, band=band))
    return [
        *columns,
        PanelColumn(f"{DRAWN} draws", None, ends, first, tuple(others)),
        PanelColumn(
            "standard deviation", None, (0.0, value_range([deviation, np.zeros(1)])[1]), PanelCurves(deviation, OTHER)
        ),
    ]


def _observed(chosen: ObservationPanels, band: tuple[Array, Array] | None) -> PanelColumn:
    """The column of observations: pictures, or curves with those of the mean beside them."""
    if chosen.observation is not None:
        ends = chosen.observed_range
        return PanelColumn(scaled("observed", ends), chosen.observation, ends, PanelCurves(chosen.observed, OBSERVED))
    name = "mean" if chosen.alike else "A applied to the mean"
    heading = f"observed, and {name}" + (f", band: {BAND:.0%}" if band else "")
    beside = (PanelCurves(chosen.fitted, FITTED, name, 1.2),)
    ends = value_range([chosen.observed, chosen.fitted, *(band or ())])
    observed = PanelCurves(chosen.observed, OBSERVED, "observed", dotted=True)
    return PanelColumn(heading, None, ends, observed, beside, band=band)


def corner_figure(
    draws: Array,
    coordinates: Index,
    names: Sequence[str],
    label: Integers,
    modes: Sequence[tuple[float, Array]],
    title: str,
) -> ObservationFigure:
    """Draw chosen coordinates in pairs, with a colour for each of the heaviest modes.

    Args:
        draws: draws (N, k).
        coordinates: those that are drawn, (q,).
        names: their names.
        label: the mode of each draw, (N,), in the order of ``modes``.
        modes: weights and best codes, (k,), the heaviest first.
        title: the title.
    """
    shown = draws[:, coordinates]
    ends = np.quantile(shown, ((1 - BAND) / 2, (1 + BAND) / 2), axis=0)
    apart = range(min(len(modes), _COLOURED))
    groups, marks = [label == i for i in apart], [modes[i][1][coordinates] for i in apart]
    called = [f"mode of weight {share(modes[i][0])}" for i in apart]
    if len(modes) > _COLOURED:
        groups.append(label >= _COLOURED)
        marks.append(np.full(len(coordinates), np.nan))
        called.append(f"{len(modes) - _COLOURED} lighter modes")
    return CornerPanels(names, shown, np.array(groups), np.array(marks), called, ends).figure(
        f"{title}; dashed: {BAND:.0%} intervals"
    )
