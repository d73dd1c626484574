"""Histograms and curves as SVG that stands in a page: its text is text, in the colour of the page's."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.words import count, number

# The colours of bars with success and of others, of curves, and one that the page's own replaces.
_GOOD, _OTHER, _INK = "#2b83a5", "#c07f2a", "#010203"
COLOURS = {"observed": "#808080", "fit": _GOOD, "difference": "#c0453a", "standard deviation": "#808080"}
# Values of which nine tenths are within a factor of this have a linear scale; an axis reaches beyond these nine tenths
# at most by their width.
_NARROW, _MIDDLE = 10.0, (0.05, 0.95)
_MOST_BARS, _POINTS = 40, 600
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unrelu",
    "font.size": 8,
    "font.family": "sans-serif",
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)


def histogram(
    title: str, unit: str, values: npt.NDArray[Any], success: Flags | None = None, what: str = "observation",
    kinds: Sequence[str] = (), mark: tuple[float, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Count values (n,), stacked by ``success``, whose ``kinds`` are named, with a line at ``mark`` and its label.

    The scale is logarithmic if the middle nine tenths of the values spread over more than a factor of 10. What no bar
    has is counted in the caption: outliers, zeros on a logarithmic scale, NaN.
    """
    known = np.isfinite(values)
    shown = values[known & (values != 0)]
    low, high = np.quantile(shown, _MIDDLE, method="inverted_cdf") if shown.size else (1.0, 1.0)
    log = bool(shown.size and shown.min() > 0 and high > _NARROW * low)
    drawn = known & (values != 0) if log else known
    place = np.log10 if log else np.asarray
    at = np.asarray(place(values[drawn]), dtype=np.float64)
    caption = [f"{unit[0].upper()}{unit[1:]}, {'logarithmic' if log else 'linear'} scale."]
    found: dict[str, Any] = {"title": title, "svg": ""}
    if at.size:
        first, last = np.quantile(at, _MIDDLE, method="inverted_cdf")
        room = (last - first) or math.inf
        inside = (at >= first - room) & (at <= last + room)
        start, end = float(at[inside].min()), float(at[inside].max())
        wider = max(0.0, (1e-3 * abs(end) or 1.0) - (end - start)) / 2  # bars of nearly equal values
        bars = min(_MOST_BARS, max(8, round(2 * math.sqrt(inside.sum()))))
        edges = np.linspace(start - wider, end + wider, bars + 1)
        edges = np.asarray(10.0**edges if log else edges)
        won = np.ones(len(at), dtype=bool) if success is None else success[drawn]
        label = f"Histogram of {title}: {count(len(at), what)} from {number(edges[0])} to {number(edges[-1])}"
        with matplotlib.rc_context(_STYLE):
            figure, axis = _canvas(2.0)
            parts = [np.clip(values[drawn][inside & chosen], edges[0], edges[-1]) for chosen in (won, ~won)]
            axis.hist(parts, edges, stacked=True, color=[_GOOD, _OTHER], label=list(kinds) or None, rwidth=0.9)
            axis.set_xscale("log" if log else "linear")
            axis.yaxis.get_major_locator().set_params(integer=True)
            axis.set_ylabel(f"{what}s")
            if mark is not None and 0 < mark[0] < math.inf:
                axis.axvline(mark[0], color=_INK, linestyle="--", linewidth=1, label=mark[1])
            if kinds or mark:
                axis.legend(fontsize=8, frameon=False)
            found["svg"] = _svg(figure, label)
        if beyond := int((~inside).sum()):
            ends = at[~inside].min(), at[~inside].max()
            least, most = (number(float(10.0**end if log else end)) for end in ends)
            where = f"at {least}" if least == most else f"from {least} to {most}"
            caption.append(f"{count(beyond, what)} beyond the axis, {where}.")
    if zeros := int((known & ~drawn).sum()):
        caption.append(f"{count(zeros, what)} at exactly 0, not drawn.")
    if unknown := int((~known).sum()):
        caption.append(f"{count(unknown, what)} without a finite value, not drawn.")
    return found | {"caption": " ".join(caption)}


def curves(label: str, arrays: dict[str, Array], ends: tuple[float, float]) -> str:
    """Curves, (n,) each, by name, between two values; of long ones the extremes of every piece."""
    with matplotlib.rc_context(_STYLE):
        figure, axis = _canvas(1.1)
        for name, values in arrays.items():
            places = _extremes(values)
            axis.plot(places, values[places], color=COLOURS[name], linewidth=1)
        axis.set_ylim(*ends)
        return _svg(figure, label)


def _canvas(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.4, height), layout="constrained")
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Figure, label: str) -> str:
    """The figure without its XML header, with a text for those who do not see it."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _extremes(values: Array) -> npt.NDArray[np.intp]:
    """Places that keep the look of a long curve: in every piece, those of the least and the largest value."""
    if len(values) <= _POINTS:
        return np.arange(len(values))
    filled = np.where(np.isfinite(values), values, 0.0)
    pieces = np.array_split(np.arange(len(values)), _POINTS // 2)
    kept = [piece[[filled[piece].argmin(), filled[piece].argmax()]] for piece in pieces]
    return np.unique(np.concatenate([[0, len(values) - 1], *kept]))
