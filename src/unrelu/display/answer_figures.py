"""Figures of answers: thumbnails of results, draws of a posterior beside its observation, and draws in pairs.

As :mod:`~unrelu.display.observation_figure`, it neither reads nor changes pyplot's state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from unrelu.display.observation_figure import (
    FITTED,
    OBSERVED,
    OTHER,
    SMALL,
    ObservationFigure,
    ObservationPanels,
    PanelColumn,
    PanelCurves,
    draw_columns,
    scaled,
)
from unrelu.display.pixels import Shape, drawn_shape, value_range
from unrelu.display.text_tables import Html
from unrelu.errors import OptionError
from unrelu.runtime.argument_numbers import whole_number
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.runtime.words import number, share

# The height of a thumbnail in pixels.
_THUMBNAIL = 84
# In a picture, vertical neighbours differ by at most this many times as much as horizontal ones.
_ROUGHER = 1.5
# Draws of a posterior that are shown, and the probability of the band of curves.
_SHOWN, _BAND = 4, 0.9
# Of the plot in pairs: inches of a panel, bins of a histogram, the most draws that are dots, and the most modes with a
# colour of their own.
_SIDE, _BINS, _DOTS, _COLOURED = 1.6, 40, 4000, 5
_COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


def drawn_rows(size: int, single: bool, observations: Any, most: object) -> Index:
    """The indices of the observations that are drawn: those that a user asks for, or the first ones for None.

    Raises:
        OptionError: ``most``, the argument ``max_observations``, is not a whole number of at least 1.
        IndexError: there is no such observation.
    """
    limit = whole_number("max_observations", most, 1)
    if single and observations is not None:
        raise IndexError(f"observations={observations!r}: there is one observation; leave it out")
    rows = np.atleast_1d(np.arange(size)[slice(None) if observations is None else observations])
    if not rows.size:
        raise IndexError(f"observations={observations!r}: there is nothing to draw")
    return np.asarray(rows.ravel()[:limit])


def picture_shape(own: Sequence[int], outputs: Array, asked: Sequence[int] | None) -> Shape | None:
    """The shape in which outputs (B, n) are drawn as pictures; None for curves.

    Flat outputs must vary along both axes as a picture does: a spectrum of 400 entries is not a 20 x 20 picture, as its
    entries 20 apart differ far more than neighbours.

    Args:
        own: the shape of an output.
        outputs: the outputs.
        asked: the shape that a user asks for, (n,) for curves; None leaves it open.

    Raises:
        OptionError: outputs have another number of entries than the shape that is asked for.
    """
    if asked is not None:
        return _asked(asked, outputs.shape[1])
    found = drawn_shape(own)
    if found is None or sum(n > 1 for n in own) > 1:
        return found
    image = outputs[np.isfinite(outputs).all(axis=1)].reshape(-1, *found[1:])
    if not len(image):
        return None
    across, down = (float(np.mean(np.abs(np.diff(image, axis=axis)))) for axis in (2, 1))
    return found if down <= _ROUGHER * across else None


def _asked(shape: Sequence[int], n: int) -> Shape | None:
    dims = tuple(shape) if isinstance(shape, tuple | list) else ()
    if dims == (n,):
        return None
    sides = len(dims) in (2, 3) and all(isinstance(side, int) and side > 0 for side in dims)
    found = drawn_shape(dims) if sides else None
    if found is None or math.prod(found) != n:
        raise OptionError(
            f"shape={shape!r}: outputs have {n:,} entries; pass (height, width) or (3, height, width) of as many, or "
            f"({n},) for curves"
        )
    return found


def thumbnails(drawn: ObservationPanels, rows: Index) -> list[list[Html]]:
    """Images of observation, reconstruction and residual for the panels of some observations, as HTML."""
    style = f"height:{_THUMBNAIL}px;image-rendering:pixelated"
    names = ("observed", "reconstruction", "residual")
    return [
        [
            Html(f'<img src="{source}" alt="{name} of observation {place}" style="{style}">')
            for name, source in zip(names, drawn.thumbnails(i), strict=True)
        ]
        for i, place in enumerate(rows)
    ]


# --- posteriors -------------------------------------------------------------------------------------------------------


def posterior_figure(panels: ObservationPanels, outputs: Sequence[Array], title: str) -> ObservationFigure:
    """Draw observation, mean, standard deviation and draws of the output, a row for each observation.

    Args:
        panels: the observations, with the means in place of outputs.
        outputs: G(z) of draws of each of these observations, (N, n); none for one without draws.
        title: the title.
    """
    rows, n = panels.outputs.shape
    deviation, low, high = (np.full((rows, n), np.nan) for _ in range(3))
    single = np.full((_SHOWN, rows, n), np.nan)
    for row, drawn in enumerate(outputs):
        if len(drawn):
            deviation[row] = drawn.std(axis=0)
            low[row], high[row] = np.quantile(drawn, ((1 - _BAND) / 2, (1 + _BAND) / 2), axis=0)
            single[:, row] = drawn[((np.arange(_SHOWN) + 0.5) * len(drawn) / _SHOWN).astype(np.intp)]
    spread = PanelCurves(deviation, OTHER)
    most = (0.0, value_range([deviation, np.zeros(1)])[1])
    observed = _observed(panels, (low, high) if panels.alike else None)
    if panels.output is not None:
        ends = panels.output_range
        columns = [
            observed,
            PanelColumn(scaled("mean", ends), panels.output, ends, PanelCurves(panels.outputs, FITTED)),
            PanelColumn(scaled("standard deviation", most), panels.output, most, spread),
            *(
                PanelColumn(f"draw {i + 1}\n", panels.output, ends, PanelCurves(draw, FITTED))
                for i, draw in enumerate(single)
            ),
        ]
    else:
        ends = value_range([single, low, high, panels.outputs])
        first, *others = (PanelCurves(draw, FITTED, "", 0.6) for draw in single)
        mean = PanelCurves(panels.outputs, FITTED, "mean", 1.2)
        columns = [
            observed,
            *([] if panels.alike else [PanelColumn(f"mean, band: {_BAND:.0%}", None, ends, mean, band=(low, high))]),
            PanelColumn(f"{_SHOWN} draws", None, ends, first, tuple(others)),
            PanelColumn("standard deviation", None, most, spread),
        ]
    return draw_columns(columns, panels.labels, panels.titled(title))[0]


def _observed(panels: ObservationPanels, band: tuple[Array, Array] | None) -> PanelColumn:
    """The column of observations: pictures, or curves with those of the mean beside them."""
    if panels.observation is not None:
        ends = panels.observed_range
        return PanelColumn(scaled("observed", ends), panels.observation, ends, PanelCurves(panels.observed, OBSERVED))
    name = "mean" if panels.alike else "A applied to the mean"
    heading = f"observed, and {name}" + (f", band: {_BAND:.0%}" if band else "")
    beside = (PanelCurves(panels.fitted, FITTED, name, 1.2),)
    ends = value_range([panels.observed, panels.fitted, *(band or ())])
    observed = PanelCurves(panels.observed, OBSERVED, "observed", dotted=True)
    return PanelColumn(heading, None, ends, observed, beside, band=band)


def corner_figure(
    draws: Array, names: Sequence[str], label: Integers, weights: Sequence[float], best: Array, title: str
) -> ObservationFigure:
    """Draw q coordinates in pairs, as dots, and the histogram of each, with a colour for each of the heaviest modes.

    Args:
        draws: draws, (N, q).
        names: the names of the coordinates, (q,).
        label: the mode of each draw, (N,), the heaviest mode first.
        weights: the weights of the modes, (M,).
        best: their best codes, (M, q), which are marked.
        title: the title.
    """
    q, ends = len(names), np.quantile(draws, ((1 - _BAND) / 2, (1 + _BAND) / 2), axis=0)
    apart = range(min(len(weights), _COLOURED))
    groups, marks = [draws[label == i] for i in apart], [best[i] for i in apart]
    called = [f"mode of weight {share(weights[i])}" for i in apart]
    if len(weights) > _COLOURED:
        groups.append(draws[label >= _COLOURED])
        marks.append(np.full(q, np.nan))
        called.append(f"{len(weights) - _COLOURED} lighter modes")
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(groups))]
    side, step = _SIDE * q + 1.0, max(1, -(-len(draws) // _DOTS))
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
    figure = ObservationFigure(figsize=(max(side, 4.0), side), layout=layout, dpi=100)
    figure.suptitle(f"{title}; dashed: {_BAND:.0%} intervals", fontsize=10)
    axes = figure.subplots(q, q, squeeze=False, sharex="col")
    for (row, column), ax in np.ndenumerate(axes):
        if column > row:
            ax.set_axis_off()
            continue
        ax.tick_params(labelsize=SMALL - 1, labelleft=column == 0)
        if column == row:
            _histogram(ax, [group[:, row] for group in groups], colours, _room(draws[:, row]), ends[:, row])
        else:
            for group, mark, colour in zip(groups, marks, colours, strict=True):
                x, y = group[::step, [column, row]].T
                ax.plot(x, y, ".", color=colour, markersize=1.5, alpha=0.5, rasterized=True)
                ax.plot(mark[column], mark[row], "x", color="black", markersize=6)
            ax.set_ylim(*_room(draws[:, row]))
        ax.set_xlim(*_room(draws[:, column]))
        if row == q - 1:
            ax.set_xlabel(names[column], fontsize=SMALL)
        if column == 0 and row:
            ax.set_ylabel(names[row], fontsize=SMALL)
    if len(groups) > 1:
        handles = [Patch(color=colour) for colour in colours]
        axes[0, -1].legend(handles, called, fontsize=SMALL, loc="upper right")
    return figure


def _histogram(ax: Axes, groups: Sequence[Array], colours: Sequence[Any], room: tuple[float, float], ends: Any) -> None:
    """The histogram of a coordinate, one group on top of the other, with the ends of its interval."""
    ax.hist(groups, bins=_BINS, range=room, stacked=True, color=colours)
    for end in ends:
        ax.axvline(end, color="black", linewidth=0.8, linestyle="--")
    ax.set_yticks([])
    ax.set_title(f"{number(ends[0])} to {number(ends[1])}", fontsize=SMALL)


def _room(values: Array) -> tuple[float, float]:
    """The range of the values, widened to an interval if they are equal."""
    low, high = float(values.min()), float(values.max())
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room
