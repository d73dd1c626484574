"""Observations as one figure: what was observed, what the generator makes of it, and what is left.

Figures are Matplotlib's own objects: nothing is shown, and pyplot's state is neither read nor changed, so that they can
be made in any thread.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from unrelu.display.pixels import DIVERGING, HIDDEN, Shape, differences, value_range, values
from unrelu.runtime.words import number

Array = npt.NDArray[np.float64]

# Inches: height of a row of pictures and of a row of curves, widths of a curve and of what is said of a row.
_PICTURE, _CURVE, _LONG, _MARGIN = 1.5, 1.7, 4.2, 1.4
# The palette of Okabe and Ito.
_OBSERVED, _FITTED, _LEFT = "#7f7f7f", "#0072b2", "#d55e00"
_SMALL = 8
# Curves of no more entries have dots, so that they are seen below others.
_DOTS = 150


class ObservationFigure(Figure):
    """A Matplotlib figure that a notebook shows, whether pyplot was imported or not."""

    def _repr_png_(self) -> bytes:
        return png_of(self)


@dataclass(frozen=True, eq=False)
class ObservationPanels:
    """What is drawn of B observations, a row each.

    Attributes:
        labels: what is said of each, (B,).
        observed: y, (B, m), NaN where nothing was observed.
        fitted: A G(z), (B, m); NaN where it is not known.
        outputs: G(z), (B, n).
        observation, output: the pictures that these are drawn as, or None for curves.
        alike: whether an observation is of the output's own entries.
        sizes: of the errors, where they are known, (B, m), else None.
    """

    labels: Sequence[str]
    observed: Array
    fitted: Array
    outputs: Array
    observation: Shape | None
    output: Shape | None
    alike: bool
    sizes: Array | None = None

    @property
    def residual(self) -> Array:
        """y - A G(z), (B, m)."""
        return self.observed - self.fitted

    @property
    def observed_range(self) -> tuple[float, float]:
        """Least and largest values that the colours of observations stand for; of curves, the ends of the axis."""
        return value_range([self.observed] if self.observation is not None else [self.observed, self.fitted])

    @property
    def output_range(self) -> tuple[float, float]:
        """The same of outputs: that of the observations where these are entries of outputs."""
        return self.observed_range if self.alike else value_range([self.outputs], 0.5, 99.5)

    @property
    def residual_scale(self) -> float:
        """The largest residual, up to the whole range of the observations; 1 where there is none."""
        low, high = self.observed_range
        left = np.abs(self.residual)
        largest = float(np.max(left, where=np.isfinite(left), initial=0.0))
        return min(largest, high - low) or 1.0

    def figure(self, title: str) -> ObservationFigure:
        """The figure."""
        columns = self._columns()
        widths = [_LONG if curve else _PICTURE * _aspect(shape) for _, curve, shape in columns]
        height = _CURVE if any(curve for _, curve, _ in columns) else _PICTURE
        rows = len(self.labels)
        figure = ObservationFigure(
            figsize=(sum(widths) + _MARGIN + 0.6, height * rows + 0.7),
            layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04),
            dpi=100,
        )
        hidden = self.observation is not None and bool(np.isnan(self.observed).any())
        figure.suptitle(f"{title}; light blue was not observed" if hidden else title, fontsize=10)
        axes = figure.subplots(rows, len(columns), squeeze=False, width_ratios=widths)
        for (name, curve, _), column in zip(columns, axes.T, strict=True):
            column[0].set_title(self._heading(name, curve), fontsize=9)
            for i, ax in enumerate(column):
                getattr(self, f"_draw_{name}")(ax, i)
                if curve:
                    _as_curve(ax, last=i == rows - 1)
                else:
                    ax.set(xticks=[], yticks=[])
        for ax, label in zip(axes[:, 0], self.labels, strict=True):
            ax.set_ylabel(label, fontsize=_SMALL, rotation=0, ha="right", va="center", labelpad=8)
        if self.observation is not None:
            scale = self.residual_scale
            colours = ScalarMappable(Normalize(-scale, scale), DIVERGING)
            bar = figure.colorbar(colours, ax=axes[:, -1], shrink=0.9, fraction=0.1, aspect=12 * rows)
            bar.ax.tick_params(labelsize=_SMALL)
        return figure

    def _columns(self) -> list[tuple[str, bool, Shape | None]]:
        """Name, whether curves are drawn, and the picture's shape, of every column."""
        seen, made = self.observation, self.output
        middle = [] if self.alike and seen is None else [("reconstruction", made is None, made)]
        return [("observed", seen is None, seen), *middle, ("residual", seen is None, seen)]

    def _heading(self, name: str, curve: bool) -> str:
        measured = "G(z)" if self.alike else "A G(z)"
        if name == "residual":
            extra = f"y \N{MINUS SIGN} {measured}"
            if self.observation is not None and self.observation[0] > 1:
                return f"residual {extra}\nof the channel that is off most"
            return f"residual {extra}" + (", band: stated noise" if curve and self.sizes is not None else "")
        if curve:
            return f"observed, and {measured}" if name == "observed" else "reconstruction"
        low, high = self.observed_range if name == "observed" else self.output_range
        return f"{name}\nblack {number(low)}, white {number(high)}"

    def _draw_observed(self, ax: Axes, i: int) -> None:
        if self.observation is not None:
            ax.imshow(values(self.observed[i], self.observation, *self.observed_range), interpolation="nearest")
            return
        marker = "." if self.observed.shape[1] <= _DOTS else ""
        _plot_curve(ax, self.observed[i], _OBSERVED, "observed", 0.8, marker)
        _plot_curve(ax, self.fitted[i], _FITTED, "reconstruction" if self.alike else "A G(z)", 1.2)
        _limit(ax, *self.observed_range)
        if i == 0:
            ax.legend(fontsize=_SMALL - 1, loc="best", frameon=False)

    def _draw_reconstruction(self, ax: Axes, i: int) -> None:
        if self.output is not None:
            ax.imshow(values(self.outputs[i], self.output, *self.output_range), interpolation="nearest")
            return
        _plot_curve(ax, self.outputs[i], _FITTED, "reconstruction", 1.2)
        _limit(ax, *self.output_range)

    def _draw_residual(self, ax: Axes, i: int) -> None:
        left, scale = self.residual[i], self.residual_scale
        if self.observation is not None:
            ax.imshow(differences(left, self.observation, scale), interpolation="nearest")
            return
        if self.sizes is not None:
            sizes = np.where(np.isfinite(self.sizes[i]), self.sizes[i], np.nan)
            ax.fill_between(np.arange(len(left)), -sizes, sizes, color=HIDDEN, alpha=0.5, linewidth=0, step="mid")
        ax.axhline(0.0, color="black", linewidth=0.6)
        _plot_curve(ax, left, _LEFT, "residual", 0.8)
        _limit(ax, -scale, scale)


def png_of(figure: Figure, dpi: float | None = None) -> bytes:
    """The figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi or figure.dpi)
    return stream.getvalue()


def curve_thumbnail(curves: Sequence[tuple[Array, str]], ends: tuple[float, float]) -> bytes:
    """Curves (n,) in their colours, without axes, as a small PNG file."""
    figure = Figure(figsize=(1.4, 0.84), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    for y, colour in curves:
        _plot_curve(ax, y, colour, "", 0.8)
    _limit(ax, *ends)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return stream.getvalue()


def thumbnails(panels: ObservationPanels, i: int) -> list[bytes | npt.NDArray[np.uint8]]:
    """Observed, reconstruction and residual of one observation: pixels of pictures, PNG files of curves."""
    scale = panels.residual_scale
    if panels.observation is not None:
        seen: Any = values(panels.observed[i], panels.observation, *panels.observed_range)
        left: Any = differences(panels.residual[i], panels.observation, scale)
    else:
        seen = curve_thumbnail([(panels.observed[i], _OBSERVED)], panels.observed_range)
        left = curve_thumbnail([(panels.residual[i], _LEFT)], (-scale, scale))
    if panels.output is not None:
        made: Any = values(panels.outputs[i], panels.output, *panels.output_range)
    else:
        made = curve_thumbnail([(panels.outputs[i], _FITTED)], panels.output_range)
    return [seen, made, left]


def _aspect(shape: Shape | None) -> float:
    """Width over height of a picture, within bounds that keep a figure readable."""
    return 1.0 if shape is None else min(4.0, max(0.5, shape[2] / shape[1]))


def _plot_curve(ax: Axes, y: Array, colour: str, label: str, width: float, marker: str = "") -> None:
    """A curve with gaps where it is not known; entries alone between two gaps are dots."""
    known = np.isfinite(y)
    alone = known & ~np.r_[False, known[:-1]] & ~np.r_[known[1:], False]
    ax.plot(np.where(known, y, np.nan), color=colour, linewidth=width, label=label, marker=marker)
    if alone.any():
        ax.plot(np.flatnonzero(alone), y[alone], ".", color=colour, markersize=2)


def _limit(ax: Axes, low: float, high: float) -> None:
    room = 0.06 * (high - low)
    if math.isfinite(room) and room > 0:
        ax.set_ylim(low - room, high + room)


def _as_curve(ax: Axes, last: bool) -> None:
    ax.tick_params(labelsize=_SMALL, labelbottom=last)
    ax.margins(x=0.01)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if last:
        ax.set_xlabel("entry", fontsize=_SMALL)
