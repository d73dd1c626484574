"""The tables of the benchmark of proofs, 100 columns wide at most: by cell, boxes, and what was left open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu_studies.benchmarks.certify import MIP_BOX, Proved
from unrelu_studies.benchmarks.certify_cells import GENERATOR
from unrelu_studies.benchmarks.summary import short

# Active outputs from which a proof ought to be quick.
MANY = 60
CERTIFY_CAPTION = (
    "proved: the gap is at most 1e-6, and verify() confirms the bounds. s: seconds of the processor for certify, "
    f"without box and inversion; nodes: relaxations solved. {MANY} active: observations with at least {MANY} outputs "
    "y_j > noise, and the median seconds of those. HiGHS: its mixed-integer solver on the same question, with the same "
    f"rows of the outputs, binaries for the hidden signs, among codes with |z_i| <= {MIP_BOX:g}; its seconds are "
    "without writing the program down. times: median of HiGHS over median of ours, on the same observations; what was "
    "stopped counts with the time it had, so that it is a lower bound where HiGHS solved less than half. same: "
    "smallest errors that agree to 1e-6, of those that both proved. y = max(G(z*) + e, 0), as an output of a ReLU is "
    "not negative; not clipped: G(z*) + e. dim: z* is scaled so that 10 to 40 pixels of G(z*) exceed the noise."
)


@dataclass(frozen=True)
class CellSummary:
    """A cell; medians of seconds, shares between 0 and 1.

    Attributes:
        cell, observations: which, and how many.
        proved: share of them.
        seconds, slowest, nodes: median, largest, median.
        many, many_seconds: share with at least MANY active outputs, and their median seconds.
        compared: observations that HiGHS got.
        mip_solved, mip_seconds: share that it solved, median seconds.
        times: its median over ours, on those.
        same, both: observations that agree, of those that both proved.
        contradictions: observations with bounds that exclude each other.
        invert_seconds, verify_seconds: medians.
    """

    cell: str
    observations: int
    proved: float
    seconds: float
    slowest: float
    nodes: float
    many: float
    many_seconds: float | None
    compared: int
    mip_solved: float
    mip_seconds: float
    times: float
    same: int
    both: int
    contradictions: int
    invert_seconds: float
    verify_seconds: float


def summarise_cells(observations: Sequence[Proved]) -> list[CellSummary]:
    """A summary for each cell."""
    cells = dict.fromkeys(p.cell for p in observations)
    return [_summary([p for p in observations if p.cell == cell]) for cell in cells]


def _summary(observations: Sequence[Proved]) -> CellSummary:
    many = [p for p in observations if p.active >= MANY]
    compared = [(p, p.mip) for p in observations if p.mip is not None]
    mip_seconds = _median([run.seconds for _, run in compared])
    agreed = [p.agrees for p, _ in compared if p.agrees is not None]
    return CellSummary(
        observations[0].cell,
        len(observations),
        proved=float(np.mean([p.closed for p in observations])),
        seconds=_median([p.seconds for p in observations]),
        slowest=max(p.seconds for p in observations),
        nodes=_median([p.nodes for p in observations]),
        many=len(many) / len(observations),
        many_seconds=_median([p.seconds for p in many]) if many else None,
        compared=len(compared),
        mip_solved=float(np.mean([run.solved for _, run in compared])),
        mip_seconds=mip_seconds,
        times=mip_seconds / _median([p.seconds for p, _ in compared]),
        same=sum(agreed),
        both=len(agreed),
        contradictions=sum(p.contradicts for p in observations),
        invert_seconds=_median([p.invert_seconds for p in observations]),
        verify_seconds=_median([p.verify_seconds for p in observations]),
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def certify_table(summaries: Sequence[CellSummary]) -> Table:
    """A row for each cell."""
    first = summaries[0]
    title = f"{GENERATOR}: proofs of {first.observations} observations a row, HiGHS on {first.compared} of them"
    headings = (
        "\n\nobs.", "\nproved\n%", "\ns\nmedian", "\n\nlargest", "\nnodes\nmedian", f"{MANY}\nactive\n%", "\n\ns",
        "\nHiGHS\n%", "\n\ns", "\n\ntimes", "\n\nsame",
    )  # fmt: skip
    table = _table(title, ("\n\nnoise",), headings)
    for s in summaries:
        table.add_row(
            s.cell,
            str(s.observations),
            f"{100 * s.proved:.3g}",
            _seconds(s.seconds),
            _seconds(s.slowest),
            f"{s.nodes:g}",
            f"{100 * s.many:.3g}",
            "-" if s.many_seconds is None else _seconds(s.many_seconds),
            f"{100 * s.mip_solved:.3g}",
            _seconds(s.mip_seconds),
            short(s.times),
            f"{s.same}/{s.both}",
        )
    return table


def boxes_table(observations: Sequence[Proved]) -> Table:
    """The boxes, a row for each cell."""
    table = _table("boxes of all codes with errors up to the noise", ("noise",), ("obs.", "s", "width", "z* inside"))
    for cell in dict.fromkeys(p.cell for p in observations):
        boxes = [p.box for p in observations if p.cell == cell and p.box is not None]
        width = _median([b.width for b in boxes])
        inside = f"{sum(b.contains for b in boxes)}/{len(boxes)}"
        table.add_row(cell, str(len(boxes)), _seconds(_median([b.seconds for b in boxes])), f"{width:.2g}", inside)
    return table


def open_table(observations: Sequence[Proved]) -> Table:
    """What was not proved by either: statuses, bounds and gaps."""
    headings = ("number", "active", "lower", "upper", "gap", "nodes")
    table = _table("left open", ("noise", "by", "status"), headings)
    for p in observations:
        if not p.closed:
            table.add_row(p.cell, "ours", p.status, *_open(p, p.lower, p.upper, p.nodes))
        if p.mip is not None and not p.mip.solved:
            table.add_row(p.cell, "HiGHS", p.mip.status, *_open(p, p.mip.lower, p.mip.upper, p.mip.nodes))
    return table


def _open(p: Proved, lower: float, upper: float, nodes: int) -> tuple[str, ...]:
    return str(p.index), str(p.active), f"{lower:.6f}", f"{upper:.6f}", f"{1 - lower / upper:.1e}", str(nodes)


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else short(value)


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in names:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
