"""The picture of the benchmark of proofs: bounds closing over time, and our seconds against those of HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from unrelu_studies.benchmarks.certify import Proved

# A colour and marker a cell, distinguishable without colour vision (Okabe and Ito).
_STYLES = (
    ("#56b4e9", "v"), ("#009e73", "^"), ("#0072b2", "o"), ("#e69f00", "s"), ("#d55e00", "D"), ("#000000", "x"),
)  # fmt: skip
_GREY = "0.45"


def draw(observations: Sequence[Proved], machine: dict[str, Any]) -> Figure:
    """Two panels: bounds of a few observations over time; a dot for every observation that HiGHS got too."""
    cells = list(dict.fromkeys(p.cell for p in observations))
    styles = {cell: _STYLES[i % len(_STYLES)] for i, cell in enumerate(cells)}
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bounds(left, shown(observations), styles)
    _scatter(right, observations, styles)
    handles = [
        right.plot([], [], marker, color=color, linestyle="", markersize=6, label=f"noise {cell}")[0]
        for cell, (color, marker) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, handletextpad=0.2)
    figure.supxlabel(
        "(a) dot: proved, cross: stopped at the limit; (b) hollow: HiGHS was stopped at its limit\n"
        f"one core, {machine['processor']}, highspy {machine['highspy']}",
        fontsize=8,
        color=_GREY,
    )
    return figure


def shown(observations: Sequence[Proved], count: int = 3) -> list[Proved]:
    """Those whose bounds are drawn: of the slowest ones of each cell, the slowest cells; an open one is among them."""
    slowest: dict[str, Proved] = {}
    for p in observations:
        if len(p.history) > 1 and (p.cell not in slowest or p.seconds > slowest[p.cell].seconds):
            slowest[p.cell] = p
    chosen = sorted(slowest.values(), key=lambda p: -p.seconds)[:count]
    left_open = [p for p in observations if not p.closed]
    worst = max(left_open, key=lambda p: p.gap, default=None)
    return chosen if worst is None or worst in chosen else [*chosen, worst]


def _bounds(axis: Axes, chosen: Sequence[Proved], styles: dict[str, tuple[str, str]]) -> None:
    begin = min((p.history[0][0] for p in chosen), default=1e-2)
    for p in chosen:
        color = styles[p.cell][0]
        seconds, lower, upper = (list(column) for column in zip(*p.history, strict=True))
        # The last bounds hold until it ended.
        seconds.append(max(seconds[-1], p.seconds))
        below = [value / p.upper for value in (*lower, lower[-1])]
        above = [value / p.upper for value in (*upper, upper[-1])]
        axis.step(seconds, below, where="post", color=color, linewidth=1.8)
        axis.step(seconds, above, where="post", color=color, linewidth=1.8, linestyle=(0, (4, 1.5)))
        axis.fill_between(seconds, below, above, step="post", color=color, alpha=0.08, linewidth=0)
        axis.plot(seconds[-1], below[-1], "o" if p.closed else "x", color=color, markersize=6, zorder=3)
    axis.set_xscale("log")
    axis.set_xlim(left=begin / 1.3)
    axis.set_xlabel("seconds")
    axis.set_ylabel("bound / smallest error known")
    axis.set_title("(a) lower (solid) and upper bound (dashed)", fontsize=10)
    _finish(axis)


def _scatter(axis: Axes, observations: Sequence[Proved], styles: dict[str, tuple[str, str]]) -> None:
    pairs = [(p, p.mip) for p in observations if p.mip is not None]
    for p, run in pairs:
        color, marker = styles[p.cell]
        filled = run.solved or marker == "x"
        axis.plot(p.seconds, run.seconds, marker, color=color, markersize=6, markeredgewidth=1.2, alpha=0.85,
                  markerfacecolor=color if filled else "none", zorder=3)  # fmt: skip
    every = [seconds for p, run in pairs for seconds in (p.seconds, run.seconds)]
    low, high = min(every, default=0.01) / 1.6, max(every, default=10.0) * 1.6
    for factor, style, label in ((1, "-", "equal"), (5, "--", "5 times")):
        axis.plot([low, high], [factor * low, factor * high], style, color=_GREY, linewidth=1, zorder=1)
        x = low * 25
        axis.annotate(label, (x, factor * x), xytext=(6, -3), textcoords="offset points", fontsize=8, color=_GREY)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_xlabel("processor seconds, ours")
    axis.set_ylabel("processor seconds, HiGHS")
    axis.set_title("(b) the same observations", fontsize=10)
    axis.yaxis.set_major_locator(LogLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axis)


def _finish(axis: Axes) -> None:
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(which="major", color="0.9", zorder=0)
    axis.tick_params(length=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
