"""The distinct local optima that a search found: where its restarts ended, refined, compared and judged."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace

import numpy as np

from unrelu.diagnostics.code_diagnostics import BREAKDOWNS, diagnosed
from unrelu.problem import Problem
from unrelu.result import Inversion
from unrelu.result.optima import Optima
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.runtime.run_control import Control
from unrelu.search.joint_search import JointSearch
from unrelu.thresholds import SAME_OPTIMUM

# Two codes are the same optimum if they are closer than the first distance, in working units, or relative to the root
# mean square of long codes. Kinks can end descents early, and along a flat direction descents end anywhere. Codes that
# do not fit exactly are therefore one optimum if the objective rises by at most this share between them, and they are
# closer than the second distance or have equal objectives. In one valley of trained ReLU decoders, descents end up to
# .1 apart, with rises of up to 6e-5.
_SAME, _VALLEY, _RISE = 1e-4, 0.1, 1e-4
_BETWEEN = np.array([[0.25], [0.5], [0.75]])


@computing()
def distinct_optima(result: Inversion, seconds: float = math.inf) -> list[Optima] | None:
    """Find the optima of each observation, including the code of the result; None if ``seconds`` do not suffice.

    Raises:
        InputError: the result was loaded without its network.
    """
    control = Control(seconds)
    stated = replace(result.problem, control=control)
    problem, codes = stated.equilibrated(), result.batch.z
    rows = np.repeat(np.arange(stated.size), np.array([len(ends) for ends in result.restarts], dtype=np.int64))
    z = problem.units.coordinates(np.concatenate([codes, *result.restarts]))
    if len(rows):
        with suppress(*BREAKDOWNS):  # they stay as the search left them
            z[len(codes) :] = JointSearch(problem).optima_from(rows, z[len(codes) :])
    if control.expired():
        return None
    rows = np.concatenate([np.arange(stated.size), rows])
    return [
        _of_one(stated.part(i), problem.part(i), z[rows == i], codes[i], result.norm) for i in rows[: len(codes), None]
    ]


def _of_one(stated: Problem, problem: Problem, z: Array, code: Array, norm: str) -> Optima:
    """Find the distinct optima of one observation.

    Args:
        stated, problem: the problem in the user's units, and in working units.
        z: the code, followed by the refined ends of restarts, (c, k).
        code: the code in the user's units, (1, k).
        norm: the norm of objectives.
    """
    every = problem.part(np.zeros(len(z), dtype=np.int64))
    f, exact = every.objective(z, norm), every.fits_exactly(z) & (not problem.prior)
    kept, reached, size = [0], [0], max(1.0, float(np.sqrt(np.square(z[0]).mean())))
    for i in [int(i) for i in np.argsort(f) if i and np.isfinite(f[i])]:
        away = np.abs(z[kept] - z[i]).max(axis=1) / size
        same = away <= _SAME
        near = (away <= _VALLEY) | (np.abs(f[kept] - f[i]) <= SAME_OPTIMUM * f[i])
        for j in np.flatnonzero(~same & near & ~exact[i]):
            between = problem.part(np.zeros(3, dtype=np.int64)).objective(z[i] + _BETWEEN * (z[kept[j]] - z[i]), norm)
            same[j] = between.max() <= (1 + _RISE) * max(f[i], f[kept[j]])
        if same.any():
            reached[int(same.argmax())] += 1
        else:
            kept.append(i)
            reached.append(1)
    found = diagnosed(Inversion.of(every.part(np.array(kept)), z[kept], method="auto", norm=norm)).batch
    found = found.in_units_of(stated.part(np.zeros_like(kept)))
    found.z[0], order = code, np.argsort(np.where(exact[kept], 0.0, f[kept]), kind="stable")
    optima = Optima(
        stated.network.shaped(found.z), found.fun, np.array(reached), found.p_value, found.success, stated.names
    )
    return optima[order[: len(order) * np.isfinite(code).all()]]
