"""What ``certificates.jsonl`` in a run's folder says: the file that ``unrelu certify`` writes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unrelu.certification.certificate import ProofStatus
from unrelu.runtime.file_reading import opened

# Bytes of a line; a box takes 50 for each latent coordinate.
_LINE = 2**24


@dataclass(frozen=True)
class ProofCounts:
    """The proofs of a folder.

    Attributes:
        count: how many there are.
        statuses: name, count and meaning of every status, most frequent first.
        norms: of the errors that are bounded.
        lower, upper, gap: medians; NaN if none is known.
        out_of_range: of how many observations it is proved that no code explains them.
        confined: how many hold only for codes up to a radius.
        damaged: lines that could not be read.
    """

    count: int
    statuses: tuple[tuple[str, int, str], ...]
    norms: str
    lower: float
    upper: float
    gap: float
    out_of_range: int
    confined: int
    damaged: int


def certificates(folder: Path) -> ProofCounts | None:
    """The proofs in a folder; None if it has none."""
    path = folder / "certificates.jsonl"
    if not path.exists():
        return None
    rows, damaged = [], 0
    with opened(path, folder) as (stream, _):
        for line in iter(lambda: stream.readline(_LINE), b""):
            row = _row(line.decode("utf-8", errors="replace"))
            damaged += row is None
            if row is not None:
                rows.append(row)
    counted = Counter(str(row["status"]) for row in rows)
    return ProofCounts(
        len(rows),
        tuple((name, n, _meaning(name)) for name, n in counted.most_common()),
        ", ".join(sorted({str(row.get("norm")) for row in rows})),
        _median(rows, "lower"),
        _median(rows, "upper"),
        _median(rows, "gap"),
        sum(bool(row.get("out_of_range")) for row in rows),
        sum(row.get("radius") is not None for row in rows),  # an infinite radius is null in JSON
        damaged,
    )


def _row(line: str) -> dict[str, Any] | None:
    """What the page needs of a line; None if it is damaged."""
    names = ("status", "norm", "lower", "upper", "gap", "radius", "out_of_range")
    try:
        entry = json.loads(line)
        return {name: entry[name] for name in names}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _median(rows: list[dict[str, Any]], name: str) -> float:
    known = [row[name] for row in rows if isinstance(row[name], int | float)]
    return float(np.median(known)) if known else float("nan")


def _meaning(name: str) -> str:
    status = ProofStatus.__members__.get(name)
    return "of another version of unrelu" if status is None else status.value
