"""Pictures of certificates: how the bounds met, and where the code must lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from unrelu.certification.certificate import Certificate
from unrelu.errors import InputError

# Distinguishable without colour vision.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# At most so many observations in one picture.
_MOST = len(_COLORS)


def draw_bounds(certificates: Sequence[Certificate]) -> Figure:
    """Lower and upper bounds over time, as shares of the final upper bound: those that took longest, up to six."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = sorted(range(len(certificates)), key=lambda i: -certificates[i].seconds)[:_MOST]
    for color, i in zip(_COLORS, sorted(shown), strict=False):
        _bounds(
            axis, certificates[i], color, f"observation {i}: {certificates[i].status.name.lower().replace('_', ' ')}"
        )
    axis.axhline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    # All of the way up; a tenth where bounds have met at once.
    low, high = axis.get_ylim()
    axis.set_ylim(bottom=min(0.9, low), top=max(1.01, high))
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("seconds")
    axis.set_ylabel("bounds / smallest error found")
    axis.set_title("upper (thin) and lower (thick) bounds of the smallest error over all codes", fontsize=9, loc="left")
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    axis.grid(color="0.92", zorder=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


def _bounds(axis: Axes, certificate: Certificate, color: str, label: str) -> None:
    scale = certificate.upper or 1.0
    moments = certificate.history
    seconds = [max(moment.seconds, 1e-3) for moment in moments] + [max(certificate.seconds, 1e-3)]
    lower = [moment.lower / scale for moment in moments] + [certificate.lower / scale]
    upper = [moment.upper / scale for moment in moments] + [certificate.upper / scale]
    axis.step(seconds, lower, where="post", color=color, linewidth=2, label=label)
    axis.step(seconds, upper, where="post", color=color, linewidth=0.8)
    axis.plot(seconds[-1], lower[-1], "o", color=color, markersize=4)


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
    k = len(certificate.z)
    figure = Figure(figsize=(5.5, 1.2 + 0.2 * k), layout="constrained")
    axis = figure.subplots()
    place = np.arange(1, k + 1)
    low, high = certificate.box.T
    if (low > high).any():
        title = f"no code explains the observation within {certificate.eps:g}: the box is empty"
    else:
        axis.hlines(place, low, high, color=_COLORS[0], linewidth=5, alpha=0.5)
        title = f"every code with errors up to {certificate.eps:g} is inside"
    if np.isfinite(certificate.radius):
        title += f"\n(among codes with |z_i| <= {certificate.radius:g})"
    axis.set_title(f"{name}: {title}" if name else title, fontsize=9, loc="left")
    axis.plot(certificate.z, place, "o", color=_COLORS[1], markersize=4, label="best code")
    axis.set_yticks(place)
    axis.set_ylim(k + 0.7, 0.3)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("value")
    axis.set_ylabel("latent coordinate")
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    axis.grid(axis="x", color="0.92", zorder=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure
