"""What a step of the compiled descents costs: ``python -m unrelu_studies.benchmarks.tuning.step_costs``.

Descents and perturbations are timed on the hard generators to tune on, and the costs of the model in
:mod:`unrelu.search.descents` are fitted to the times, by least squares of their relative errors; none is below zero.
Prints the costs that the model has and the fitted ones, in microseconds, and how far each is from the times (one
minute). The model decides how much effort a search may spend, so that it does not depend on the load of the machine.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.optimize import nnls

from unrelu.local_search.halting import Watch
from unrelu.problem import Problem
from unrelu.runtime.host import computing
from unrelu.runtime.run_control import Progress
from unrelu.search.descents import CompiledDescents, Start, step_terms
from unrelu.search.schedules import STEP_COST
from unrelu_studies.benchmarks.searches.hard_cells import AMBIGUOUS, DETERMINED, TUNE, draw
from unrelu_studies.kit.random_instances import random

# Observations of a cell, chains of each, and perturbations of each chain.
_SIZE, _RESTARTS, _PERTURBATIONS = 20, 4, 8


def timed(name: str, measurement: str, noise: float) -> tuple[np.ndarray, float]:
    """The terms of the model, and the microseconds that a step took."""
    batch = draw(name, measurement, noise, _SIZE, seed=3)
    rng = random("starts and perturbations", 3, name, measurement, noise)
    with computing(one_thread=True):
        problem = Problem.build(batch.network, batch.y, operator=batch.operator).equilibrated()
        descents = CompiledDescents(problem)
        k = batch.network.latent_dim
        start = Start(
            np.arange(_SIZE), rng.standard_normal((_SIZE, _RESTARTS, k)), np.full((_SIZE, _RESTARTS), np.inf),
            rng.standard_normal((_SIZE, _RESTARTS, _PERTURBATIONS, k)),
        )  # fmt: skip
        watch = Watch(problem.control, lambda: Progress("auto", 0, 0, _SIZE, start.z[:, 0]))
        begin = time.thread_time()
        steps = descents.improve(start, np.zeros(_SIZE), watch).sum()
    return step_terms(descents.packed.layout), 1e6 * (time.thread_time() - begin) / steps


def main() -> None:
    """Time, fit and print."""
    cells = [(name, *cell) for name in TUNE for cell in (*DETERMINED, *AMBIGUOUS)]
    timed(*cells[0])  # compiles
    terms, took = map(np.array, zip(*(timed(*cell) for cell in cells), strict=True))
    fitted, _ = nnls(terms / took[:, None], np.ones(len(took)))
    for label, cost in (("model", np.array(STEP_COST)), ("fitted", fitted)):
        ratio = terms @ cost / took
        low, median, high = np.quantile(ratio, (0.1, 0.5, 0.9))
        numbers = ", ".join(f"{value:.2g}" for value in cost)
        print(f"{label}: {numbers}; model / time: median {median:.2f}, deciles {low:.2f} and {high:.2f}")


if __name__ == "__main__":
    main()
