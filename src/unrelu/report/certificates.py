"""Certificates for people: a summary of the certificates in a folder, and pictures of how their bounds met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unrelu.certification.certificate import Certificate
from unrelu.certification.proof import ProofStatus
from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_json_lines
from unrelu.runtime.words import count

# The most bytes of a line. A box takes 50 bytes for each latent coordinate.
_LINE = 2**24
_NUMBERS = ("lower", "upper", "gap")
# Colours for colour-blind readers, too. One picture shows at most this many observations.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def proofs(folder: Path) -> dict[str, Any] | None:
    """Summarise ``certificates.jsonl`` of ``unrelu certify`` for the page; None if there is no such file."""
    path = folder / "certificates.jsonl"
    if not path.exists():
        return None
    lines = list(read_json_lines(path, _LINE, folder))
    rows = [line for line in lines if isinstance(line, dict) and line.keys() >= {"status", *_NUMBERS}]
    known = {name: [row[name] for row in rows if isinstance(row[name], float)] for name in _NUMBERS}
    ends = Counter(str(row["status"]) for row in rows).most_common()
    return {name: float(np.median(values)) if values else None for name, values in known.items()} | {
        "size": len(rows),
        "statuses": [(name, "", meaning(ProofStatus, name), count(n)) for name, n in ends],
        "bounded": any(row.get("bounds") is not None for row in rows),
        "damaged": len(lines) - len(rows),
    }


def meaning(statuses: type[Enum], name: str) -> str:
    """Return the meaning of a status, by its name in a file."""
    return str(statuses[name].value) if name in statuses.__members__ else "of another version of unrelu"


def draw_bounds(certificates: Sequence[Certificate]) -> Figure:
    """Draw lower and upper bounds over time, as shares of the final upper bound, for the six longest proofs at most."""
    figure, axis = _canvas(3.6)
    longest = sorted(range(len(certificates)), key=lambda i: -certificates[i].seconds)[: len(_COLORS)]
    for color, i in zip(_COLORS, sorted(longest), strict=False):
        certificate = certificates[i]
        moments: list[Any] = [*certificate.history, certificate]  # the certificate has the last bounds
        seconds = [max(moment.seconds, 1e-3) for moment in moments]
        lower, upper = (np.array([getattr(one, end) for one in moments]) for end in ("lower", "upper"))
        label = f"observation {i}: {certificate.status.name.lower().replace('_', ' ')}"
        scale = certificate.upper or 1.0
        axis.step(seconds, lower / scale, where="post", color=color, linewidth=2, label=label)
        axis.step(seconds, upper / scale, where="post", color=color, linewidth=0.8)
        axis.plot(seconds[-1], lower[-1] / scale, "o", color=color, markersize=4)
    axis.axhline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    low, high = axis.get_ylim()
    axis.set_ylim(min(0.9, low), max(1.01, high))  # a tenth if bounds have met at once
    axis.set(xscale="log", xlabel="seconds", ylabel="bounds / smallest error found")
    among = "codes within their bounds" if any(c.bounds is not None for c in certificates) else "all codes"
    return _finished(figure, axis, f"upper (thin) and lower (thick) bounds of the smallest error over {among}")


def draw_box(certificate: Certificate, name: str = "") -> Figure:
    """Draw the best code, and the interval of every latent coordinate that contains all codes within the stated noise.

    The title begins with ``name``, such as "observation 3".

    Raises:
        InputError: the certificate has no box.
    """
    if certificate.box is None:
        raise InputError("the certificate has no box: state noise='uniform:A' when certifying")
    k, eps = certificate.z.size, f"{certificate.eps:g}"
    figure, axis = _canvas(1.2 + 0.2 * k)
    place, (low, high) = np.arange(1, k + 1), certificate.box.reshape(k, 2).T
    title = f"{name}: " if name else ""
    if (low > high).any():
        title += f"no code explains the observation within {eps}: the box is empty"
    else:
        axis.hlines(place, low, high, color=_COLORS[0], linewidth=5, alpha=0.5)
        title += f"every code with errors up to {eps} is inside"
    title += "\n(among codes within their bounds)" if certificate.bounds is not None else ""
    title += f"\n(among codes with |z_i| <= {certificate.radius:g})" if np.isfinite(certificate.radius) else ""
    axis.plot(certificate.z.reshape(k), place, "o", color=_COLORS[1], markersize=4, label="best code")
    axis.set(yticks=place, ylim=(k + 0.7, 0.3), xlabel="value", ylabel="latent coordinate")
    return _finished(figure, axis, title)


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.5, height), layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Figure, axis: Axes, title: str) -> Figure:
    axis.set_title(title, fontsize=9, loc="left")
    axis.grid(color="0.92", zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    return figure
