"""Figures of observations, reconstructions and residuals: a row for each observation, columns of pictures or curves.

All figures of results consist of :class:`PanelColumn`. They are Matplotlib figures that are not shown. pyplot's state
is neither read nor changed, so figures can be made in any thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from unrelu.display.pixels import DIVERGING, HIDDEN, Pixels, Shape, differences, png_uri, uri_of, value_range, values
from unrelu.runtime.array_types import Array
from unrelu.runtime.words import number

# Inches: height of a row of pictures, height of a row of curves, width of a curve, width of the label of a row.
_PICTURE, _CURVE, _LONG, _MARGIN = 1.5, 1.7, 4.2, 1.4
# Colours of Okabe and Ito's palette for observations, reconstructions and everything else.
OBSERVED, FITTED, OTHER = "#7f7f7f", "#0072b2", "#d55e00"
SMALL = 8
# Observed curves of at most this many entries are drawn with dots, which stay visible below other curves.
_DOTS = 150


class ObservationFigure(Figure):
    """A Matplotlib figure that a notebook shows even if pyplot was not imported."""

    def _repr_png_(self) -> bytes:
        return _png(self)


class PanelCurve(NamedTuple):
    """A curve for each observation, (B, n), with a colour, a name and a width."""

    values: Array
    colour: str
    name: str = ""
    width: float = 0.8

    def plot(self, ax: Axes, i: int) -> None:
        """Draw curve i, with gaps where values are unknown; a single value between two gaps is a dot."""
        y = self.values[i]
        known = np.isfinite(y)
        alone = np.flatnonzero(known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False])
        marker = "." if self.colour == OBSERVED and len(y) <= _DOTS else ""
        ax.plot(np.where(known, y, np.nan), color=self.colour, linewidth=self.width, label=self.name, marker=marker)
        if len(alone):
            ax.plot(alone, y[alone], ".", color=self.colour, markersize=2, rasterized=True)


@dataclass(frozen=True, eq=False)
class PanelColumn:
    """A column of a figure: the first curve's values as pictures of ``shape``, or all curves if ``shape`` is None.

    ``ends`` is the range of the colours, or of the axis. ``signed`` values are drawn in the colours of differences. A
    ``band`` lies between lower and upper curves, (B, n) each.
    """

    name: str
    shape: Shape | None
    ends: tuple[float, float]
    curves: tuple[PanelCurve, ...]
    signed: bool = False
    band: tuple[Array, Array] | None = None

    @property
    def heading(self) -> str:
        """The name, with the values of black and white."""
        if self.shape is None or self.signed:
            return self.name
        return f"{self.name}\nblack {number(self.ends[0])}, white {number(self.ends[1])}"

    def known(self, i: int) -> bool:
        """Check whether observation i has a finite value."""
        return bool(np.isfinite(self.curves[0].values[i]).any())

    @property
    def width(self) -> float:
        """The width in inches. Pictures keep their proportions, within limits that keep the figure readable."""
        return _LONG if self.shape is None else _PICTURE * min(4.0, max(0.5, self.shape[2] / self.shape[1]))

    def pixels(self, i: int) -> Pixels | None:
        """Return the picture of observation i; None for curves."""
        shown = self.curves[0].values[i]
        if self.shape is None:
            return None
        return differences(shown, self.shape, self.ends[1]) if self.signed else values(shown, self.shape, *self.ends)

    def draw(self, ax: Axes, i: int) -> None:
        """Draw the picture or the curves of observation i."""
        if (pixels := self.pixels(i)) is not None:
            ax.imshow(pixels, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            return
        if self.band is not None:
            lower, upper = (np.where(np.isfinite(end[i]), end[i], np.nan) for end in self.band)
            ax.fill_between(np.arange(len(lower)), lower, upper, color=HIDDEN, alpha=0.5, linewidth=0, step="mid")
        if self.signed:
            ax.axhline(0.0, color=matplotlib.rcParams["axes.edgecolor"], linewidth=0.6)
        for curve in self.curves:
            curve.plot(ax, i)
        low, high = self.ends
        if math.isfinite(room := 0.06 * (high - low)):
            ax.set_ylim(low - room, high + room)
        ax.margins(x=0.01)

    def thumbnail(self, i: int) -> str:
        """Return the picture, or the curves without axes, as a small PNG file in a URI."""
        if (pixels := self.pixels(i)) is not None:
            return png_uri(pixels)
        figure = Figure(figsize=(1.4, 0.84), dpi=100)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        self.draw(ax, i)
        for line in ax.lines:
            line.set_markersize(2)
        return uri_of(_png(figure, transparent=True))


@dataclass(frozen=True, eq=False)
class ObservationPanels:
    """B observations with their fits, to be drawn as a figure.

    Attributes:
        labels: the label of each observation, (B,).
        observed: y, (B, m), NaN where nothing was observed.
        fitted: A G(z), (B, m); NaN where unknown.
        outputs: G(z), (B, n).
        observation, output: the picture shapes of y and G(z), or None to draw curves.
        alike: whether the entries of an observation are entries of the output.
        sizes: the sizes of the errors, (B, m), or None if they are unknown.
        ends: the values of black and white in pictures of outputs; None for the range of the values shown.
        deviations: the standard deviations of G(z), (B, n), NaN where unknown; None if all are unknown.
    """

    labels: Sequence[str]
    observed: Array
    fitted: Array
    outputs: Array
    observation: Shape | None
    output: Shape | None
    alike: bool
    sizes: Array | None = None
    ends: tuple[float, float] | None = None
    deviations: Array | None = None

    @property
    def output_range(self) -> tuple[float, float]:
        """The range of colours, or of the axis of curves, for outputs; if ``alike``, the range for observations."""
        if self.ends is not None and self.output is not None:
            return self.ends
        return self._observed_range() if self.alike else value_range([self.outputs], 0.5, 99.5)

    def _observed_range(self, *beside: Array) -> tuple[float, float]:
        """Return the range for observations. The axis of curves has room for the curves ``beside`` them, too."""
        if self.observation is None:
            return value_range([self.observed, self.fitted, *beside])
        return self.ends if self.ends is not None and self.alike else value_range([self.observed])

    def figure(self, title: str) -> ObservationFigure:
        """Draw a row for each observation."""
        columns = self.columns()
        figure = draw_columns(columns, self.labels, self.titled(title))
        if self.observation is not None:
            colours = ScalarMappable(Normalize(*columns[2].ends), DIVERGING)
            places = figure.axes[2 :: len(columns)]
            bar = figure.colorbar(colours, ax=places, shrink=0.9, fraction=0.1, aspect=12 * len(self.labels))
            bar.ax.tick_params(labelsize=SMALL)
        return figure

    def titled(self, title: str) -> str:
        """Return the title. If pictures have hidden entries, the title explains their colour."""
        hidden = self.observation is not None and bool(np.isnan(self.observed).any())
        return f"{title}; light blue was not observed" if hidden else title

    def columns(self) -> list[PanelColumn]:
        """Return the columns of the figure. A reconstruction that is drawn with the observed curve has no column."""
        observed, *others = self.all_columns()
        return [observed, *others[self.alike and self.observation is None :]]

    def all_columns(self) -> list[PanelColumn]:
        """Return columns of observations, reconstructions, residuals and, if any are known, standard deviations."""
        measured, ends = "G(z)" if self.alike else "A G(z)", self.output_range
        residual = self.observed - self.fitted
        low, high = self._observed_range()
        largest = float(np.max(np.abs(residual), where=np.isfinite(residual), initial=0.0))
        scale = min(largest, high - low) or 1.0
        rest, band = f"residual y \N{MINUS SIGN} {measured}", None
        if self.observation is None and self.sizes is not None:
            rest, band = rest + ", band: stated noise", (-self.sizes, self.sizes)
        elif self.observation is not None and self.observation[0] > 1:
            rest += "\nlargest of the channels"
        columns = [
            self.observed_column(measured),
            self.output_column("reconstruction", self.outputs, ends),
            PanelColumn(rest, self.observation, (-scale, scale), (PanelCurve(residual, OTHER),), True, band),
        ]
        if self.deviations is not None and np.isfinite(self.deviations).any():
            most = (0.0, value_range([self.deviations, np.zeros(1)])[1])
            columns.append(self.output_column("standard deviation", self.deviations, most))
        return columns

    def observed_column(self, fitted: str, band: tuple[Array, Array] | None = None) -> PanelColumn:
        """Return the column of observations: pictures, or curves together with the fitted curves, named ``fitted``."""
        ends, observed = self._observed_range(*(band or ())), PanelCurve(self.observed, OBSERVED, "observed")
        if self.observation is not None:
            return PanelColumn("observed", self.observation, ends, (observed,))
        both = observed, PanelCurve(self.fitted, FITTED, fitted, 1.2)
        return PanelColumn(f"observed, and {fitted}", None, ends, both, band=band)

    def output_column(self, name: str, outputs: Array, ends: tuple[float, float]) -> PanelColumn:
        """Return a column of values (B, n), one for each entry of the output, as pictures or curves."""
        colour = OTHER if name == "standard deviation" else FITTED
        return PanelColumn(name, self.output, ends, (PanelCurve(outputs, colour, width=1.2),))


def draw_columns(columns: Sequence[PanelColumn], labels: Sequence[str], title: str) -> ObservationFigure:
    """Draw columns, with one row for each label. The axes of the figure are in the order of rows."""
    widths, rows = [column.width for column in columns], len(labels)
    height = _CURVE if any(column.shape is None for column in columns) else _PICTURE
    figure = ObservationFigure(
        figsize=(sum(widths) + _MARGIN + 0.6, height * rows + 0.7),
        layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04),
        dpi=100,
    )
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, len(columns), squeeze=False, width_ratios=widths)
    for column, places in zip(columns, axes.T, strict=True):
        places[0].set_title(column.heading, fontsize=9)
        for i, ax in enumerate(places):
            column.draw(ax, i)
        if column.shape is None:
            for ax in places:
                ax.tick_params(labelsize=SMALL, labelbottom=ax is places[-1])
                ax.spines[["top", "right"]].set_visible(False)
            places[-1].set_xlabel("entry", fontsize=SMALL)
            if len(column.curves) > 1 and column.curves[0].name:
                places[0].legend(fontsize=SMALL - 1, loc="best", frameon=False)
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label, fontsize=SMALL, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def _png(figure: Figure, **options: Any) -> bytes:
    """Return the figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=figure.dpi, **options)
    return stream.getvalue()
