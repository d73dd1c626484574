"""Unknown levels of noise on own outputs: how near the fitted levels are, what intervals cover, and p-values.

Truths, levels and noise have random streams of their own. The range of a level is ten times as wide as the level drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from unrelu import Gaussian, from_arrays, invert, posterior
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import per_cent, table
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import one_thread
from unrelu_studies.kit.unit_runner import Unit

# Observations of a cell, those of a unit, and the draws of each of 8 chains.
COUNT, QUICK_COUNT, TOGETHER, _DRAWS = 200, 4, 20, 125
# A fitted level is near the true one if it differs by at most this share.
WITHIN = 0.1


class Cell(NamedTuple):
    """A kind of observation: the entries of the output, and the noise."""

    n: int
    known: Callable[[int], Array]  # the known standard deviations, of n entries, for outputs of size 1
    relative: bool = False
    parts: int = 1


def _equal(n: int) -> Array:
    return np.full(n, 0.02)


def _different(n: int) -> Array:
    return np.linspace(0.02, 0.2, n)


CELLS = {
    "one level, 300 entries": Cell(300, _equal),
    "one level beside known errors of .02 to .2, 400 entries": Cell(400, _different),
    "two parts of 300 entries": Cell(600, _equal, parts=2),
    "a share of the prediction, 400 entries": Cell(400, _equal, relative=True),
    "one level, 40 entries": Cell(40, _equal),
}


def generator(cell: Cell) -> Generator:
    """A random network 4-60-n of smooth outputs of about size 1, in named parts."""
    rng = stream("noise levels, weights", cell.n)
    network = from_arrays(
        [rng.standard_normal((60, 4)) / 2, rng.standard_normal((cell.n, 60)) / 60**0.5],
        [rng.standard_normal(60), rng.standard_normal(cell.n)], activation=["relu", "identity"],
    )  # fmt: skip
    return network.with_parts({f"part {i}": cell.n // cell.parts for i in range(cell.parts)})


def _units(command: Command) -> list[Unit]:
    count = command.count(COUNT, QUICK_COUNT)
    return [(name, first) for name in CELLS for first in range(0, count, TOGETHER)]


def _measure(command: Command, unit: Unit) -> list[dict[str, Any]]:
    name, first = str(unit[0]), int(unit[1])
    cell, count = CELLS[name], min(TOGETHER, command.count(COUNT, QUICK_COUNT) - first)
    network, known = generator(cell), cell.known(cell.n)
    truth = random("levels truth", command.seed, name, first).standard_normal((count, 4))
    levels = np.exp(random("levels", command.seed, name, first).uniform(np.log(0.1), 0.0, (count, cell.parts)))
    noise = random("levels noise", command.seed, name, first).standard_normal((count, cell.n))
    rows = []
    for z, own, errors in zip(truth, levels * (0.3 if cell.relative else 1.0), noise, strict=True):
        x, ends = network(z), (0.0, 10 * float(own.max()))
        deviation = np.hypot(known, np.abs(x) * own[0] if cell.relative else np.repeat(own, cell.n // cell.parts))
        stated = Gaussian(known, relative=ends) if cell.relative else Gaussian(
            known, extra=dict.fromkeys(network.names.parts, ends) if cell.parts > 1 else ends
        )  # fmt: skip
        y = x + deviation * errors
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = invert(network, y, noise=stated)
            drawn = posterior(network, y, noise=stated, draws=_DRAWS)
        low, high = np.quantile([each.ravel() for each in drawn.levels.values()], [0.05, 0.95], axis=1)
        rows.append({
            "cell": name, "p": float(found.p_value), "levels": own.tolist(),
            "fitted": [level.value for level in found.levels.values()],
            "errors": [level.error for level in found.levels.values()],
            "covered": ((low <= own) & (own <= high)).tolist(), "mixed": drawn.status.name == "MIXED",
            "seconds": [found.seconds, drawn.seconds],
        })  # fmt: skip
    return rows


def summary(results: Results, name: str) -> dict[str, float]:
    """Summarise a cell: the share of levels within 10%, the coverage of intervals, and the Kolmogorov test of p."""
    rows = [row for row in results["rows"] if row["cell"] == name]
    true, fitted = (np.concatenate([row[key] for row in rows]) for key in ("levels", "fitted"))
    errors = np.concatenate([row["errors"] for row in rows])
    return {
        "near": float(np.mean(np.abs(fitted / true - 1) <= WITHIN)),
        "of two errors": float(np.mean(np.abs(fitted - true) <= 2 * errors)),
        "coverage": float(np.mean(np.concatenate([row["covered"] for row in rows]))),
        "p": float(stats.kstest([row["p"] for row in rows], "uniform").pvalue),
        "small p": float(np.mean([row["p"] < 0.01 for row in rows])),
        "mixed": float(np.mean([row["mixed"] for row in rows])),
    }


def _table(results: Results) -> str:
    headings = ("observations", "within 10%", "within two errors", "covered by 90%", "p < .01", "Kolmogorov p", "mixed")
    keys = ("near", "of two errors", "coverage", "small p")
    rows = []
    for name in CELLS:
        own = summary(results, name)
        rows.append((name, *(per_cent(own[key]) for key in keys), f"{own['p']:.2g}", per_cent(own["mixed"])))
    return table(headings, rows)


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"noise_levels cells": _table})
