"""Medians and quartiles of the layer benchmark, as numbers and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu_studies.benchmarks.instances import CASES, PROGRAMS, TimedProgram
from unrelu_studies.benchmarks.layers import LayerRecord, select
from unrelu_studies.benchmarks.peers import PEERS, cvxopt_module

# Ratios that are reported: peers by how often ours fits into them, Cholesky by how often it fits into ours.
RATIOS = (*PEERS, "cholesky")


@dataclass(frozen=True)
class Quartiles:
    """A median with the quartiles below and above it."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Of at least one number."""
        lower, median, upper = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(lower), float(upper))

    def __str__(self) -> str:
        """The median, and the quartiles in the line below."""
        return f"{short(self.median)}\n[dim]{short(self.lower)}-{short(self.upper)}[/dim]"


@dataclass(frozen=True)
class LayerSummary:
    """One layer and program.

    Attributes:
        layer, norm, outliers: which.
        source: of x, where these are only some of the layer's instances; else empty.
        instances: how many.
        milliseconds: median time of "ours", of its first repetition ("ours_first", with what depends on W alone), each
            peer and "cholesky"; None where there is none.
        ratios: per-instance ratios: peer / ours, and ours / cholesky; None where there are none.
        largest_difference: the largest relative difference of our objective and linprog's.
        not_optimal: answers of ours that are not OPTIMAL.
        fallback: answers of ours before which an attempt failed its proof.
        engines: how many answers of ours each solver gave.
        peer_failures: instances on which a peer ran and reported no optimum; they have no ratio.
    """

    layer: str
    source: str
    norm: str
    outliers: float
    instances: int
    milliseconds: dict[str, float | None]
    ratios: dict[str, Quartiles | None]
    largest_difference: float | None
    not_optimal: int
    fallback: int
    engines: dict[str, int]
    peer_failures: dict[str, int]


def summarise(records: Sequence[LayerRecord]) -> list[LayerSummary]:
    """One summary for each program and layer that was measured, and for each source of x where there are several."""
    groups = (select(records, case, program) for program in PROGRAMS for case in CASES)
    return [summary for group in groups if group for summary in _summaries(group)]


def _summaries(group: list[LayerRecord]) -> Iterator[LayerSummary]:
    """Of all records of a layer and program, then of each source apart."""
    yield _summary(group)
    sources = sorted({r.source for r in group}, reverse=True)
    for source in sources if len(sources) > 1 else ():
        yield _summary([r for r in group if r.source == source], source)


def _summary(group: list[LayerRecord], source: str = "") -> LayerSummary:
    first = group[0]
    seconds: dict[str, list[float | None]] = {
        "ours": [r.ours for r in group],
        "ours_first": [r.ours_seconds[0] for r in group],
        **{name: [r.peer_seconds[name] for r in group] for name in PEERS},
        "cholesky": [min(r.cholesky_seconds) for r in group],
    }
    ratios = {name: _known([r.ratio(name) for r in group]) for name in RATIOS}
    differences = [abs(d) for d in _known([r.difference for r in group])]
    return LayerSummary(
        layer=first.layer,
        source=source,
        norm=first.norm,
        outliers=first.outliers,
        instances=len(group),
        milliseconds={name: _median_ms(_known(values)) for name, values in seconds.items()},
        ratios={name: Quartiles.of(values) if values else None for name, values in ratios.items()},
        largest_difference=max(differences, default=None),
        not_optimal=sum(r.status != "OPTIMAL" for r in group),
        fallback=sum(r.fallback for r in group),
        engines=dict(Counter(r.engine for r in group)),
        peer_failures={
            name: sum(r.objectives[name] is None and r.peer_seconds[name] is not None for r in group) for name in PEERS
        },
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * float(np.median(seconds)) if seconds else None


def tables(summaries: Sequence[LayerSummary]) -> Iterator[Table]:
    """One table a program, 100 columns wide at most."""
    for program in PROGRAMS:
        chosen = [s for s in summaries if (s.norm, s.outliers) == (program.norm, program.outliers)]
        if chosen:
            yield _table(program, chosen)


def _table(program: TimedProgram, summaries: list[LayerSummary]) -> Table:
    norm = program.norm
    asked = {name: f"{peer.name} {peer.forms[norm]}" for name, peer in PEERS.items() if norm in peer.forms}
    title = f"{program.name}: times longer than ours, median and quartiles of {summaries[0].instances} ratios"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    table.add_column("ours\nms", justify="right", no_wrap=True)
    for heading in asked.values():
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for heading in ("ours /\nCholesky", "differ\nby", "not\nopt.", "fall\nback"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(
            f"- {s.source}: {s.instances}" if s.source else s.layer,
            short(s.milliseconds["ours"] or 0.0),
            *(_cell(name, s.ratios[name]) for name in asked),
            _cell("cholesky", s.ratios["cholesky"]),
            "-" if s.largest_difference is None else f"{s.largest_difference:.0e}",
            str(s.not_optimal),
            str(s.fallback),
        )
    failures = {
        heading: sum(s.peer_failures[name] for s in summaries if not s.source) for name, heading in asked.items()
    }
    said = ", ".join(f"{name} {count}" for name, count in failures.items() if count)
    table.caption, table.caption_justify = (
        f"instances without an answer, and without a ratio: {said}" if said else "",
        "left",
    )
    return table


def _cell(name: str, ratio: Quartiles | None) -> str:
    if ratio is None:
        return "not\ninstalled" if name == "cvxopt" and cvxopt_module() is None else "-"
    return str(ratio)


def short(value: float) -> str:
    """Two or three digits."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}"
