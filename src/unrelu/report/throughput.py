"""How fast a run went: from the times that its chunks were finished at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu.report.histogram import Histogram, histogram
from unrelu.report.pictures import Curve, curve
from unrelu.report.words import count
from unrelu.runs import Record, Run

# Workers that are listed.
_WORKERS = 12
# Of fewer chunks, the times are not drawn.
_CHUNKS = 8


@dataclass(frozen=True)
class Worker:
    """A process that computed chunks, and the seconds that it spent on them."""

    name: str
    chunks: int
    observations: int
    seconds: float


@dataclass(frozen=True)
class RunThroughput:
    """The speed of a run.

    Attributes:
        busy: seconds in which at least one worker computed a chunk.
        idle: seconds between the first chunk's begin and the last one's end in which none did: interruptions.
        work: seconds that all workers spent, together.
        rate: observations a second while it was busy.
        left: seconds that the rest takes at that rate; 0 if it is finished.
        least, median, most: seconds of a chunk.
        slowest: the index of the slowest chunk.
        workers: those that computed most.
        others: how many more there are.
        progress: finished observations over time, or None of fewer than three chunks.
        times: the seconds of the chunks, or None of few.
    """

    busy: float
    idle: float
    work: float
    rate: float
    left: float
    least: float
    median: float
    most: float
    slowest: int
    workers: tuple[Worker, ...]
    others: int
    progress: Curve | None
    times: Histogram | None

    @property
    def parallel(self) -> float:
        """How many workers were at work on average."""
        return self.work / self.busy if self.busy else 0.0


def throughput(run: Run) -> RunThroughput | None:
    """The speed of the finished chunks; None if there are none."""
    records = sorted(run.records.values(), key=lambda record: record.at)
    if not records:
        return None
    seconds = np.array([record.seconds for record in records])
    begin = min(record.at - record.seconds for record in records)
    busy = _busy(records)
    rate = run.done / busy if busy else 0.0
    workers = _workers(records)
    return RunThroughput(
        busy,
        max(0.0, records[-1].at - begin - busy),
        float(seconds.sum()),
        rate,
        (run.size - run.done) / rate if rate else 0.0,
        float(seconds.min()),
        float(np.median(seconds)),
        float(seconds.max()),
        records[int(seconds.argmax())].chunk,
        tuple(workers[:_WORKERS]),
        max(0, len(workers) - _WORKERS),
        _progress(records, begin) if len(records) >= 3 else None,
        _times(seconds) if len(records) >= _CHUNKS else None,
    )


def _times(seconds: npt.NDArray[np.float64]) -> Histogram:
    title = f"Time for a chunk, of {count(len(seconds), 'chunk')}"
    return histogram(title, "seconds", seconds, np.ones(len(seconds), dtype=bool))


def _busy(records: Iterable[Record]) -> float:
    """The length of the union of the chunks' intervals of time."""
    total, until = 0.0, -np.inf
    for begin, end in sorted((record.at - record.seconds, record.at) for record in records):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return float(total)


def _workers(records: Iterable[Record]) -> list[Worker]:
    of: dict[str, list[Record]] = {}
    for record in records:
        of.setdefault(record.worker, []).append(record)
    found = [
        Worker(name, len(own), sum(r.stop - r.start for r in own), sum(r.seconds for r in own))
        for name, own in of.items()
    ]
    return sorted(found, key=lambda worker: (-worker.observations, worker.name))


def _progress(records: list[Record], begin: float) -> Curve:
    """A line through the number of finished observations at the end of every chunk."""
    times = np.array([0.0, *(record.at - begin for record in records)])
    done = np.cumsum([0, *(record.stop - record.start for record in records)]).astype(float)
    return curve(done, times, 0.0, float(done[-1]))
