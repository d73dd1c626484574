"""HiGHS on the layer programs: primal against dual form, simplex and interior point, presolve on and off.

Median milliseconds over instances on one thread, and the largest relative difference of the objectives.
"""

from __future__ import annotations

import time

import highspy
import numpy as np
from scipy import sparse

from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_program import dual_program
from unrelu.layerwise.one_sided_least_squares import one_sided_least_squares
from unrelu.lp.highs import LinearProgram
from unrelu.models.activations import Activation
from unrelu.runtime.streams import stream

SIZES = ((784, 60), (500, 100), (600, 250))
INSTANCES, QUICK_INSTANCES = 5, 1
SOLVERS = {
    "dual simplex": {"solver": "simplex", "simplex_strategy": 1, "presolve": "off"},
    "dual simplex, presolve": {"solver": "simplex", "simplex_strategy": 1, "presolve": "on"},
    "primal simplex": {"solver": "simplex", "simplex_strategy": 4, "presolve": "off"},
    "interior point": {"solver": "ipm", "presolve": "off"},
}


def primal(system, layer_rows, norm, h0, sigma):
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


def run(program, options):
    """Seconds and objective."""
    solver = highspy.Highs()
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
    begin = time.perf_counter()
    solver.run()
    return time.perf_counter() - begin, abs(solver.getInfo().objective_function_value)


def instance(n, k, norm, build, seed, index):
    """Seconds of every solver on one program, and the spread of their objectives, relative to the largest."""
    weights, truth, noise = (stream(f"LP, {what}", seed, index) for what in ("weights", "truth", "noise"))
    free = np.full(k, -np.inf), np.full(k, np.inf)
    system = LayerSystem(weights.normal(size=(n, k)) / n**0.5, np.zeros(n), Activation("relu"), *free)
    x = system.value(truth.normal(size=k)) + noise.uniform(-1e-2, 1e-2, n)
    layer_rows = rows(system, x, 1e-2)
    h0, _, _ = one_sided_least_squares(system, layer_rows)
    errors = layer_rows.violation(system.matrix @ h0)
    program = build(system, layer_rows, norm, h0, errors.max() if norm == "linf" else errors.mean())
    seconds, objectives = zip(*(run(program, options) for options in SOLVERS.values()), strict=True)
    return seconds, np.ptp(objectives) / max(objectives)


def measure(quick, seed):
    """A row for each layer, norm and form."""
    count, table = QUICK_INSTANCES if quick else INSTANCES, []
    for n, k in SIZES[:1] if quick else SIZES:
        for norm in ("l1", "linf"):
            for form, build in (("primal", primal), ("dual", dual_program)):
                seconds, spreads = zip(*(instance(n, k, norm, build, seed, i) for i in range(count)), strict=True)
                medians = dict(zip(SOLVERS, (1e3 * np.median(seconds, axis=0)).tolist(), strict=True))
                table.append({
                    "layer": f"{n} x {k}", "norm": norm, "form": form, "milliseconds": medians,
                    "objectives_differ_by": float(max(spreads)),
                })  # fmt: skip
    return {"instances": count, "rows": table}
