"""Observations a second on one thread and on two: what a batch gains from the second core.

The BLAS stays on one thread in both runs; what is split is the batch. The runs alternate, and each counts with its best
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from unrelu.layerwise import LayerSystem, Rows
from unrelu.layerwise.layer_program import Answer, least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.runtime.host import computing, in_threads
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.layer_programs.layer_instances import ALL_CASES, CASES, QUICK_CASES, Case, draw_batch
from unrelu_studies.benchmarks.layer_programs.layers import spaced
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import one_thread, timed
from unrelu_studies.kit.unit_runner import Unit

# Of each layer and norm; the observations of one layer share W.
OBSERVATIONS, QUICK_OBSERVATIONS = 200, 20
_REPETITIONS = 3
_THREADS = (1, 2)


def _units(command: Command) -> list[Unit]:
    """A layer and a norm each."""
    return [(case.name, norm) for case in (QUICK_CASES if command.quick else CASES) for norm in ("l1", "linf")]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    case = next(case for case in ALL_CASES if case.name == unit[0])
    with one_thread():
        return measure(case, str(unit[1]), command.count(OBSERVATIONS, QUICK_OBSERVATIONS), command.seed)


def measure(case: Case, norm: str, count: int, seed: int) -> dict[str, Any]:
    """Solve the same batch on one and on two threads.

    Returns:
        ``seconds`` of every run, by the number of threads; ``largest_difference`` between the objectives of the runs on
        one and on more threads, 0 where all agree bit by bit; ``not_optimal`` and ``fallback``, answers of the last run
        on one thread that are not OPTIMAL, or not of the first attempt; ``engines``, how many of these answers each
        solver gave; ``gain``, the rate on two threads divided by the rate on one.
    """
    system, batch = draw_batch(case, count, seed)
    _solved(system, batch[:2], norm, _THREADS[-1])
    seconds: dict[int, list[float]] = {threads: [] for threads in _THREADS}
    answers: dict[int, list[Answer]] = {}
    for _ in range(_REPETITIONS):
        for threads in _THREADS:
            answers[threads], spent = timed(partial(_solved, system, batch, norm, threads))
            seconds[threads].append(spent)
    pairs = zip(answers[1], answers[_THREADS[-1]], strict=True)
    return {
        "layer": case.name, "norm": norm, "observations": count, "seconds": seconds,
        "largest_difference": max(abs(a.objective - b.objective) for a, b in pairs),
        "not_optimal": sum(a.status is not LpStatus.OPTIMAL for a in answers[1]),
        "fallback": sum(a.engine == "highs" for a in answers[1]),
        "engines": dict(Counter(a.engine for a in answers[1])),
        "gain": min(seconds[1]) / min(seconds[_THREADS[-1]]),
    }  # fmt: skip


def _solved(system: LayerSystem, batch: Sequence[Rows], norm: str, threads: int) -> list[Answer]:
    """The programs of a batch, as many at a time as there are threads, each with its linear algebra on one."""
    with computing(one_thread=True):
        return list(in_threads(lambda rows: least_violation(system, rows, norm), batch, threads))


def _table(results: Results) -> str:
    batches = results["batches"]
    rows = []
    for b in batches:
        one, two = (b["observations"] / min(b["seconds"][threads]) for threads in ("1", "2"))
        reached = "yes" if two / one >= 1.8 else "no"
        rows.append((spaced(b["layer"]), b["norm"], f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}", reached))
    text = f"Batches of {batches[0]['observations']} observations of one layer with h >= 0, observations a second:\n\n"
    return text + table(("layer", "norm", "1 thread", "2 threads", "gain", "1.8, the aim, reached"), rows)


BENCHMARK = Benchmark(
    units=_units, measure=_measure, blocks={"throughput": _table}, collect=lambda command, parts: {"batches": parts}
)
