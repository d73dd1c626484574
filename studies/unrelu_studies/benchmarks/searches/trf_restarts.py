"""How far the agreement of restarts can be trusted where nothing is learned: ``unrelu.agreement`` of SciPy's trf.

Ten least-squares problems whose best optimum is known: it is where trf ends from the true parameters. Each has a pool
of restarts. Searches are random choices of a few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from unrelu import agreement, from_arrays
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import aims
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

# Restarts of a pool, searches, and the restarts of a search.
_POOL, _QUICK_POOL, _SEARCHES, RESTARTS = 300, 40, 400, (3, 10, 30)
_SAME = 0.01
_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 1.0)
_T = np.linspace(0, 1, 60)


class CurveFit(NamedTuple):
    """A least-squares problem: a model, the box of its starts, the true parameters, and the noise."""

    model: Callable[[Array], Array]
    low: Array
    high: Array
    truth: Array
    noise: float


def _peaks(p: Array) -> Array:
    return np.asarray(sum(np.exp(-(((_T - c) / 0.05) ** 2)) * a for c, a in zip(p[::2], p[1::2], strict=True)))


def _network(k: int, n: int) -> CurveFit:
    rng = stream("agreement, weights", k, n)
    network = from_arrays([rng.standard_normal((20, k)), rng.standard_normal((n, 20))], activation=["relu", "identity"])
    return CurveFit(network, np.full(k, -2.0), np.full(k, 2.0), rng.uniform(-2, 2, k), 0.3)


def _decays(p: Array) -> Array:
    return np.asarray(p[0] * np.exp(-p[1] * _T) + p[2] * np.exp(-p[3] * _T))


def _fit(
    model: Callable[[Array], Array], low: Sequence[float], high: Sequence[float], truth: Sequence[float]
) -> CurveFit:
    return CurveFit(model, np.array(low, float), np.array(high, float), np.array(truth, float), 0.05)


PROBLEMS = {
    "a frequency": lambda: _fit(lambda p: np.sin(p[0] * _T), [1.0], [60.0], [25.0]),
    "a frequency and a phase": lambda: _fit(lambda p: np.sin(p[0] * _T + p[1]), [1, 0], [40, 6.3], [17, 2]),
    "a damped oscillation": lambda: _fit(
        lambda p: np.exp(-p[0] * _T) * np.sin(p[1] * _T + p[2]), [0, 1, 0], [5, 40, 6.3], [2, 23, 1]
    ),
    "two peaks": lambda: _fit(_peaks, [0, 0] * 2, [1, 2] * 2, [0.3, 1.0, 0.7, 0.6]),
    "three peaks": lambda: _fit(_peaks, [0, 0] * 3, [1, 2] * 3, [0.2, 1.0, 0.5, 0.7, 0.8, 0.4]),
    "two decays": lambda: _fit(_decays, [0, 0, 0, 0], [3, 40, 3, 40], [1, 2, 1.5, 15]),
    "ReLU network, 2 of 10": lambda: _network(2, 10),
    "ReLU network, 4 of 20": lambda: _network(4, 20),
    "ReLU network, 6 of 12": lambda: _network(6, 12),
    "ReLU network, 8 of 30": lambda: _network(8, 30),
}


def _units(command: Command) -> list[Unit]:
    return [(name,) for name in PROBLEMS]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    """The lowest objective of the problem, and where the restarts of its pool ended."""
    name, count = str(unit[0]), command.count(_POOL, _QUICK_POOL)
    fit = PROBLEMS[name]()
    clean = fit.model(fit.truth)
    y = clean + fit.noise * random("agreement noise", command.seed, name).standard_normal(clean.shape)
    starts = random("agreement starts", command.seed, name).uniform(fit.low, fit.high, (count, len(fit.low)))
    options: Any = {"bounds": (fit.low, fit.high), "xtol": 1e-12, "ftol": 1e-12}
    with one_thread():
        ends = [2 * least_squares(lambda p: fit.model(p) - y, start, **options).cost for start in [fit.truth, *starts]]
    return {"problem": name, "lowest": float(min(ends)), "ends": [float(end) for end in ends[1:]]}


def searches(results: Results, seed: int) -> list[tuple[str, int, float, bool]]:
    """Draw searches from the pools: the problem, the number of restarts, their confidence, and whether it was right."""
    found = []
    for row in results["rows"]:
        ends, rng = np.array(row["ends"]), random("agreement searches", seed, row["problem"])
        for n in RESTARTS:
            chosen = np.stack([rng.choice(ends, n, replace=False) for _ in range(_SEARCHES)])
            right = chosen.min(axis=1) <= (1 + _SAME) * row["lowest"]
            said = agreement(chosen).tolist()
            found += [(row["problem"], n, *pair) for pair in zip(said, right.tolist(), strict=True)]
    return found


def _bins(results: Results) -> list[tuple[str, int, float, float]]:
    """Group searches by their confidence: the range, their number, the mean confidence, and the share that is right."""
    drawn = searches(results, 1)
    said, right = np.array([each[2] for each in drawn]), np.array([each[3] for each in drawn])
    rows = []
    for low, high in pairwise(_BINS):
        own = (said >= low) & (said < high)
        if own.any():
            rows.append((f"{low:g} to {high:g}", int(own.sum()), float(said[own].mean()), float(right[own].mean())))
    return rows


def _aims(results: Results) -> str:
    return aims(
        (f"confidence {which}: right at least as often", f"{right:.3f} of {count}, said {said:.3f}", right >= said)
        for which, count, said, right in _bins(results)
    )


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"agreement aims": _aims})
