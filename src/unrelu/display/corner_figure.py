"""A corner plot of draws: a histogram of each coordinate, and the draws of each pair of them.

As :mod:`~unrelu.display.observation_figure`, it neither reads nor changes pyplot's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from unrelu.display.observation_figure import SMALL, ObservationFigure
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.words import number

# Inches of a panel, bins of a histogram, and the most draws that are dots.
_SIDE, _BINS, _DOTS = 1.6, 40, 4000
_COLOURS = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class CornerPanels:
    """The contents of a corner plot of q coordinates.

    Attributes:
        names: the names of the coordinates, (q,).
        draws: the draws, (N, q).
        groups: which draws belong to each group, (M, N): groups have colours of their own.
        marks: a marked point of each group, (M, q).
        group_names: the names of the groups, (M,).
        intervals: the ends of an interval of each coordinate, (2, q), dashed in the histograms.
    """

    names: Sequence[str]
    draws: Array
    groups: Flags
    marks: Array
    group_names: Sequence[str]
    intervals: Array

    def figure(self, title: str) -> ObservationFigure:
        """Draw the figure."""
        q = len(self.names)
        side = _SIDE * q + 1.0
        figure = ObservationFigure(
            figsize=(max(side, 4.0), side), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03), dpi=100
        )
        figure.suptitle(title, fontsize=10)
        axes = figure.subplots(q, q, squeeze=False, sharex="col")
        step = max(1, -(-len(self.draws) // _DOTS))
        for row in range(q):
            for column in range(q):
                ax = axes[row, column]
                if column > row:
                    ax.set_axis_off()
                    continue
                ax.tick_params(labelsize=SMALL - 1, labelleft=column == 0)
                if column == row:
                    self._histogram(ax, row)
                else:
                    for group, mark, colour in zip(self.groups, self.marks, self._colours, strict=True):
                        x, y = self.draws[group][::step, [column, row]].T
                        ax.plot(x, y, ".", color=colour, markersize=1.5, alpha=0.5, rasterized=True)
                        ax.plot(mark[column], mark[row], "x", color="black", markersize=6)
                    ax.set_ylim(*_room(self.draws[:, row]))
                ax.set_xlim(*_room(self.draws[:, column]))
                if row == q - 1:
                    ax.set_xlabel(self.names[column], fontsize=SMALL)
                if column == 0 and row:
                    ax.set_ylabel(self.names[row], fontsize=SMALL)
        if len(self.groups) > 1:
            handles = [Patch(color=colour) for colour in self._colours]
            axes[0, -1].legend(handles, self.group_names, fontsize=SMALL, loc="upper right")
        return figure

    @property
    def _colours(self) -> list[Any]:
        return [_COLOURS[i % len(_COLOURS)] for i in range(len(self.groups))]

    def _histogram(self, ax: Axes, j: int) -> None:
        """The histogram of coordinate j, one group on top of the other."""
        parts = [self.draws[group, j] for group in self.groups]
        ax.hist(parts, bins=_BINS, range=_room(self.draws[:, j]), stacked=True, color=self._colours)
        for end in self.intervals[:, j]:
            ax.axvline(end, color="black", linewidth=0.8, linestyle="--")
        ax.set_yticks([])
        low, high = self.intervals[:, j]
        ax.set_title(f"{number(low)} to {number(high)}", fontsize=SMALL)


def _room(values: Array) -> tuple[float, float]:
    """The range of the values, widened to an interval if they are equal."""
    low, high = float(values.min()), float(values.max())
    room = 0.03 * (high - low) or 0.5
    return low - room, high + room
