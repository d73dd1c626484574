"""Certificates for people to look at: what those of a folder say together, and pictures of how their bounds met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from unrelu.certification.certificate import Certificate
from unrelu.certification.proof import ProofStatus
from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_json_lines

# Bytes of a line; a box takes 50 for each latent coordinate.
_LINE = 2**24
# What the page needs of a line.
_NAMES = ("status", "norm", "lower", "upper", "gap", "radius", "out_of_range")
# Distinguishable without colour vision. In one picture there are as many observations at most.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def certificates(folder: Path) -> dict[str, Any] | None:
    """What the page says of ``certificates.jsonl``, which ``unrelu certify`` writes; None where there is none."""
    path = folder / "certificates.jsonl"
    if not path.exists():
        return None
    lines = list(read_json_lines(path, _LINE, folder))
    rows = [line for line in lines if isinstance(line, dict) and line.keys() >= set(_NAMES)]
    counted = Counter(str(row["status"]) for row in rows)
    return {
        "size": len(rows),
        "statuses": [
            {"name": name, "kind": "", "meaning": meaning(ProofStatus, name), "size": n}
            for name, n in counted.most_common()
        ],
        "norms": ", ".join(sorted({str(row["norm"]) for row in rows})),
        "lower": _median(rows, "lower"),
        "upper": _median(rows, "upper"),
        "gap": _median(rows, "gap"),
        "out_of_range": sum(bool(row["out_of_range"]) for row in rows),
        "confined": sum(row["radius"] is not None for row in rows),  # an infinite radius is null in JSON
        "bounded": sum(row.get("bounds") is not None for row in rows),
        "damaged": len(lines) - len(rows),
    }


def _median(rows: list[dict[str, Any]], name: str) -> float:
    known = [row[name] for row in rows if isinstance(row[name], int | float)]
    return float(np.median(known)) if known else float("nan")


def meaning(statuses: type[Enum], name: str) -> str:
    """What a status says, by its name in a file."""
    return str(statuses[name].value) if name in statuses.__members__ else "of another version of unrelu"


def draw_bounds(certificates: Sequence[Certificate]) -> Figure:
    """Lower and upper bounds over time, as shares of the final upper bound: those that took longest, up to six."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = sorted(range(len(certificates)), key=lambda i: -certificates[i].seconds)[: len(_COLORS)]
    for color, i in zip(_COLORS, sorted(shown), strict=False):
        ended = certificates[i].status.name.lower().replace("_", " ")
        _bounds(axis, certificates[i], color, f"observation {i}: {ended}")
    axis.axhline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    # All of the way up; a tenth where bounds have met at once.
    low, high = axis.get_ylim()
    axis.set_ylim(bottom=min(0.9, low), top=max(1.01, high))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set(xlabel="seconds", ylabel="bounds / smallest error found")
    axis.grid(color="0.92", zorder=0)
    bounded = any(c.bounds is not None for c in certificates)
    among = "codes within their bounds" if bounded else "all codes"
    _finish(axis, f"upper (thin) and lower (thick) bounds of the smallest error over {among}")
    return figure


def _bounds(axis: Axes, certificate: Certificate, color: str, label: str) -> None:
    scale = certificate.upper or 1.0
    moments: list[Any] = [*certificate.history, certificate]  # which has the last bounds
    seconds = [max(moment.seconds, 1e-3) for moment in moments]
    lower = [moment.lower / scale for moment in moments]
    axis.step(seconds, lower, where="post", color=color, linewidth=2, label=label)
    axis.step(seconds, [moment.upper / scale for moment in moments], where="post", color=color, linewidth=0.8)
    axis.plot(seconds[-1], lower[-1], "o", color=color, markersize=4)


def _finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9, loc="left")
    axis.figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    axis.spines[["top", "right"]].set_visible(False)


def draw_box(certificate: Certificate, name: str = "") -> Figure:
    """The interval of every latent coordinate that holds all codes within the stated noise, and the best code.

    Args:
        certificate: one with a box.
        name: what the title begins with, such as the observation's.

    Raises:
        InputError: the certificate has no box.
    """
    if certificate.box is None:
        raise InputError("the certificate has no box: state noise='uniform:A' when certifying")
    k = certificate.z.size
    figure = Figure(figsize=(5.5, 1.2 + 0.2 * k), layout="constrained")
    axis = figure.subplots()
    place = np.arange(1, k + 1)
    low, high = certificate.box.reshape(k, 2).T
    if (low > high).any():
        title = f"no code explains the observation within {certificate.eps:g}: the box is empty"
    else:
        axis.hlines(place, low, high, color=_COLORS[0], linewidth=5, alpha=0.5)
        title = f"every code with errors up to {certificate.eps:g} is inside"
    if certificate.bounds is not None:
        title += "\n(among codes within their bounds)"
    if np.isfinite(certificate.radius):
        title += f"\n(among codes with |z_i| <= {certificate.radius:g})"
    axis.plot(certificate.z.reshape(k), place, "o", color=_COLORS[1], markersize=4, label="best code")
    axis.set(yticks=place, ylim=(k + 0.7, 0.3), xlabel="value", ylabel="latent coordinate")
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", color="0.92", zorder=0)
    _finish(axis, f"{name}: {title}" if name else title)
    return figure
