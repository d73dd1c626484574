"""Charts of a run as SVG, and its worst, median and best observations: observed, reconstructed, and their residual."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unrelu.display.answer_figures import picture_shape
from unrelu.display.observation_figure import ObservationPanels, PanelColumn
from unrelu.display.pixels import drawn_shape
from unrelu.result import Status
from unrelu.runs import Run
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.words import count, number

# The colours of bars for success and for others. The text colour of the page replaces the last colour.
_COLOURS, _INK = ("#2b83a5", "#c07f2a"), "#010203"
# The scale is linear if the middle nine tenths of the values are within this factor. On each side, the axis reaches
# beyond these nine tenths by at most their width.
_NARROW, _MIDDLE, _BARS = 10.0, (0.05, 0.95), 30
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "unrelu", "font.size": 8, **dict.fromkeys(_INKED, _INK)}


def svg(draw: Callable[[Axes], object], height: float, label: str) -> str:
    """Return the drawing of ``draw`` as SVG without an XML header; ``label`` is its text for screen readers."""
    stream, metadata = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        axis = figure.subplots()
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis)
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    text = stream.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def histogram(
    title: str, values: npt.NDArray[Any], good: Flags, kinds: Sequence[str], mark: tuple[float, str] | None = None
) -> dict[str, str]:
    """Draw a histogram of values (n,): bars of ``good`` values and of others, named by ``kinds``, and a ``mark`` line.

    The scale is logarithmic if the middle nine tenths of the values span more than a factor of 10. The first and the
    last bar include the values beyond the axis.
    """
    known = np.isfinite(values)
    caption = "" if known.all() else f" {count((~known).sum(), 'observation')} without a finite value, not drawn."
    if not known.any():
        return {"title": title, "svg": "", "caption": caption}
    drawn = np.asarray(values[known], dtype=np.float64)
    middle = np.quantile(drawn, _MIDDLE, method="inverted_cdf")
    log = bool(middle[0] > 0 and middle[1] > _NARROW * middle[0])
    least, most = np.log10(middle) if log else middle
    place, room = np.log10(np.maximum(drawn, 1e-300)) if log else drawn, (most - least) or 1e-3 * abs(most) or 1.0
    near = np.clip(place, least - room, most + room)
    first, last = near[near == place].min(), near[near == place].max()
    edges = np.linspace(first, max(last, first + 1e-6 * abs(first) + 1e-12), _BARS + 1)  # equal values are one bar
    bars = [np.histogram(np.clip(place[kind], edges[0], edges[-1]), edges)[0] for kind in (good[known], ~good[known])]
    edges = 10.0**edges if log else edges
    if beyond := (near != place).sum():
        ends = f"{number(drawn.min())} to {number(drawn.max())}"
        caption += f" {count(beyond, 'observation')} beyond the axis, in its first or last bar: values are {ends}."

    def draw(axis: Axes) -> None:
        axis.stairs(bars[0], edges, fill=True, color=_COLOURS[0], label=kinds[0])
        axis.stairs(bars[0] + bars[1], edges, baseline=bars[0], fill=True, color=_COLOURS[1], label=kinds[1])
        axis.set(xscale="log" if log else "linear", ylabel="observations")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        if mark is not None:
            axis.axvline(mark[0], color=_INK, linestyle="--", linewidth=1, label=mark[1])
        axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    picture = svg(draw, 2.0, f"Histogram of {title}: {count(len(drawn), 'observation')}")
    return {"title": title, "svg": picture, "caption": f"{'Logarithmic' if log else 'Linear'} scale.{caption}"}


def gallery(run: Run, scores: Array) -> list[dict[str, Any]]:
    """Return groups of observations to show: worst, median, best, each with title, panels and columns of pictures."""
    known = np.flatnonzero(np.isfinite(scores))
    order, middle = known[np.argsort(-scores[known], kind="stable")], len(known) // 2
    groups = {"Worst": order[:6], "Median": order[middle - 1 : middle + 2], "Best": order[:-4:-1]}
    groups = groups if len(known) > sum(map(len, groups.values())) else {"All, worst first": order}
    if not len(known):
        return []
    ends, found = _panels(run, run.indices[np.concatenate([*groups.values()])]).output_range, []
    for title, places in groups.items():
        panels = replace(_panels(run, run.indices[places]), ends=ends)
        shown = {"indices": run.indices[places].tolist(), "scores": scores[places].tolist()}
        found.append({"title": title, "panels": panels, "columns": panels.columns(), **shown})
    return found


def curve(column: PanelColumn, row: int, label: str) -> str:
    """Draw the curves of one observation as SVG."""
    return svg(partial(column.draw, i=row), 1.2, f"{label}: a curve of {column.curves[0].values.shape[1]} entries")


def _panels(run: Run, shown: Index) -> ObservationPanels:
    """Return the panels of some observations. y is restored as the sum of fit and residual."""

    def read(name: str) -> npt.NDArray[Any]:
        return np.concatenate([run.read(name, i, i + 1) for i in shown.tolist()])

    outputs, residual, alike = read("reconstructions"), read("residuals"), not run.manifest["predictions"]
    fitted = outputs if alike else read("predictions")
    spread = np.full(outputs.shape, np.nan)
    if run.mixed is not None:
        mixed = read("posterior_status") == Status.MIXED.name
        spread[mixed] = read("reconstruction_std")[mixed]
    shape, arrays = residual.shape[1:], (residual, fitted, outputs, spread)
    left, fit, made, deviations = (array.reshape(len(shown), -1).astype(np.float64) for array in arrays)
    explicit = drawn_shape(shape) if sum(n > 1 for n in shape) > 1 else None
    output = picture_shape(outputs.shape[1:], made, None) or (explicit if alike else None)
    observation = explicit or (output if alike else None)
    return ObservationPanels([], left + fit, fit, made, observation, output, alike, deviations=deviations)
