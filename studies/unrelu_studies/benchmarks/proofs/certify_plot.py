"""The picture of the benchmark of proofs: bounds closing over time, and our seconds against those of HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu.certification.proof import GAP
from unrelu_studies.kit.picture_style import Style, footer, legend, panels, tidy

Proved = dict[str, Any]

# A cell each.
_STYLES = (
    Style("#56b4e9", "v"), Style("#009e73", "^"), Style("#0072b2", "o"), Style("#e69f00", "s"), Style("#d55e00", "D"),
    Style("#000000", "x"),
)  # fmt: skip
_GREY = "0.45"


def draw_proofs(results: dict[str, Any]) -> Figure:
    """Two panels: bounds of a few observations over time; a dot for every observation that HiGHS got too."""
    observations, machine = results["observations"], results["machine"]
    cells = dict.fromkeys(p["cell"] for p in observations)
    styles = dict(zip(cells, _STYLES, strict=False))
    figure, (left, right) = panels(1, 2, height=3.4)
    _bounds(left, shown(observations), styles)
    _scatter(right, observations, styles)
    for cell, style in styles.items():
        right.plot([], [], style.marker, color=style.color, markersize=5, label=f"noise {cell}")
    legend(figure, right, 3)
    footer(
        figure,
        "(a) dot: proved, cross: stopped at the limit; (b) hollow: HiGHS was stopped at its limit\n"
        f"one core, {machine['processor']}, highspy {machine['highspy']}",
    )
    return figure


def shown(observations: Sequence[Proved], count: int = 3) -> list[Proved]:
    """Those whose bounds are drawn: of the slowest ones of each cell, the slowest cells; an open one is among them."""
    slowest: dict[str, Proved] = {}
    for p in observations:
        if len(p["history"]) > 1 and (p["cell"] not in slowest or p["seconds"] > slowest[p["cell"]]["seconds"]):
            slowest[p["cell"]] = p
    chosen = sorted(slowest.values(), key=lambda p: -float(p["seconds"]))[:count]
    left_open = [p for p in observations if not _closed(p)]
    worst = max(left_open, key=lambda p: float(p["gap"]), default=None)
    return chosen if worst is None or worst in chosen else [*chosen, worst]


def _closed(p: Proved) -> bool:
    return bool(p["verified"] and p["gap"] <= GAP)


def _bounds(axis: Axes, chosen: Sequence[Proved], styles: dict[str, Style]) -> None:
    for p in chosen:
        color = styles[p["cell"]].color
        seconds, lower, upper = (list(column) for column in zip(*p["history"], strict=True))
        # The last bounds hold until it ended.
        seconds.append(max(seconds[-1], p["seconds"]))
        below = [value / p["upper"] for value in (*lower, lower[-1])]
        above = [value / p["upper"] for value in (*upper, upper[-1])]
        axis.step(seconds, below, where="post", color=color, linewidth=1.6)
        axis.step(seconds, above, where="post", color=color, linewidth=1.6, linestyle=(0, (4, 1.5)))
        axis.fill_between(seconds, below, above, step="post", color=color, alpha=0.08, linewidth=0)
        axis.plot(seconds[-1], below[-1], "o" if _closed(p) else "x", color=color, markersize=5, zorder=3)
    title = "(a) lower (solid) and upper bound (dashed)"
    tidy(axis, "seconds", "bound / smallest error known", title, log="x")
    axis.set_xlim(left=min((p["history"][0][0] for p in chosen), default=1e-2) / 1.3)


def _scatter(axis: Axes, observations: Sequence[Proved], styles: dict[str, Style]) -> None:
    pairs = [(p, p["mip"]) for p in observations if p["mip"] is not None]
    for p, run in pairs:
        style = styles[p["cell"]]
        filled = run["status"] == "OPTIMAL" or style.marker == "x"
        axis.plot(p["seconds"], run["seconds"], style.marker, color=style.color, markersize=5, markeredgewidth=1.1,
                  alpha=0.85, markerfacecolor=style.color if filled else "none", zorder=3)  # fmt: skip
    every = [seconds for p, run in pairs for seconds in (p["seconds"], run["seconds"])]
    low, high = min(every, default=0.01) / 1.6, max(every, default=10.0) * 1.6
    for factor, dashes, label in ((1, "-", "equal"), (5, "--", "5 times")):
        axis.plot([low, high], [factor * low, factor * high], dashes, color=_GREY, linewidth=1, zorder=1)
        x = low * 25
        axis.annotate(label, (x, factor * x), (6, -3), textcoords="offset points", fontsize=7, color=_GREY)
    tidy(axis, "processor seconds, ours", "processor seconds, HiGHS", "(b) the same observations", log="xy")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
