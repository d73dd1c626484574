"""``auto`` against Adam and Levenberg-Marquardt from ten starts: how often the best code is found, in what time."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from unrelu.benchmarks.instances import REPORT_SEED
from unrelu.benchmarks.search_cells import Batch, Cell, cells, draw
from unrelu.machine import one_core
from unrelu.methods.bank import Bank
from unrelu.solve import invert

__all__ = ["BLIND", "KNOWN", "METHODS", "Outcome", "measure_search"]

Array = npt.NDArray[np.float64]

# Observations of a cell, and of a batch that is inverted at once.
_INSTANCES = 200
_BATCH = 50
# Observations that the others get: a batch, or fewer where they take seconds for one.
_OTHERS = {"mnist-dcgan": 5, "mnist-leaky": 10, "mnist-sigmoid": 10}
_STARTS = 10
BLIND, KNOWN = "auto", "auto, noise known"
METHODS = (BLIND, KNOWN, "lm x10", "adam x10")


@dataclass(frozen=True)
class Outcome:
    """One method on one cell.

    Attributes:
        generator, measurement, noise: the cell.
        method: a name of :data:`METHODS`.
        instances: observations inverted.
        success: share of them with |y - A G(z)|^2 <= (1 + 1e-6) |y - A G(z*)|^2, or 1e-10 |y|^2 without noise.
        error: median of |z - z*| / |z*|.
        residual: median of |y - A G(z)|^2 over the most that is a success.
        oracle: median of |z - z*| over the median of the oracle's; None without noise and for the zoo's generators.
        milliseconds: mean time an observation.
        statuses: how the inversions ended.
    """

    generator: str
    measurement: str
    noise: float
    method: str
    instances: int
    success: float
    error: float
    residual: float
    oracle: float | None
    milliseconds: float
    statuses: dict[str, int]

    @property
    def per_success(self) -> float:
        """Milliseconds spent for each success."""
        return self.milliseconds / self.success if self.success else math.inf


def measure_search(
    instances: int | None = None,
    seed: int = REPORT_SEED,
    chosen: Sequence[Cell] | None = None,
    methods: Sequence[str] = METHODS,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Iterator[Outcome]:
    """Every method on every cell, in one process and on one core.

    Args:
        instances: observations of a cell for ``auto``; 200 by default. The others get the first 50 of them at most.
        seed: of the observations.
        chosen: the cells; all by default.
        methods: the methods.
        progress: called with the name of what is measured, the cells done and their total.
    """
    chosen = cells() if chosen is None else chosen
    for done, cell in enumerate(chosen):
        progress(f"{cell.generator} {cell.measurement} {cell.noise:g}", done, len(chosen))
        yield from _of_cell(cell, instances or _INSTANCES, seed, methods)


def _of_cell(cell: Cell, instances: int, seed: int, methods: Sequence[str]) -> Iterator[Outcome]:
    sizes = [min(_BATCH, instances - done) for done in range(0, instances, _BATCH)]
    batches = [draw(cell, size, index, seed) for index, size in enumerate(sizes)]
    for batch in batches:
        _ = Bank.of(batch.network).model  # built once for each generator; timed apart
    others = [batches[0].first(_OTHERS.get(cell.generator, _BATCH))]
    for method in methods:
        if cell.noise or method != KNOWN:
            with one_core():
                yield _outcome(cell, method, batches if method in (BLIND, KNOWN) else others)


def _outcome(cell: Cell, method: str, batches: Sequence[Batch]) -> Outcome:
    codes, statuses = [], Counter[str]()
    begin = time.perf_counter()
    for batch in batches:
        z, ended = _inverted(batch, method)
        codes.append(z)
        statuses.update(ended)
    seconds = time.perf_counter() - begin
    truth = np.concatenate([batch.truth for batch in batches])
    misfit = np.concatenate([batch.misfit(z) for batch, z in zip(batches, codes, strict=True)])
    target = np.concatenate([batch.target for batch in batches])
    errors = np.linalg.norm(np.concatenate(codes) - truth, axis=1)
    return Outcome(
        cell.generator,
        cell.measurement,
        cell.noise,
        method,
        instances=len(truth),
        success=float(np.mean(misfit <= target)),
        error=float(np.median(errors / np.linalg.norm(truth, axis=1))),
        residual=float(np.median(misfit / target)),
        oracle=_against_oracle(errors, batches) if cell.noise else None,
        milliseconds=1e3 * seconds / len(truth),
        statuses=dict(statuses),
    )


def _against_oracle(errors: Array, batches: Sequence[Batch]) -> float | None:
    """The median error over the median error of the oracle."""
    known = [batch.oracle for batch in batches if batch.oracle is not None]
    return float(np.median(errors) / np.median(np.concatenate(known))) if known else None


def _inverted(batch: Batch, method: str) -> tuple[Array, list[str]]:
    """Codes of a batch and how each ended; of ten Levenberg-Marquardt runs the best for each observation."""
    solve = partial(invert, batch.network, batch.y, operator=batch.operator, norm="l2")
    if method == "lm x10":
        runs = [solve("lm", seed=seed) for seed in range(_STARTS)]
    elif method == "adam x10":
        runs = [solve("adam", restarts=_STARTS)]
    else:
        runs = [solve(noise=f"gaussian:{batch.noise}" if method == KNOWN else None)]
    best = np.argmin([np.nan_to_num(run.fun, nan=np.inf) for run in runs], axis=0)
    return (
        np.array([runs[run].z[i] for i, run in enumerate(best)]),
        [str(runs[run].status[i]) for i, run in enumerate(best)],
    )
