"""How long one layer program takes: ours, its peers and one Cholesky least squares, in one process and one thread.

Every solver is timed in the same turn of the loop, so that a ratio compares neighbours in time. Ours is
:func:`~unrelu.layerwise.layer_program.least_violation` as a user calls it, with the search of a start, the best of 3;
the Cholesky least squares is the best of 5; the peers take much longer and run once. What depends on W alone is
computed in the first of the 3, as it is for the first observation of a layer. An untimed turn leaves out imports and
compilation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from unrelu.errors import SolverError
from unrelu.layerwise.layer_program import least_violation
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
from unrelu_studies.benchmarks.layer_programs.peers import PEERS, Scaled, cholesky, cvxopt_module, objective
from unrelu_studies.kit.markdown_tables import aims, short, table
from unrelu_studies.kit.picture_style import Style, footer, legend, panels, tidy
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]
# What was measured on one instance, see :func:`measure`.
Record = dict[str, Any]

# Of each layer and program: whole runs through the six combinations of noise and bounds.
INSTANCES, QUICK_INSTANCES = 24, 6
_BEST_OF_OURS, _BEST_OF_CHOLESKY = 3, 5
# Objectives below this share of max|x| count as zero when two of them are compared.
_ZERO = 1e-8
# Ratios that are reported: peers by how often ours fits into them, Cholesky by how often it fits into ours.
_RATIOS = (*PEERS, "cholesky")


def _units(command: Command) -> list[Unit]:
    """A layer and a program each."""
    cases = QUICK_CASES if command.quick else CASES
    return [(case.name, PROGRAMS.index(program)) for case in cases for program in PROGRAMS]


def _measure_unit(command: Command, unit: Unit) -> list[Record]:
    case, program = next(case for case in ALL_CASES if case.name == unit[0]), PROGRAMS[int(unit[1])]
    cvxopt_module()
    with one_thread():
        measure(draw(case, program, 0, command.seed))
        count = command.count(INSTANCES, QUICK_INSTANCES)
        return [measure(draw(case, program, index, command.seed)) for index in range(count)]


def measure(instance: Instance) -> Record:
    """Time every solver on one instance; objectives are recomputed from the points.

    Returns:
        ``layer, norm, outliers, index, noise, bounded, source, n, k, scale``: see :class:`Instance`. ``two_sided``:
        rows with both sides, the neurons that are on. ``ours_seconds, cholesky_seconds``: every repetition.
        ``peer_seconds``: of each peer; None where it is not installed or not asked. ``objectives``: of "ours" and each
        peer; None where it has no point, or a peer reported no optimum. ``difference``: (ours - linprog) / max(linprog,
        1e-8 max|x|); positive where ours is worse. ``status, pivots, engine``: what our answer says; the name of the
        error where there is no answer. ``fallback``: whether an attempt of ours before it failed its proof.
    """
    case, program, system = instance.case, instance.program, instance.system
    matrix = system.matrix if isinstance(system.matrix, np.ndarray) else system.matrix.toarray()
    ours, h, said = _ours(instance)
    yardstick = [cholesky(matrix, instance.rows.target)[0] for _ in range(_BEST_OF_CHOLESKY)]
    scaled = Scaled.of(system, instance.rows, program.norm)
    runs = {name: peer.solve(scaled) for name, peer in PEERS.items()}
    points = {"ours": h, **{name: run.h if run else None for name, run in runs.items()}}
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
        "cholesky_seconds": yardstick,
        "peer_seconds": {name: run.seconds if run else None for name, run in runs.items()},
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
    """How many times longer a peer took than ours; for "cholesky", how many least squares ours costs.

    None where ours or the peer has no answer: giving up early is no speed.
    """
    if record["objectives"]["ours"] is None:
        return None
    ours: float = min(record["ours_seconds"])
    if solver == "cholesky":
        return ours / float(min(record["cholesky_seconds"]))
    seconds: float | None = record["peer_seconds"][solver]
    return None if seconds is None or record["objectives"][solver] is None else seconds / ours


# --- summaries --------------------------------------------------------------------------------------------------------


def collect(command: Command, parts: list[Any]) -> Results:
    """What is timed, a summary of each layer and program, and the records."""
    records = [record for part in parts for record in part]
    return {
        "timed": {
            "ours": "unrelu.layerwise.layer_program.least_violation, best of ours_seconds",
            **{name: peer.note for name, peer in PEERS.items()},
            "cholesky": "dsyrk, dgemv, dpotrf, dpotrs on all rows, best of cholesky_seconds",
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
        "cholesky": [min(r["cholesky_seconds"]) for r in group],
    }
    differences = [abs(d) for d in _known([r["difference"] for r in group])]
    return {
        "layer": first["layer"], "source": source, "norm": first["norm"], "outliers": first["outliers"],
        "instances": len(group),
        "milliseconds": {name: _median_ms(_known(values)) for name, values in seconds.items()},
        "ratios": {name: _quartiles(_known([ratio(r, name) for r in group])) for name in _RATIOS},
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


# --- the picture ------------------------------------------------------------------------------------------------------

# A program each.
_STYLES = (Style("#0072b2", "o"), Style("#d55e00", "s"), Style("#009e73", "^"))
_PANELS = (
    ("linprog", "times faster than scipy.optimize.linprog"), ("highs", "times faster than HiGHS, dual program"),
    ("cvxopt", "times faster than cvxopt"), ("cholesky", "cost in Cholesky least squares"),
)  # fmt: skip
# Distance of the programs of one layer, in layers.
_STEP = 0.27


def draw_times(results: Results) -> Figure:
    """Ours against linprog, HiGHS on the dual program, cvxopt if installed, and least squares: dots, medians, bars."""
    records, machine = results["instances"], results["machine"]
    layers = [case.name for case in ALL_CASES if any(r["layer"] == case.name for r in records)]
    shown = [panel for panel in _PANELS if any(ratio(r, panel[0]) is not None for r in records)]
    figure, axes = panels(1, len(shown), width=3 * len(shown), height=1.2 + 0.8 * len(layers))
    for axis, (solver, label) in zip(axes, shown, strict=True):
        for place, layer in enumerate(layers):
            for turn, (program, style) in enumerate(zip(PROGRAMS, _STYLES, strict=True)):
                values = _known([ratio(r, solver) for r in _of(records, layer, program)])
                if values:
                    _mark(axis, place + (turn - 1) * _STEP, values, style)
        _finish(axis, label)
        axis.set_yticks(range(len(layers)), layers if axis is axes[0] else [""] * len(layers), fontsize=7)
        axis.set_ylim(len(layers) - 0.5, -0.5)
    for program, style in zip(PROGRAMS, _STYLES, strict=True):
        axes[0].plot([], [], style.marker, color=style.color, label=program.name)
    legend(figure, axes[0], len(PROGRAMS))
    footer(
        figure,
        f"{len(_of(records, layers[0], PROGRAMS[0]))} instances each (dots), their median (symbol, number) and "
        f"quartiles (bar); one thread, {machine['processor']}, SciPy {machine['scipy']}, highspy {machine['highspy']}",
    )
    return figure


def _mark(axis: Axes, y: float, values: list[float], style: Style) -> None:
    """All values faintly, their quartiles as a bar, their median as a marker with its number."""
    lower, median, upper = np.percentile(values, (25, 50, 75))
    axis.plot(values, [y] * len(values), ".", color=style.color, alpha=0.25, markersize=4, markeredgewidth=0)
    axis.plot([lower, upper], [y, y], "-", color=style.color, linewidth=2)
    axis.plot([median], [y], style.marker, color=style.color, markersize=5)
    axis.annotate(
        short(median), (max(values), y), (6, 0), textcoords="offset points", va="center", fontsize=7,
        color=style.color, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _finish(axis: Axes, label: str) -> None:
    tidy(axis, label, "", log="x")
    low, high = axis.get_xlim()
    low, high = min(low, 0.8), max(high, 1.0)
    # Room for the numbers on the right; equal speed is always in the picture.
    axis.set_xlim(low, high * (high / low) ** 0.12)
    axis.axvline(1, color="0.5", linewidth=1, linestyle="--", zorder=0)
    if high / low < 100:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))


# --- the tables -------------------------------------------------------------------------------------------------------

_FORMS = {
    "linprog_ub": "linprog, inequalities", "linprog": "linprog, split", "highs": "HiGHS, dual", "cvxopt": "cvxopt",
}  # fmt: skip
# Layer, norm, peer, and how many times longer than ours it was meant to take at least.
_AIMS = (
    ("784x60", "l1", "linprog_ub", 110), ("zoo 784x60", "l1", "linprog_ub", 70), ("zoo 784x60", "linf", "linprog", 45),
    ("500x100", "linf", "linprog", 45),
)  # fmt: skip


def spaced(name: str) -> str:
    """The name of a layer in tables."""
    return name.replace("x", " x ")


def _times(norm: str, outliers: float, results: Results) -> str:
    chosen = [s for s in results["summary"] if (s["norm"], s["outliers"]) == (norm, outliers)]
    # For linf linprog has one form, inequalities only.
    names = {**_FORMS, "linprog": _FORMS["linprog_ub"]} if norm == "linf" else _FORMS
    peers = [peer for peer in _FORMS if any(s["ratios"][peer] for s in chosen)]
    rows = []
    for s in chosen:
        name = f"- {s['source']} ({s['instances']})" if s["source"] else f"{spaced(s['layer'])} ({s['instances']})"
        ratios = [s["ratios"][peer] for peer in (*peers, "cholesky")]
        rows.append((name, short(s["milliseconds"]["ours"]), *(short(r["median"]) if r else "-" for r in ratios)))
    return table(("layer (instances)", "ours, ms", *(names[peer] for peer in peers), "/ Cholesky"), rows)


def _reached(results: Results) -> str:
    whole = [s for s in results["summary"] if not s["source"]]
    total, open_, fallback = (sum(s[name] for s in whole) for name in ("instances", "not_optimal", "fallback"))
    differ = max(s["largest_difference"] or 0.0 for s in whole)
    failed = {_FORMS[peer]: sum(s["peer_failures"][peer] for s in whole) for peer in _FORMS}
    gave_up = ", ".join(f"{peer} on {count}" for peer, count in failed.items() if count) or "none"
    text = (
        f"{total - open_} of {total} answers of ours are proved optimal, {fallback} of them after a failed proof; "
        f"objectives differ from linprog's by {differ:.0e} at most. Peers that gave up: {gave_up}.\n\n"
    )
    rows = []
    for layer, norm, peer, aim in _AIMS:
        found = [s["ratios"][peer] for s in whole if (s["layer"], s["norm"], s["outliers"]) == (layer, norm, 0.0)]
        if found and found[0]:
            median = found[0]["median"]
            what = f"{norm} on {spaced(layer)}: linprog's inequalities take {aim} times longer"
            rows.append((what, short(median), median >= aim))
    return text + aims(rows)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure_unit,
    blocks={
        "layers l1": partial(_times, "l1", 0.0),
        "layers linf": partial(_times, "linf", 0.0),
        "layers outliers": partial(_times, "l1", 0.05),
        "layers aims": _reached,
    },
    collect=collect,
    draw=draw_times,
)
