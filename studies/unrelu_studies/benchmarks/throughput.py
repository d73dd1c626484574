"""Observations a second on one thread and on two: what a batch gains from the second core.

The BLAS stays on one thread in both runs; what is split is the batch. The runs alternate, and each counts with its best
time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.host import computing, in_threads
from unrelu_studies.benchmarks.instances import CASES, REPORT_SEED, Case, draw_batch
from unrelu_studies.benchmarks.one_core import one_thread

# Of each layer and norm; the observations of one layer share W.
OBSERVATIONS = 200
_REPETITIONS = 3
_THREADS = (1, 2)


@dataclass(frozen=True)
class Throughput:
    """One layer and norm.

    Attributes:
        layer, norm: which.
        observations: how many programs a run solves.
        seconds: of every run, by the number of threads.
        largest_difference: between the objectives of the runs on one and on more threads; 0 where all agree bit by bit.
        not_optimal, fallback: answers of the last run on one thread that are not OPTIMAL, or not of the first attempt.
        engines: how many of these answers each solver gave.
    """

    layer: str
    norm: str
    observations: int
    seconds: dict[int, list[float]]
    largest_difference: float
    not_optimal: int
    fallback: int
    engines: dict[str, int]

    def rate(self, threads: int) -> float:
        """Observations a second."""
        return self.observations / min(self.seconds[threads])

    @property
    def gain(self) -> float:
        """Rate on two threads divided by the rate on one."""
        return self.rate(_THREADS[-1]) / self.rate(1)


def measure_throughput(
    observations: int | None = None, seed: int = REPORT_SEED, cases: Sequence[Case] = CASES
) -> list[Throughput]:
    """Solve the same batch on one and on two threads, for every layer and norm."""
    with one_thread():
        return [_measure(case, norm, observations or OBSERVATIONS, seed) for case in cases for norm in ("l1", "linf")]


def _measure(case: Case, norm: str, count: int, seed: int) -> Throughput:
    system, batch = draw_batch(case, count, seed)
    _solved(system, batch[:2], norm, _THREADS[-1])
    seconds: dict[int, list[float]] = {threads: [] for threads in _THREADS}
    answers: dict[int, list[Answer]] = {}
    for _ in range(_REPETITIONS):
        for threads in _THREADS:
            begin = time.perf_counter()
            answers[threads] = _solved(system, batch, norm, threads)
            seconds[threads].append(time.perf_counter() - begin)
    pairs = zip(answers[1], answers[_THREADS[-1]], strict=True)
    return Throughput(
        layer=case.name,
        norm=norm,
        observations=count,
        seconds=seconds,
        largest_difference=max(abs(a.objective - b.objective) for a, b in pairs),
        not_optimal=sum(a.status is not LpStatus.OPTIMAL for a in answers[1]),
        fallback=sum(a.fallback for a in answers[1]),
        engines=dict(Counter(a.engine for a in answers[1])),
    )


def _solved(system: LayerSystem, batch: Sequence[Rows], norm: str, threads: int) -> list[Answer]:
    """The programs of a batch, as many at a time as there are threads, each with its linear algebra on one."""

    def solve(rows: Rows) -> Answer:
        return least_violation(system, rows, norm)

    with computing(one_thread=True):
        return list(in_threads(solve, batch, threads))
