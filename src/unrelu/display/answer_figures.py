"""Figures of results: thumbnails, posterior draws beside their observation, and corner plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import matplotlib
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from unrelu.display.observation_figure import (
    FITTED,
    SMALL,
    ObservationFigure,
    ObservationPanels,
    PanelColumn,
    PanelCurve,
    draw_columns,
)
from unrelu.display.pixels import Shape, drawn_shape, value_range
from unrelu.display.text_tables import Html
from unrelu.errors import OptionError
from unrelu.runtime.array_types import Array, Index, Integers
from unrelu.runtime.words import rounded, share

# The height of a thumbnail in pixels.
_THUMBNAIL = 84
# In a picture, vertical neighbours differ on average at most this many times as much as horizontal ones.
_ROUGHER = 1.5
# The number of posterior draws that are shown, the probability of intervals, and the quantiles at their ends.
_SHOWN, _BAND, _ENDS = 4, 0.9, (0.05, 0.95)
# The corner plot: inches of a panel, bins of a histogram, the most draws that are shown as dots, and the most modes
# with their own colour.
_SIDE, _BINS, _DOTS, _COLOURED = 1.6, 40, 4000, 5


def picture_shape(own: Sequence[int], outputs: Array, asked: Sequence[int] | None) -> Shape | None:
    """Return the shape in which outputs (B, n) are drawn as pictures; None for curves.

    Flat outputs must vary along both axes like a picture: a spectrum of 400 entries is not a 20 x 20 picture, because
    entries at a distance of 20 differ far more than neighbours.

    Args:
        own: the shape of an output.
        outputs: the outputs.
        asked: the shape that the user asks for, (n,) for curves; None for the default.

    Raises:
        OptionError: the shape has another number of entries than the outputs.
    """
    n = outputs.shape[1]
    if asked is not None:
        dims = tuple(asked) if isinstance(asked, tuple | list) else ()
        sides = len(dims) in (2, 3) and all(isinstance(side, int) and side > 0 for side in dims)
        found = drawn_shape(dims) if sides else None
        if dims != (n,) and (found is None or math.prod(found) != n):
            raise OptionError(
                f"shape={asked!r}: outputs have {n:,} entries; pass (height, width) or (3, height, width) of as many, "
                f"or ({n},) for curves"
            )
        return found
    found = drawn_shape(own)
    if found is None or sum(side > 1 for side in own) > 1:
        return found
    image = outputs[np.isfinite(outputs).all(axis=1)].reshape(-1, *found[1:])
    if not len(image):
        return None
    across, down = (float(np.mean(np.abs(np.diff(image, axis=axis)))) for axis in (2, 1))
    return found if down <= _ROUGHER * across else None


def thumbnails(panels: ObservationPanels, rows: Index) -> list[list[Html]]:
    """Return images of observation, reconstruction and residual as HTML, for each observation of the panels."""
    style = f"height:{_THUMBNAIL}px;image-rendering:pixelated"
    columns = dict(zip(("observed", "reconstruction", "residual"), panels.all_columns(), strict=True))
    return [
        [
            Html(f'<img src="{column.thumbnail(i)}" alt="{name} of observation {place}" style="{style}">')
            for name, column in columns.items()
        ]
        for i, place in enumerate(rows)
    ]


def posterior_figure(panels: ObservationPanels, outputs: Sequence[Array], title: str) -> ObservationFigure:
    """Draw observation, mean, standard deviation and draws of the output, in a row for each observation.

    Args:
        panels: the observations, with the means in place of outputs.
        outputs: G(z) of the draws, (N, n) for each observation; empty for an observation without draws.
        title: the title.
    """
    deviation, low, high, *single = np.full((3 + _SHOWN, *panels.outputs.shape), np.nan)
    for row, drawn in enumerate(outputs):
        if len(drawn):
            deviation[row] = drawn.std(axis=0)
            low[row], high[row] = np.quantile(drawn, _ENDS, axis=0)
            for i, draw in enumerate(single):
                draw[row] = drawn[int((i + 0.5) * len(drawn) / _SHOWN)]
    spread = panels.output_column("standard deviation", deviation, (0.0, value_range([deviation, np.zeros(1)])[1]))
    band = (low, high)
    ends = panels.output_range if panels.output is not None else value_range([*single, *band, panels.outputs])
    mean = panels.output_column("mean", panels.outputs, ends)
    observed = panels.observed_column(
        "mean" if panels.alike else "A applied to the mean", band if panels.alike else None
    )
    if panels.output is not None:
        draws = [panels.output_column(f"draw {i + 1}", draw, ends) for i, draw in enumerate(single)]
        columns = [observed, mean, spread, *draws]
    else:
        curves = tuple(PanelCurve(draw, FITTED, width=0.6) for draw in single)
        columns = [PanelColumn(f"{_SHOWN} draws", None, ends, curves), spread]
        first = [observed] if panels.alike else [observed, replace(mean, band=band)]
        columns = [*first[:-1], replace(first[-1], name=f"{first[-1].name}, band: {_BAND:.0%}"), *columns]
    return draw_columns(columns, panels.labels, panels.titled(title))


def corner_figure(
    draws: Array, names: Sequence[str], label: Integers, weights: Sequence[float], best: Array, title: str
) -> ObservationFigure:
    """Draw a corner plot of q coordinates: dots for pairs, a histogram for each one, colours for the heaviest modes.

    Args:
        draws: the draws, (N, q).
        names: the names of the coordinates, (q,).
        label: the mode of each draw, (N,), the heaviest mode first.
        weights: the weights of the modes, (M,).
        best: the best codes of the modes, (M, q), which are marked.
        title: the title.
    """
    q, ends, step = len(names), np.quantile(draws, _ENDS, axis=0), max(1, -(-len(draws) // _DOTS))
    group = np.minimum(label, _COLOURED)  # lighter modes share a colour
    called = [f"mode of weight {share(weight)}" for weight in weights[:_COLOURED]]
    if len(weights) > _COLOURED:
        called.append(f"{len(weights) - _COLOURED} lighter modes")
    colours = matplotlib.colormaps["tab10"].colors[: len(called)]  # type: ignore[attr-defined]
    least, most, deviation = draws.min(axis=0), draws.max(axis=0), draws.std(axis=0)
    room = 0.03 * (most - least)
    room[room == 0] = 0.5
    limits = np.stack([least - room, most + room], axis=1)
    figure = ObservationFigure(
        figsize=(max(_SIDE * q + 1.0, 4.0), _SIDE * q + 1.0),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03),
        dpi=100,
    )
    figure.suptitle(f"{title}; dashed: {_BAND:.0%} intervals", fontsize=10)
    axes = figure.subplots(q, q, squeeze=False, sharex="col")
    for (row, column), ax in np.ndenumerate(axes):
        ax.set_axis_off() if column > row else ax.tick_params(labelsize=SMALL - 1, labelleft=column == 0)
        ax.set_xlim(*limits[column])
        ax.locator_params(axis="x", nbins=3)  # labels of many digits would overlap
        if column == row:
            parts = [draws[group == i, row] for i in range(len(called))]
            ax.hist(parts, bins=_BINS, range=tuple(limits[row]), stacked=True, color=colours)
            for end in ends[:, row]:
                ax.axvline(end, color="black", linewidth=0.8, linestyle="--")
            ax.set_yticks([])
            ax.set_title(" to ".join(rounded(end, deviation[row]) for end in ends[:, row]), fontsize=SMALL)
        elif column < row:
            for i, colour in enumerate(colours):
                x, y = draws[group == i][::step, [column, row]].T
                ax.plot(x, y, ".", color=colour, markersize=1.5, alpha=0.5, rasterized=True)
            for z in best[:_COLOURED]:
                ax.plot(z[column], z[row], "x", color="black", markersize=6)
            ax.set_ylim(*limits[row])
    for i, name in enumerate(names):
        axes[-1, i].set_xlabel(name, fontsize=SMALL)
        if i:
            axes[i, 0].set_ylabel(name, fontsize=SMALL)
    if len(called) > 1:
        axes[0, -1].legend([Patch(color=colour) for colour in colours], called, fontsize=SMALL, loc="upper right")
    return figure
