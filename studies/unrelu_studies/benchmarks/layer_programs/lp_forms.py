"""HiGHS on the layer programs: primal against dual form, simplex and interior point, presolve on and off.

Median milliseconds over instances on one thread, and the largest relative difference of the objectives.
"""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np
import numpy.typing as npt
from scipy import sparse

from unrelu.layerwise import LayerSystem, Rows, rows
from unrelu.layerwise.layer_program import largest_violation, sum_of_violations
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.lp.highs import LinearProgram
from unrelu.models.activations import Activation
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

SIZES = ((784, 60), (500, 100), (600, 250))
INSTANCES, QUICK_INSTANCES = 5, 1
SOLVERS: dict[str, dict[str, Any]] = {
    "dual simplex": {"solver": "simplex", "simplex_strategy": 1, "presolve": "off"},
    "dual simplex, presolve": {"solver": "simplex", "simplex_strategy": 1, "presolve": "on"},
    "primal simplex": {"solver": "simplex", "simplex_strategy": 4, "presolve": "off"},
    "interior point": {"solver": "ipm", "presolve": "off"},
}


def primal_program(system: LayerSystem, layer_rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    """The primal program with one error variable (linf) or one a row (l1)."""
    n, k = system.matrix.shape
    shifted = (layer_rows.high - system.matrix @ h0) / sigma
    on = layer_rows.two_sided
    errors = np.ones((n, 1)) if norm == "linf" else np.eye(n)
    matrix = np.vstack([np.hstack([system.matrix, -errors]), np.hstack([-system.matrix, -errors])[on]])
    m = errors.shape[1]
    side = np.concatenate([shifted, -shifted[on]])
    return LinearProgram(
        np.concatenate([np.zeros(k), np.ones(m)]),
        sparse.csc_array(matrix),
        np.full(len(side), -np.inf),
        side,
        np.concatenate([np.full(k, -np.inf), np.zeros(m)]),
        np.full(k + m, np.inf),
    )


def dual_program(system: LayerSystem, rows: Rows, norm: str, h0: Array, sigma: float) -> LinearProgram:
    """The dual of :func:`~unrelu.layerwise.layer_program.least_violation` around h0, for HiGHS.

    Its row dual is the w of h = h0 + sigma w.
    """
    r0 = (np.asarray(system.matrix @ h0) - rows.center) / sigma
    make = sum_of_violations if norm == "l1" else largest_violation
    return make(system.matrix, r0, (system.lower - h0) / sigma, (system.upper - h0) / sigma, *rows.box)[0].dual()[0]


_FORMS = {"primal": primal_program, "dual": dual_program}


def solve(program: LinearProgram, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds and objective."""
    solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
    for name, value in {"output_flag": False, "threads": 1, **options}.items():
        solver.setOptionValue(name, value)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = program.matrix.shape
    model.col_cost_, model.col_lower_, model.col_upper_ = program.cost, program.col_lower, program.col_upper
    model.row_lower_, model.row_upper_ = program.row_lower, program.row_upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    model.a_matrix_.start_, model.a_matrix_.index_ = program.matrix.indptr, program.matrix.indices
    model.a_matrix_.value_ = program.matrix.data
    solver.passModel(model)
    _, seconds = timed(solver.run)
    return seconds, abs(solver.getInfo().objective_function_value)


def _instance(n: int, k: int, norm: str, form: str, seed: int, index: int) -> tuple[tuple[float, ...], float]:
    """Seconds of every solver on one program, and the spread of their objectives, relative to the largest."""
    weights, truth, noise = (stream(f"LP, {what}", seed, index) for what in ("weights", "truth", "noise"))
    free = np.full(k, -np.inf), np.full(k, np.inf)
    system = LayerSystem(weights.normal(size=(n, k)) / n**0.5, np.zeros(n), Activation("relu"), *free)
    x = system.value(truth.normal(size=k)) + noise.uniform(-1e-2, 1e-2, n)
    layer_rows = rows(system, x, 1e-2)
    h0, *_ = one_sided_least_squares(system, layer_rows)
    errors = layer_rows.violation(np.asarray(system.matrix @ h0))
    size = float(errors.max() if norm == "linf" else errors.mean())
    program = _FORMS[form](system, layer_rows, norm, h0, size)
    seconds, objectives = zip(*(solve(program, options) for options in SOLVERS.values()), strict=True)
    return seconds, float(np.ptp(objectives) / max(objectives))


def _units(command: Command) -> list[Unit]:
    """A layer, a norm and a form each."""
    sizes = SIZES[:1] if command.quick else SIZES
    return [(n, k, norm, form) for n, k in sizes for norm in ("l1", "linf") for form in _FORMS]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    n, k, norm, form = int(unit[0]), int(unit[1]), str(unit[2]), str(unit[3])
    count = command.count(INSTANCES, QUICK_INSTANCES)
    seconds, spreads = zip(*(_instance(n, k, norm, form, command.seed, i) for i in range(count)), strict=True)
    medians = dict(zip(SOLVERS, (1e3 * np.median(seconds, axis=0)).tolist(), strict=True))
    return {
        "layer": f"{n} x {k}", "norm": norm, "form": form, "milliseconds": medians,
        "objectives_differ_by": max(spreads),
    }  # fmt: skip


def _table(results: Results) -> str:
    rows: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in results["rows"]:
        rows.setdefault((row["layer"], row["norm"]), {})[row["form"]] = row["milliseconds"]
    head = ("layer", "norm", "primal form, best of HiGHS's solvers", "dual form, dual simplex")
    return f"Median milliseconds of {results['instances']} instances, one thread:\n\n" + table(
        head, ((*k, f"{min(f['primal'].values()):.0f}", f"{f['dual']['dual simplex']:.0f}") for k, f in rows.items())
    )


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"lp_forms": _table},
    collect=lambda command, parts: {"instances": command.count(INSTANCES, QUICK_INSTANCES), "rows": parts},
)
