"""The style of all pictures: colours and marks of methods, dots with medians, axes; readable at a column's width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from unrelu.runtime.streams import stream

Drawn = TypeVar("Drawn")

# Inches: one column, and two, of a paper.
COLUMN, PAGE = 3.5, 7.2


@dataclass(frozen=True)
class Style:
    """How a method is drawn everywhere: a colour and a marker that tell it without colour vision.

    Wide lines lie below narrow ones, so that methods which coincide are all seen.
    """

    color: str
    marker: str
    line: str = "-"
    width: float = 1.3


# The palette of Okabe and Ito.
STYLES = {
    "linf": Style("#0072b2", "o"),
    "l1": Style("#e69f00", "s"),
    "relaxed": Style("#cc79a7", "v"),
    "least_squares": Style("#56b4e9", "<"),
    "exact": Style("#56b4e9", "<"),
    "GD": Style("#d55e00", "x"),
    "GD, trained": Style("#d55e00", "x"),
    "GD, 10,000 steps": Style("#d55e00", "+", "--"),
    "adam": Style("#7f7f7f", "P", "--"),
    "lm": Style("#8c6bb1", "D"),
    "auto": Style("#009e73", "^", width=3.0),
    "auto, prior": Style("#000000", "*", "--"),
    "projected": Style("#cc79a7", "v"),
    "projected, filling": Style("#e69f00", "s", "--"),
    "projected, lm": Style("#56b4e9", "<"),
    "oracle": Style("#000000", "", ":", 1.0),
}


def panels(
    rows: int = 1, columns: int = 1, width: float | None = None, height: float = 2.7
) -> tuple[Figure, list[Axes]]:
    """A figure with its panels in reading order; text as small as a paper's captions."""
    figure = Figure(figsize=(width or (COLUMN if columns == 1 else PAGE), height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    return figure, list(axes)


def save(draw: Callable[[Drawn], Figure], numbers: Drawn, folder: Path, name: str) -> tuple[Path, Path]:
    """Draw ``NAME.png`` and ``NAME.svg``; without date and random names, equal numbers give equal files."""
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    with rc_context({"svg.hashsalt": name}):
        figure = draw(numbers)
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], dpi=200, metadata={"Date": None})
    return paths


def cloud(
    axis: Axes, x: Sequence[float], values: Sequence[npt.NDArray[np.float64]], label: str, place: float = 0.0,
    style: Style | None = None,
) -> None:  # fmt: skip
    """Every run as a dot and the medians as a line, on a logarithmic x axis.

    Args:
        axis: where.
        x: one value a group.
        values: the runs of each group.
        label: of the legend, and of :data:`STYLES`.
        place: how far the dots are moved to the right, in decades, so that methods do not hide each other.
        style: if it is not that of the label.
    """
    style = style or STYLES[label]
    if style.marker:
        for at, group in zip(x, values, strict=True):
            # A fixed spread: the same numbers give the same picture.
            spread = np.linspace(-0.035, 0.035, len(group))[np.argsort(stream("jitter").random(len(group)))]
            axis.plot(
                at * 10 ** (place + spread), group, ".", color=style.color, markersize=1.6, markeredgewidth=0,
                alpha=0.35, rasterized=True, zorder=2,
            )  # fmt: skip
    medians = [float(np.median(group)) for group in values]
    line(axis, x, medians, label, style)


def line(
    axis: Axes, x: Sequence[float], y: Sequence[float], label: str, style: Style | None = None, width: float = 0.0
) -> None:  # fmt: skip
    """A line through one marked point a group; ``width`` if it is not that of the style."""
    style = style or STYLES[label]
    width = width or style.width
    thin = style.marker in ("x", "+")
    axis.plot(
        x, y, style.line, marker=style.marker, color=style.color, label=label.removesuffix(", trained"),
        linewidth=width, markersize=3.2 + width / 1.6, markeredgecolor=style.color if thin else "white",
        markeredgewidth=1.0 if thin else 0.5, zorder=4 - 0.1 * width,
    )  # fmt: skip


def tidy(axis: Axes, xlabel: str, ylabel: str, title: str = "", log: str = "") -> None:
    """Labels, sparse ticks, a light grid. ``log`` names the logarithmic axes: "x", "y" or "xy"."""
    for name, ax in (("x", axis.xaxis), ("y", axis.yaxis)):
        if name in log:
            (axis.set_xscale if name == "x" else axis.set_yscale)("log")
            ax.set_major_locator(LogLocator(numticks=12))
            ax.set_minor_locator(NullLocator())
            ax.set_major_formatter(FuncFormatter(power))
    axis.set_xlabel(xlabel, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    if title:
        axis.set_title(title, fontsize=8, loc="left")
    axis.tick_params(length=2, labelsize=7)
    axis.grid(which="major", color="0.92", linewidth=0.6, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def decades(axis: Axis, values: Sequence[float]) -> None:
    """Let a logarithmic axis begin and end at powers of ten around the values, so that it has labels at its ends."""
    low, high = np.log10(min(values)), np.log10(max(values))
    limits = 10 ** np.floor(low - 0.02), 10 ** np.ceil(high + 0.02)
    (axis.axes.set_ylim if axis is axis.axes.yaxis else axis.axes.set_xlim)(*limits)


def power(value: float, _: object = None) -> str:
    """A power of ten as such, other numbers plainly."""
    exponent = np.log10(value) if value > 0 else np.nan
    if np.isfinite(exponent) and abs(exponent - round(exponent)) < 1e-9 and not 0 <= round(exponent) <= 2:
        return f"$10^{{{round(exponent)}}}$"
    return f"{value:g}"


def legend(figure: Figure | SubFigure, axis: Axes, columns: int = 3) -> None:
    """The methods once, above the panels; entries that several panels share appear once."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=columns, fontsize=7, frameon=False, columnspacing=1.2,
        handlelength=1.8, handletextpad=0.8,
    )  # fmt: skip


def grid_of_images(
    images: Sequence[Sequence[npt.NDArray[np.float64] | None]], rows: Sequence[str], columns: Sequence[str],
    width: float = PAGE, low: float = 0.0, high: float = 1.0, below: float = 0.0,
) -> tuple[Figure, SubFigure | None]:  # fmt: skip
    """Pictures in rows and columns with a label each; NaN pixels are light blue, what is None stays empty.

    A label of a column may be longer than the column is wide, if those of the next ones are empty.

    Args:
        images: arrays (height, width), a row of the picture each.
        rows, columns: the labels.
        width: of the figure, inches.
        low, high: the pixel values that are white and black.
        below: inches to leave under the grid.

    Returns:
        The figure, and the part of it under the grid, if there is one.
    """
    size = min((width - 0.9) / len(columns), 0.8)
    height = size * len(images) + 0.35
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(width, height + below), layout=tight)
    parts = figure.subfigures(2 if below else 1, 1, squeeze=False, height_ratios=(height, below) if below else None)
    axes = parts[0, 0].subplots(len(images), len(columns), squeeze=False)
    for line, pictures, label in zip(axes, images, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.xaxis.set_major_locator(FixedLocator([]))
            axis.yaxis.set_major_locator(FixedLocator([]))
            for side in axis.spines.values():
                side.set_linewidth(0.4)
                side.set_color("0.8")
            if picture is None:
                axis.set_axis_off()
                continue
            axis.set_facecolor("#9ecae1")
            axis.imshow(picture, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        line[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    for axis, label in zip(axes[0], columns, strict=True):
        axis.set_title(" ", fontsize=7)  # the room for the label, which is not to widen its column
        axis.annotate(
            label, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=7
        ).set_in_layout(False)
    return figure, parts[1, 0] if below else None
