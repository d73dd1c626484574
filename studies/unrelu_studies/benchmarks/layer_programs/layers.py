"""How long one layer program takes: ours and its peers, in one process and one thread.

Every solver is timed in the same turn of the loop, so that a ratio compares neighbours in time. Ours is
:func:`~unrelu.layerwise.layer_program.least_violation` as a user calls it, with the search of a start, the best of 3;
the peers take much longer and run once. What depends on W alone is computed in the first of the 3, as it is for the
first observation of a layer. An untimed turn leaves out imports and compilation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unrelu.errors import SolverError
from unrelu.layerwise.layer_program import least_violation
from unrelu.runtime.array_types import Array
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.layer_programs.layer_instances import (
    ALL_CASES,
    CASES,
    PROGRAMS,
    QUICK_CASES,
    Instance,
    TimedProgram,
    draw,
)
from unrelu_studies.benchmarks.layer_programs.peers import PEERS, Scaled, objective
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

# What was measured on one instance, see :func:`measure`.
Record = dict[str, Any]

# Of each layer and program: whole runs through the six combinations of noise and bounds.
INSTANCES, QUICK_INSTANCES = 12, 6
_BEST_OF_OURS = 3
# Objectives below this share of max|x| count as zero when two of them are compared.
_ZERO = 1e-8


def _units(command: Command) -> list[Unit]:
    """A layer and a program each."""
    cases = QUICK_CASES if command.quick else CASES
    return [(case.name, PROGRAMS.index(program)) for case in cases for program in PROGRAMS]


def _measure_unit(command: Command, unit: Unit) -> list[Record]:
    case, program = next(case for case in ALL_CASES if case.name == unit[0]), PROGRAMS[int(unit[1])]
    with one_thread():
        measure(draw(case, program, 0, command.seed))
        count = command.count(INSTANCES, QUICK_INSTANCES)
        return [measure(draw(case, program, index, command.seed)) for index in range(count)]


def measure(instance: Instance) -> Record:
    """Time every solver on one instance; objectives are recomputed from the points.

    Returns:
        ``layer, norm, outliers, index, noise, bounded, source, n, k, scale``: see :class:`Instance`. ``two_sided``:
        rows with both sides, the neurons that are on. ``ours_seconds``: every repetition. ``peer_seconds``: of each
        peer. ``objectives``: of "ours" and each peer; None where it has no point, or a peer reported no optimum.
        ``difference``: (ours - linprog) / max(linprog,
        1e-8 max|x|); positive where ours is worse. ``status, pivots, engine``: what our answer says; the name of the
        error where there is no answer. ``fallback``: whether an attempt of ours before it failed its proof.
    """
    case, program, system = instance.case, instance.program, instance.system
    ours, h, said = _ours(instance)
    scaled = Scaled.of(system, instance.rows, program.norm)
    runs = {name: peer.solve(scaled) for name, peer in PEERS.items()}
    points = {"ours": h, **{name: run.h for name, run in runs.items()}}
    objectives = {
        name: objective(system, instance.rows, program.norm, point)
        if point is not None and np.isfinite(point).all()
        else None
        for name, point in points.items()
    }
    return {
        "layer": case.name, "norm": program.norm, "outliers": program.outliers, "index": instance.index,
        "noise": instance.noise, "bounded": instance.bounded, "source": instance.source, "n": case.n, "k": case.k,
        "scale": instance.scale, "two_sided": int(instance.rows.two_sided.sum()), "ours_seconds": ours,
        "peer_seconds": {name: run.seconds for name, run in runs.items()},
        "objectives": objectives,
        "difference": _difference(objectives["ours"], objectives["linprog"], instance.scale), **said,
    }  # fmt: skip


def _difference(ours: float | None, theirs: float | None, scale: float) -> float | None:
    return None if ours is None or theirs is None else (ours - theirs) / max(theirs, _ZERO * scale)


def _ours(instance: Instance) -> tuple[list[float], Array | None, dict[str, Any]]:
    """Seconds of every repetition, the point, and what the answer says of itself."""
    seconds = []
    h: Array | None = None
    said: dict[str, Any] = {"status": "", "pivots": 0, "engine": "", "fallback": False}
    for _ in range(_BEST_OF_OURS):
        begin = time.perf_counter()
        try:
            answer = least_violation(instance.system, instance.rows, instance.program.norm)
        except SolverError as error:
            said["status"] = f"SolverError: {error}"
        else:
            h, engine = answer.h, answer.engine
            said = {
                "status": answer.status.name,
                "pivots": answer.pivots,
                "engine": engine,
                "fallback": engine == "highs",
            }
        seconds.append(time.perf_counter() - begin)
    return seconds, h, said


def ratio(record: Record, solver: str) -> float | None:
    """How many times longer a peer took than ours; None where one has no answer: giving up early is no speed."""
    if record["objectives"]["ours"] is None or record["objectives"][solver] is None:
        return None
    return float(record["peer_seconds"][solver]) / float(min(record["ours_seconds"]))


# --- summaries --------------------------------------------------------------------------------------------------------


def collect(command: Command, parts: list[Any]) -> Results:
    """What is timed, a summary of each layer and program, and the records."""
    records = [record for part in parts for record in part]
    return {
        "timed": {
            "ours": "unrelu.layerwise.layer_program.least_violation, best of ours_seconds",
            **{name: peer.note for name, peer in PEERS.items()},
        },
        "summary": summarise(records),
        "instances": records,
    }


def summarise(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One summary for each program and layer that was measured, and for each source of x where there are several."""
    groups = (_of(records, case.name, program) for program in PROGRAMS for case in ALL_CASES)
    return [summary for group in groups if group for summary in _summaries(group)]


def _of(records: Sequence[Record], layer: str, program: TimedProgram) -> list[Record]:
    wanted = layer, program.norm, program.outliers
    return [r for r in records if (r["layer"], r["norm"], r["outliers"]) == wanted]


def _summaries(group: list[Record]) -> Iterator[dict[str, Any]]:
    """Of all records of a layer and program, then of each source apart."""
    yield _summary(group)
    sources = sorted({r["source"] for r in group}, reverse=True)
    for source in sources if len(sources) > 1 else ():
        yield _summary([r for r in group if r["source"] == source], source)


def _summary(group: list[Record], source: str = "") -> dict[str, Any]:
    """Medians; ``milliseconds`` of "ours_first" has what depends on W alone, ``peer_failures`` have no ratio."""
    first = group[0]
    seconds: dict[str, list[float | None]] = {
        "ours": [min(r["ours_seconds"]) for r in group],
        "ours_first": [r["ours_seconds"][0] for r in group],
        **{name: [r["peer_seconds"][name] for r in group] for name in PEERS},
    }
    differences = [abs(d) for d in _known([r["difference"] for r in group])]
    return {
        "layer": first["layer"], "source": source, "norm": first["norm"], "outliers": first["outliers"],
        "instances": len(group),
        "milliseconds": {name: _median_ms(_known(values)) for name, values in seconds.items()},
        "ratios": {name: _quartiles(_known([ratio(r, name) for r in group])) for name in PEERS},
        "largest_difference": max(differences, default=None),
        "not_optimal": sum(r["status"] != "OPTIMAL" for r in group),
        "fallback": sum(r["fallback"] for r in group),
        "engines": dict(Counter(r["engine"] for r in group)),
        "peer_failures": {
            name: sum(r["objectives"][name] is None and r["peer_seconds"][name] is not None for r in group)
            for name in PEERS
        },
    }  # fmt: skip


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * float(np.median(seconds)) if seconds else None


def _quartiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    lower, median, upper = map(float, np.percentile(values, (25, 50, 75)))
    return {"median": median, "lower": lower, "upper": upper}


# --- the tables -------------------------------------------------------------------------------------------------------


def _times(results: Results) -> str:
    """Of each layer with all of its sources: l1 and linf without outliers, ours and the ratios of the peers."""
    cells: dict[str, list[str]] = {}
    for s in results["summary"]:
        if not s["source"] and not s["outliers"]:
            ratios = (s["ratios"][peer] for peer in PEERS)
            row = cells.setdefault(s["layer"].replace("x", " x "), [])
            row += [short(s["milliseconds"]["ours"]), *(short(r["median"]) if r else "-" for r in ratios)]
    head = [f"{norm}: {name}" for norm in ("l1", "linf") for name in ("ours, ms", "linprog", "HiGHS")]
    return table(("layer", *head), ((layer, *row) for layer, row in cells.items()))


def _proved(results: Results) -> str:
    whole = [s for s in results["summary"] if not s["source"]]
    total, open_, fallback = (sum(s[name] for s in whole) for name in ("instances", "not_optimal", "fallback"))
    differ = max(s["largest_difference"] or 0.0 for s in whole)
    return (
        f"{total - open_} of {total} answers of ours are proved optimal, {fallback} of them after a failed proof; "
        f"objectives differ from linprog's by {differ:.0e} at most."
    )


BENCHMARK = Benchmark(
    units=_units, measure=_measure_unit, blocks={"layers": _times, "layers proved": _proved}, collect=collect,
    workers=1,
)  # fmt: skip
