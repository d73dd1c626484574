"""The picture of the layer benchmark: every instance as a dot, medians and quartiles on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from unrelu_studies.benchmarks.instances import CASES, PROGRAMS, TimedProgram
from unrelu_studies.benchmarks.layers import LayerRecord, select
from unrelu_studies.benchmarks.summary import Quartiles, short

# One colour and marker a program; distinguishable without colour vision.
_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))
_PANELS = (
    ("linprog", "times faster than scipy.optimize.linprog"),
    ("highs", "times faster than HiGHS, dual program"),
    ("cvxopt", "times faster than cvxopt"),
    ("cholesky", "cost in Cholesky least squares"),
)
# Distance of the programs of one layer, in layers.
_STEP = 0.27


def draw(records: Sequence[LayerRecord], machine: dict[str, Any]) -> Figure:
    """Panels with log axes: ours against linprog, HiGHS on the dual program, cvxopt if installed, and least squares."""
    cases = [case for case in CASES if any(r.layer == case.name for r in records)]
    panels = [panel for panel in _PANELS if any(r.ratio(panel[0]) is not None for r in records)]
    figure = Figure(figsize=(4 * len(panels), 1.6 + 0.95 * len(cases)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (solver, label) in zip(axes, panels, strict=True):
        for row, case in enumerate(cases):
            for turn, program in enumerate(PROGRAMS):
                group = select(records, case, program)
                values = [value for r in group if (value := r.ratio(solver)) is not None]
                if values:
                    _mark(axis, row + (turn - 1) * _STEP, values, program)
        _finish(axis, label)
    axes[0].set_yticks(range(len(cases)), [case.name for case in cases])
    axes[0].set_ylim(len(cases) - 0.5, -0.5)
    handles = [
        axes[0].plot([], [], marker, color=color, label=program.name)[0]
        for (color, marker), program in zip(_STYLES, PROGRAMS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(PROGRAMS), frameon=False)
    count = len(select(records, cases[0], PROGRAMS[0]))
    figure.supxlabel(
        f"{count} instances each (dots), their median (symbol, number) and quartiles (bar); "
        f"one thread, {machine['processor']}, SciPy {machine['scipy']}, highspy {machine['highspy']}",
        fontsize=8,
        color="0.35",
    )
    return figure


def _mark(axis: Axes, y: float, values: list[float], program: TimedProgram) -> None:
    """All values faintly, their quartiles as a bar, their median as a marker with its number."""
    color, marker = _STYLES[PROGRAMS.index(program)]
    q = Quartiles.of(values)
    axis.plot(values, [y] * len(values), ".", color=color, alpha=0.25, markersize=4, markeredgewidth=0)
    axis.plot([q.lower, q.upper], [y, y], "-", color=color, linewidth=2)
    axis.plot([q.median], [y], marker, color=color, markersize=6)
    axis.annotate(
        short(q.median),
        (max(values), y),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )


def _finish(axis: Axes, label: str) -> None:
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    # Room for the numbers on the right; equal speed is always in the picture.
    axis.set_xlim(min(low, 0.8), max(high, 1.0) * (max(high, 1.0) / min(low, 0.8)) ** 0.12)
    axis.axvline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(high, 1.0) / min(low, 0.8) < 100 else (1.0,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(label)
    axis.grid(axis="x", which="major", color="0.9", zorder=0)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
