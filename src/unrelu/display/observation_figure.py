"""A figure of observations, reconstructions and residuals.

The figure is a Matplotlib object that is not shown. pyplot's state is neither read nor changed, so figures can be made
in any thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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
# The palette of Okabe and Ito: observations, reconstructions, and what is neither.
OBSERVED, FITTED, OTHER = "#7f7f7f", "#0072b2", "#d55e00"
SMALL = 8
# PanelCurves of at most so many entries are drawn with dots, which stay visible below other curves.
_DOTS = 150


class ObservationFigure(Figure):
    """A Matplotlib figure that a notebook shows, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


@dataclass(frozen=True, eq=False)
class ObservationPanels:
    """The contents of a figure of B observations, with one row for each.

    Attributes:
        labels: the label of each observation, (B,).
        observed: y, (B, m), NaN where nothing was observed.
        fitted: A G(z), (B, m); NaN where it is not known.
        outputs: G(z), (B, n).
        observation, output: the picture shapes of y and G(z), or None to draw curves.
        alike: whether the entries of an observation are entries of the output.
        sizes: sizes of the errors, (B, m), or None if they are not known.
        ends: the values of black and white in pictures of outputs; None draws them in the range of what is shown.
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

    @property
    def residual(self) -> Array:
        """y - A G(z), (B, m)."""
        return self.observed - self.fitted

    @property
    def observed_range(self) -> tuple[float, float]:
        """The range of the colours of observations, or of the axis of their curves."""
        if self.ends is not None and self.alike and self.observation is not None:
            return self.ends
        return value_range([self.observed] if self.observation is not None else [self.observed, self.fitted])

    @property
    def output_range(self) -> tuple[float, float]:
        """The same for outputs; equal to :attr:`observed_range` if observations are entries of outputs."""
        if self.ends is not None and self.output is not None:
            return self.ends
        return self.observed_range if self.alike else value_range([self.outputs], 0.5, 99.5)

    @property
    def residual_scale(self) -> float:
        """The largest residual, at most the range of the observations; 1 if all residuals are 0 or unknown."""
        low, high = self.observed_range
        sizes = np.abs(self.residual)
        largest = float(np.max(sizes, where=np.isfinite(sizes), initial=0.0))
        return min(largest, high - low) or 1.0

    def figure(self, title: str) -> ObservationFigure:
        """Draw the figure."""
        columns = self._columns()
        if self.alike and self.observation is None:
            del columns[1]  # the observed curve has the reconstruction beside it
        figure, axes = draw_columns(columns, self.labels, self.titled(title))
        if self.observation is not None:
            colours = ScalarMappable(Normalize(*columns[-1].ends), DIVERGING)
            bar = figure.colorbar(colours, ax=axes[:, -1], shrink=0.9, fraction=0.1, aspect=12 * len(self.labels))
            bar.ax.tick_params(labelsize=SMALL)
        return figure

    def titled(self, title: str) -> str:
        """The title, with the meaning of the colour of hidden entries if there are any in a picture."""
        hidden = self.observation is not None and bool(np.isnan(self.observed).any())
        return f"{title}; light blue was not observed" if hidden else title

    def thumbnails(self, i: int) -> list[str]:
        """The observation, its reconstruction and its residual, as small pictures in URIs."""
        return [column.thumbnail(i) for column in self._columns()]

    def _columns(self) -> list[PanelColumn]:
        measured, scale = "G(z)" if self.alike else "A G(z)", self.residual_scale
        rest = f"residual y \N{MINUS SIGN} {measured}"
        if self.observation is None:
            data, rest = f"observed, and {measured}", rest + (", band: stated noise" if self.sizes is not None else "")
        else:
            data = scaled("observed", self.observed_range)
            rest += "\nlargest of the channels" if self.observation[0] > 1 else ""
        output = "reconstruction" if self.output is None else scaled("reconstruction", self.output_range)
        band = None if self.sizes is None else (-self.sizes, self.sizes)
        observed = PanelCurves(self.observed, OBSERVED, "observed", dotted=True)
        outputs = PanelCurves(self.outputs, FITTED, "reconstruction", 1.2)
        fitted = PanelCurves(self.fitted, FITTED, "reconstruction" if self.alike else measured, 1.2)
        return [
            PanelColumn(data, self.observation, self.observed_range, observed, (fitted,)),
            PanelColumn(output, self.output, self.output_range, outputs),
            PanelColumn(rest, self.observation, (-scale, scale), PanelCurves(self.residual, OTHER), (), True, band),
        ]


class PanelCurves(NamedTuple):
    """One curve for each observation, (B, n), with a colour, a name, a width, and dots if it is short."""

    values: Array
    colour: str
    name: str = ""
    width: float = 0.8
    dotted: bool = False

    def plot(self, ax: Axes, i: int) -> None:
        """Draw curve i, with gaps where values are unknown; a single value between two gaps is a dot."""
        y = self.values[i]
        known = np.isfinite(y)
        alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
        shown = np.where(known, y, np.nan)
        marker = "." if self.dotted and len(y) <= _DOTS else ""
        ax.plot(shown, color=self.colour, linewidth=self.width, label=self.name, marker=marker)
        if alone.any():
            ax.plot(np.flatnonzero(alone), y[alone], ".", color=self.colour, markersize=2)


@dataclass(frozen=True, eq=False)
class PanelColumn:
    """One column: pictures of ``shape``, or curves if it is None; ``ends`` is the range of the colours or the axis.

    Curves may have others ``beside`` them, and a band from lower to upper curves, (B, n) each. ``signed`` values are
    drawn in the colours of differences.
    """

    heading: str
    shape: Shape | None
    ends: tuple[float, float]
    curves: PanelCurves
    beside: tuple[PanelCurves, ...] = ()
    signed: bool = False
    band: tuple[Array, Array] | None = None

    @property
    def width(self) -> float:
        """Width in inches; pictures keep their proportions, within bounds that keep the figure readable."""
        return _LONG if self.shape is None else _PICTURE * min(4.0, max(0.5, self.shape[2] / self.shape[1]))

    def pixels(self, i: int, shape: Shape) -> Pixels:
        """The picture of one observation."""
        shown = self.curves.values[i]
        return differences(shown, shape, self.ends[1]) if self.signed else values(shown, shape, *self.ends)

    def draw(self, ax: Axes, i: int, last: bool) -> None:
        """Draw the picture or the curves of observation i; the ``last`` row has a labelled axis."""
        if self.shape is not None:
            ax.imshow(self.pixels(i, self.shape), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            return
        if self.band is not None:
            low, high = (np.where(np.isfinite(end[i]), end[i], np.nan) for end in self.band)
            ax.fill_between(np.arange(len(low)), low, high, color=HIDDEN, alpha=0.5, linewidth=0, step="mid")
        if self.signed:
            ax.axhline(0.0, color="black", linewidth=0.6)
        self.curves.plot(ax, i)
        for curves in self.beside:
            curves.plot(ax, i)
        if i == 0 and any(curves.name for curves in self.beside):
            ax.legend(fontsize=SMALL - 1, loc="best", frameon=False)
        _limit(ax, *self.ends)
        ax.tick_params(labelsize=SMALL, labelbottom=last)
        ax.margins(x=0.01)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        if last:
            ax.set_xlabel("entry", fontsize=SMALL)

    def thumbnail(self, i: int) -> str:
        """The picture, or the curve without axes, as a small PNG file in a URI."""
        if self.shape is not None:
            return png_uri(self.pixels(i, self.shape))
        figure = Figure(figsize=(1.4, 0.84), dpi=100)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        self.curves._replace(width=0.8, dotted=False).plot(ax, i)
        _limit(ax, *self.ends)
        return uri_of(png_of(figure, transparent=True))


def draw_columns(
    columns: Sequence[PanelColumn], labels: Sequence[str], title: str
) -> tuple[ObservationFigure, npt.NDArray[np.object_]]:
    """Draw columns, with one row for each label; return the figure and its axes, (rows, columns)."""
    widths = [column.width for column in columns]
    height = _CURVE if any(column.shape is None for column in columns) else _PICTURE
    rows = len(labels)
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
            column.draw(ax, i, last=i == rows - 1)
    for ax, label in zip(axes[:, 0], labels, strict=True):
        ax.set_ylabel(label, fontsize=SMALL, rotation=0, ha="right", va="center", labelpad=8)
    return figure, axes


def png_of(figure: Figure, **options: Any) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=figure.dpi, **options)
    return stream.getvalue()


def scaled(name: str, ends: tuple[float, float]) -> str:
    """A heading with the values of black and white."""
    return f"{name}\nblack {number(ends[0])}, white {number(ends[1])}"


def _limit(ax: Axes, low: float, high: float) -> None:
    room = 0.06 * (high - low)
    if math.isfinite(room) and room > 0:
        ax.set_ylim(low - room, high + room)
