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

from unrelu._invert import invert
from unrelu.measurements.noise import SIGNIFICANCE
from unrelu.search.sample_bank import Bank
from unrelu_studies.benchmarks.instances import REPORT_SEED
from unrelu_studies.benchmarks.one_core import one_core
from unrelu_studies.benchmarks.search_cells import CellBatch, SearchCell, cells, draw

Array = npt.NDArray[np.float64]

# Observations of a cell, and of a batch that is inverted at once.
_INSTANCES = 100
_BATCH = 50
# Observations that the others get, or fewer where they take half a second and more for one.
_FEW = 20
_OTHERS = {"mnist-dcgan": 3, "mnist-leaky": 10, "mnist-sigmoid": 10}
_STARTS = 10
BLIND, KNOWN = "auto", "auto, noise known"
METHODS = (BLIND, KNOWN, "lm x10", "adam x10")


@dataclass(frozen=True)
class SearchOutcome:
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
        claimed: share of ``result.success``: what the method itself calls a success.
        confidence: mean of ``result.confidence``; NaN for methods that do not search.
        fits: share with ``result.p_value`` >= 0.01; NaN where no noise is stated.
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
    claimed: float
    confidence: float
    fits: float
    statuses: dict[str, int]

    @property
    def per_success(self) -> float:
        """Milliseconds spent for each success."""
        return self.milliseconds / self.success if self.success else math.inf


@dataclass(frozen=True, eq=False)
class _Ended:
    """A batch inverted: of each observation the code, (B, k), and the verdict, (B,)."""

    z: Array
    success: npt.NDArray[np.bool_]
    confidence: Array
    p_value: Array
    statuses: list[str]


def measure_search(
    instances: int | None = None,
    seed: int = REPORT_SEED,
    chosen: Sequence[SearchCell] | None = None,
    methods: Sequence[str] = METHODS,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Iterator[SearchOutcome]:
    """Every method on every cell, in one process and on one core.

    Args:
        instances: observations of a cell for ``auto``; 100 by default. The others get the first 20 of them at most.
        seed: of the observations.
        chosen: the cells; all by default.
        methods: the methods.
        progress: called with the name of what is measured, the cells done and their total.
    """
    chosen = cells() if chosen is None else chosen
    for done, cell in enumerate(chosen):
        progress(f"{cell.generator} {cell.measurement} {cell.noise:g}", done, len(chosen))
        yield from _of_cell(cell, instances or _INSTANCES, seed, methods)


def _of_cell(cell: SearchCell, instances: int, seed: int, methods: Sequence[str]) -> Iterator[SearchOutcome]:
    sizes = [min(_BATCH, instances - done) for done in range(0, instances, _BATCH)]
    batches = [draw(cell, size, index, seed) for index, size in enumerate(sizes)]
    for batch in batches:
        _ = Bank.of(batch.network).model  # built once for each generator; timed apart
    others = [batches[0].first(_OTHERS.get(cell.generator, _FEW))]
    for method in methods:
        if cell.noise or method != KNOWN:
            with one_core():
                yield _outcome(cell, method, batches if method in (BLIND, KNOWN) else others)


def _outcome(cell: SearchCell, method: str, batches: Sequence[CellBatch]) -> SearchOutcome:
    begin = time.perf_counter()
    ended = [_inverted(batch, method) for batch in batches]
    seconds = time.perf_counter() - begin
    truth, target = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("truth", "target"))
    misfit = np.concatenate([batch.misfit(e.z) for batch, e in zip(batches, ended, strict=True)])
    errors = np.linalg.norm(np.concatenate([e.z for e in ended]) - truth, axis=1)
    p_value = np.concatenate([e.p_value for e in ended])
    return SearchOutcome(
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
        claimed=float(np.mean(np.concatenate([e.success for e in ended]))),
        confidence=float(np.mean(np.concatenate([e.confidence for e in ended]))),
        fits=math.nan if np.isnan(p_value).any() else float(np.mean(p_value >= SIGNIFICANCE)),
        statuses=dict(Counter(status for e in ended for status in e.statuses)),
    )


def _against_oracle(errors: Array, batches: Sequence[CellBatch]) -> float | None:
    """The median error over the median error of the oracle."""
    known = [batch.oracle for batch in batches if batch.oracle is not None]
    return float(np.median(errors) / np.median(np.concatenate(known))) if known else None


def _inverted(batch: CellBatch, method: str) -> _Ended:
    """A batch by one method; of ten Levenberg-Marquardt runs the best for each observation."""
    solve = partial(invert, batch.network, batch.y, operator=batch.operator, norm="l2")
    if method == "lm x10":
        runs = [solve("lm", seed=seed) for seed in range(_STARTS)]
    elif method == "adam x10":
        runs = [solve("adam", restarts=_STARTS)]
    else:
        runs = [solve(noise=f"gaussian:{batch.noise}" if method == KNOWN else None)]
    best = np.argmin([np.nan_to_num(run.fun, nan=np.inf) for run in runs], axis=0)
    chosen = {
        name: np.array([getattr(runs[run], name)[i] for i, run in enumerate(best)])
        for name in ("z", "success", "confidence", "p_value")
    }
    return _Ended(**chosen, statuses=[str(runs[run].status[i]) for i, run in enumerate(best)])
