"""``auto`` against Adam and Levenberg-Marquardt from ten starts: how often the best code is found, in what time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unrelu._invert import invert
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags
from unrelu.search.sample_cache import SampleCache
from unrelu.thresholds import SIGNIFICANCE
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.searches.search_cells import (
    GENERATORS,
    QUICK_CELLS,
    QUICK_INSTANCES,
    RANDOM,
    CellBatch,
    SearchCell,
    cells,
    draw,
)
from unrelu_studies.kit.binomial import share
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.timing import one_core, timed
from unrelu_studies.kit.unit_runner import Unit

# One method on one cell, see :func:`measure_cell`.
Outcome = dict[str, Any]

# Observations of a cell, and of a batch that is inverted at once.
INSTANCES, _BATCH = 20, 50
# Observations that the others get, or fewer where they take half a second and more for one.
_FEW = 4
_OTHERS = {"mnist-dcgan": 1, "mnist-leaky": 3, "mnist-sigmoid": 3}
_STARTS = 10
BLIND, KNOWN = "auto", "auto, noise known"
OURS, METHODS = (BLIND, KNOWN), (BLIND, KNOWN, "lm x10", "adam x10")


@dataclass(frozen=True, eq=False)
class Ended:
    """A batch inverted: of each observation the code, (B, k), and the verdict, (B,)."""

    z: Array
    success: Flags
    confidence: Array
    p_value: Array
    statuses: list[str]


def _units(command: Command) -> list[Unit]:
    """A cell each."""
    chosen = [c for c in (QUICK_CELLS if command.quick else cells())
              if not command.parts or c.generator in command.parts]  # fmt: skip
    return [(c.generator, c.measurement, c.noise) for c in chosen]


def _measure(command: Command, unit: Unit) -> list[Outcome]:
    cell = SearchCell(str(unit[0]), str(unit[1]), float(unit[2]))
    return list(measure_cell(cell, command.count(INSTANCES, QUICK_INSTANCES), command.seed))


def measure_cell(cell: SearchCell, instances: int, seed: int, methods: Sequence[str] = METHODS) -> Iterator[Outcome]:
    """Every method on the observations of a cell, on one core.

    Yields:
        ``generator, measurement, noise, method`` and ``instances``, observations inverted; ``success``: share of them
        with |y - A G(z)|^2 <= (1 + 1e-6) |y - A G(z*)|^2, or 1e-10 |y|^2 without noise; ``error``: median of |z - z*| /
        |z*|; ``residual``: median of |y - A G(z)|^2 over the most that is a success; ``oracle``: median of |z - z*|
        over the median of the oracle's, None without noise and for the zoo's generators; ``milliseconds``: mean time an
        observation; ``claimed``: share of ``result.success``; ``confidence``: mean of ``result.confidence``, NaN for
        methods that do not search; ``fits``: share with ``result.p_value`` >= 0.01, NaN where no noise is stated;
        ``statuses``: how the inversions ended; ``per_success``: milliseconds spent for each success.
    """
    sizes = [min(_BATCH, instances - done) for done in range(0, instances, _BATCH)]
    batches = [draw(cell, size, index, seed) for index, size in enumerate(sizes)]
    for batch in batches:
        problem = Problem.build(batch.network, batch.y, operator=batch.operator).equilibrated()
        _ = SampleCache.of(problem).model.parts  # built once for each generator; timed apart
    others = [batches[0].first(_OTHERS.get(cell.generator, _FEW))]
    for method in methods:
        if cell.noise or method != KNOWN:
            with one_core():
                yield _outcome(cell, method, batches if method in OURS else others)


def _outcome(cell: SearchCell, method: str, batches: Sequence[CellBatch]) -> Outcome:
    ended, seconds = timed(lambda: [inverted(batch, method) for batch in batches])
    truth, target = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("truth", "target"))
    z, claimed, confidence, p_value = (
        np.concatenate([getattr(e, name) for e in ended]) for name in ("z", "success", "confidence", "p_value")
    )
    misfit = np.concatenate([batch.misfit(e.z) for batch, e in zip(batches, ended, strict=True)])
    errors, success = np.linalg.norm(z - truth, axis=1), float(np.mean(misfit <= target))
    known = [batch.oracle for batch in batches if batch.oracle is not None]
    milliseconds = 1e3 * seconds / len(truth)
    return {
        "generator": cell.generator, "measurement": cell.measurement, "noise": cell.noise, "method": method,
        "instances": len(truth), "success": success,
        "error": float(np.median(errors / np.linalg.norm(truth, axis=1))),
        "residual": float(np.median(misfit / target)),
        "oracle": float(np.median(errors) / np.median(np.concatenate(known))) if cell.noise and known else None,
        "milliseconds": milliseconds, "claimed": float(np.mean(claimed)), "confidence": float(np.mean(confidence)),
        "fits": math.nan if np.isnan(p_value).any() else float(np.mean(p_value >= SIGNIFICANCE)),
        "statuses": dict(Counter(status for e in ended for status in e.statuses)),
        "per_success": milliseconds / success if success else math.inf,
    }  # fmt: skip


def inverted(batch: CellBatch, method: str) -> Ended:
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
    return Ended(**chosen, statuses=[str(runs[run].verdict[i]) for i, run in enumerate(best)])


def _table(results: Results) -> str:
    """Of each generator of the zoo, and of the random nets together: shares and median times over its cells."""
    groups: dict[tuple[str, bool], list[Outcome]] = {}
    for o in results["outcomes"]:
        name = "random nets" if o["generator"] in RANDOM else f"`{o['generator']}`"
        groups.setdefault((name, bool(o["noise"])), []).append(o)
    rows = []
    for (name, noisy), group in groups.items():
        by_method = {method: [o for o in group if o["method"] == method] for method in METHODS}
        rows.append((name, "yes" if noisy else "no", *(_found(outcomes) for outcomes in by_method.values())))
    return table(("generator", "noise", *METHODS), rows)


def _found(outcomes: Sequence[Outcome]) -> str | None:
    if not outcomes:
        return None
    found = sum(round(o["success"] * o["instances"]) for o in outcomes)
    count = sum(o["instances"] for o in outcomes)
    return f"{share(found, count)}, {short(float(np.median([o['milliseconds'] for o in outcomes])))} ms"


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"search": _table},
    collect=lambda command, parts: {"outcomes": [outcome for part in parts for outcome in part]},
    parts=GENERATORS,
)
