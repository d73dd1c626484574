"""The picture of the search benchmark: how often a code as good as the true one was found, against the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from unrelu_studies.benchmarks.search import METHODS, SearchOutcome
from unrelu_studies.benchmarks.search_cells import RANDOM, ZOO

# Colour, marker and whether it is filled; distinguishable without colour vision. Hollow ones show what they lie on.
_STYLES = {
    "auto": ("#0072b2", "o", True),
    "auto, noise known": ("#0072b2", "D", False),
    "lm x10": ("#d55e00", "s", True),
    "adam x10": ("#009e73", "^", False),
}
_RANDOM_NETS = "random nets"


def draw(outcomes: Sequence[SearchOutcome], machine: dict[str, Any]) -> Figure:
    """A panel for each generator of the zoo and one for the random nets: success against milliseconds, a dot a cell."""
    panels = {name: [o for o in outcomes if o.generator == name] for name in ZOO}
    panels[_RANDOM_NETS] = [o for o in outcomes if o.generator in RANDOM]
    panels = {name: group for name, group in panels.items() if group}
    figure = Figure(figsize=(max(5.0, 1 + 1.75 * len(panels)), 3.5), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (name, group) in zip(axes, panels.items(), strict=True):
        for method in METHODS:
            chosen = [o for o in group if o.method == method]
            if chosen:
                axis.add_line(_dots([o.milliseconds for o in chosen], [100 * o.success for o in chosen], method))
        _finish(axis, name)
    axes[0].set_ylim(-3, 103)
    axes[0].yaxis.set_major_locator(FixedLocator((0, 25, 50, 75, 100)))
    axes[0].set_ylabel("success, %")
    figure.legend(
        handles=[_dots([], [], method) for method in METHODS],
        loc="outside upper center",
        ncols=len(METHODS),
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.1,
    )
    text = f"a dot: one measurement and noise level, up to {max(o.instances for o in outcomes)} observations"
    figure.supxlabel(f"{text}\none core, {machine['processor']}", fontsize=8, color="0.35")
    return figure


def _dots(milliseconds: list[float], successes: list[float], method: str) -> Line2D:
    color, marker, filled = _STYLES[method]
    return Line2D(
        milliseconds,
        successes,
        linestyle="",
        marker=marker,
        markersize=5.5 if filled else 5,
        markerfacecolor=color if filled else "none",
        markeredgecolor="white" if filled else color,
        markeredgewidth=0.5 if filled else 1,
        alpha=0.85,
        label=method,
        clip_on=False,  # dots on the rim are drawn whole
        zorder=3,
    )


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xscale("log")
    axis.margins(x=0.08)
    axis.autoscale_view()
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("ms an observation")
    axis.grid(which="major", color="0.9", zorder=0)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
