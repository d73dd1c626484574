r"""Posterior predictive checks: whether replicated observations look like the observed one.

.. math:: p = P\big(T(y^{rep}, \mu) \ge T(y, \mu) \,\big|\, y\big), \qquad y^{rep} \sim p(\cdot | z), \quad \mu = A G(z)

for draws z of the posterior, and with unknown levels of noise draws of these. The statistic T may depend on the code by
the prediction. By default it is the discrepancy that the likelihood is made of: chi-square, or the deviance.

Source: Gelman, Meng and Stern, "Posterior predictive assessment of model fitness via realized discrepancies",
Statistica Sinica 6 (1996).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from unrelu.diagnostics.fitted_levels import variances_at
from unrelu.errors import InputError
from unrelu.measurements.whitening import known_entries
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array

Statistic: TypeAlias = Callable[[Array, Array], Any]


def predictive_p_value(
    problem: Problem, z: Array, levels: Mapping[str, Array], best: Array, statistic: Statistic | None,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Compute the p-value of one observation.

    Args:
        problem: the problem as stated, of this observation.
        z: draws of codes, (N, k).
        levels: draws of unknown levels, (N,) each, by name.
        best: the best code, (k,).
        statistic: T(y, mean), (N,), of arrays (N, *shape of an observation), 0 at hidden entries.
        rng: the source of the replicated observations.

    Raises:
        InputError: T does not return a number for each row.
    """
    many = problem.part(np.zeros(len(z), dtype=np.int64))
    seen, mean = known_entries(many.noise, many.operator, len(z)), many.mean_of(many.network.outputs(z))
    if levels:
        (variances,) = variances_at(problem, problem.mean_of(problem.network.outputs(best[None])))
        deviation = np.sqrt([variances.at(each) for each in np.stack([*levels.values()], axis=1)])
        deviation = np.where(seen, deviation, 1.0)
        replicated = mean + deviation * rng.standard_normal(mean.shape)
    else:
        replicated = many.noise.draw(mean, rng)

    def value(y: Array) -> Array:
        if statistic is not None:
            shape = (len(z), *problem.operator.shape)
            found = np.asarray(statistic(*(np.where(seen, each, 0.0).reshape(shape) for each in (y, mean))))
            if found.shape != (len(z),):
                raise InputError(f"statistic= returns shape {found.shape} for {shape}; it returns a number a row, (N,)")
            return found
        if levels:
            return np.asarray(np.square(np.where(seen, (y - mean) / deviation, 0.0)).sum(axis=1))
        own = replace(many, y=np.where(seen, y, 0.0), given=None).whitened()
        return np.asarray(np.square(own.residual_of(own.network.outputs(z))).sum(axis=1))

    return float(np.mean(value(replicated) >= value(many.y)))
