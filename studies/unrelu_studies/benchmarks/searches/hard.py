"""Generators on which descents get stuck: how often each search finds the best code, in what time, and how sure it is.

The best known objective of an observation is the least of the truth's (after a descent from it), of a search with
another seed and many more rounds, of 50 Levenberg-Marquardt descents from random starts for the first few, and of all
that is compared here. The generators are those that nothing was tuned on. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import least_squares

from unrelu import invert
from unrelu.measurements import read_operator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.search.auto import Search
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, rows_of
from unrelu_studies.benchmarks.searches.hard_cells import AMBIGUOUS, DETERMINED, REPORT, TUNE, HardBatch, draw
from unrelu_studies.kit.binomial import counted, share
from unrelu_studies.kit.markdown_tables import per_cent, short, table
from unrelu_studies.kit.numbers_file import plain
from unrelu_studies.kit.unit_runner import Unit

# Observations of a cell, which are inverted together.
COUNT, QUICK_COUNT = 20, 10
# A code is the best if its objective is within this share of the best known; below this share of |y|^2 it is an exact
# fit.
WITHIN, ZERO = 1e-2, 1e-9
STARTS, DESCENTS = 10, 50
SURE = 0.99
# The heavy search: 12 chains of 128 perturbations each, and 24 where a network has few parameters and a step costs
# little: on narrow nets, many chains together miss the best code. A quick one: 12 of 32.
HEAVY_ROUNDS, HEAVY_ROUNDS_SMALL, SMALL, QUICK_ROUNDS = 10, 12, 2000, 8
BINS = np.linspace(0.0, 1.0, 11)


def _units(command: Command) -> list[Unit]:
    """A generator, a measurement and a noise each."""
    names = command.parts or (("10-30-60 relu 6", "6-10-12-16-40 relu 7") if command.quick else REPORT)
    return [(name, *cell) for name in names for cell in (*DETERMINED, *AMBIGUOUS)]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, measurement, noise = str(unit[0]), str(unit[1]), float(unit[2])
    count = command.count(COUNT, QUICK_COUNT)
    batch = draw(name, measurement, noise, count, command.seed)
    with computing(one_thread=True):
        found, milliseconds = _timed(batch, lambda part, y: invert(batch.network, y, operator=batch.operator), count)
        objectives, times = {"auto": _objective(batch, found.z)}, {"auto": milliseconds}
        for peer, method in PEERS.items():
            codes, times[peer] = _timed(batch, method, min(FEW, count))
            objectives[peer] = _objective(batch, codes.z)
        rivals = [_from_truth(batch), _descents(batch, batch.y[:FEW])]
        if noise:
            heavy = _heavy(batch.network, command.quick)
            rivals.append(invert(batch.network, batch.y, heavy, operator=batch.operator, seed=1 + command.seed).z)
    best = np.full(count, np.inf)
    for f in (*objectives.values(), *(_objective(batch, z) for z in rivals)):
        best[: len(f)] = np.minimum(best[: len(f)], f)
    exact = ZERO * np.square(batch.y.reshape(count, -1)).sum(axis=1)
    most = np.maximum((1 + WITHIN) * best, exact)
    return {
        "generator": name, "measured": measurement, "noise": noise, "ambiguous": (measurement, noise) in AMBIGUOUS,
        "objective": plain(np.maximum(objectives["auto"], exact), 6), "known": plain(np.maximum(best, exact), 6),
        "best": (objectives["auto"] <= most).tolist(), "confidence": found.confidence.tolist(),
        "found": {peer: [int((f <= most[: len(f)]).sum()), len(f)] for peer, f in objectives.items()},
        "milliseconds": times,
    }  # fmt: skip


def _heavy(network: Network, quick: bool) -> Search:
    """The search whose codes are compared with, of another seed."""
    rounds = HEAVY_ROUNDS_SMALL if network.parameters <= SMALL else HEAVY_ROUNDS
    return Search(confidence=1.0, rounds=QUICK_ROUNDS if quick else rounds, learn=False)


def _timed(batch: HardBatch, method: Callable[[HardBatch, Array], Any], size: int) -> tuple[Any, float]:
    """What a method finds for the first observations, and CPU milliseconds for each."""
    y = batch.y[:size]
    invert(batch.network, y, operator=batch.operator)  # compiles, draws samples, and learns for all levels of noise
    begin = time.process_time()
    found = method(batch, y)
    return found, 1e3 * (time.process_time() - begin) / len(y)


def _objective(batch: HardBatch, z: Array) -> Array:
    """|y - A G(z)|^2 of codes of the first observations, (b,)."""
    operator = read_operator(batch.operator, batch.network.output_shape, batch.y.shape)
    x = batch.network(z).reshape(len(z), -1)
    r = batch.y[: len(z)].reshape(len(z), -1) - operator.values(x)
    return np.asarray(np.nan_to_num(np.square(r).sum(axis=1), nan=np.inf))


def _from_truth(batch: HardBatch) -> Array:
    result = invert(batch.network, batch.y, "lm", operator=batch.operator, z0=batch.truth)
    return np.where(np.isfinite(result.z), result.z, batch.truth)


def _descents(batch: HardBatch, y: Array) -> Array:
    """Of each observation the best of :data:`DESCENTS` Levenberg-Marquardt descents from N(0, I), (b, k)."""
    k = batch.network.latent_dim
    starts = stream("hard, descents").standard_normal((len(y), DESCENTS, k)).reshape(-1, k)
    found = invert(batch.network, np.repeat(y, DESCENTS, axis=0), "lm", operator=batch.operator, z0=starts)
    values = np.nan_to_num(found.residual("l2"), nan=np.inf).reshape(len(y), DESCENTS)
    return np.asarray(found.z.reshape(len(y), DESCENTS, k)[np.arange(len(y)), values.argmin(axis=1)])


def _adam(batch: HardBatch, y: Array) -> Any:
    return invert(batch.network, y, "adam", operator=batch.operator, restarts=STARTS)


class _Codes(NamedTuple):
    """Codes of a method without a confidence."""

    z: Array


def _scipy(batch: HardBatch, y: Array) -> _Codes:
    """scipy.optimize.least_squares: MINPACK's Levenberg-Marquardt, or trf where entries are fewer than unknowns."""
    network = batch.network
    assert isinstance(network, Network)
    operator = read_operator(batch.operator, network.output_shape, y.shape)
    rng, k, codes = stream("hard, scipy's starts"), network.latent_dim, []
    jacobian = _jacobian_of(network)
    for row in y.reshape(len(y), -1):
        runs = [
            least_squares(
                lambda z, row=row: operator.values(network(z[None]).reshape(1, -1))[0] - row,
                rng.standard_normal(k),
                lambda z: operator.values(jacobian(z)).T,
                method="lm" if operator.m >= k else "trf",
            )
            for _ in range(STARTS)
        ]
        codes.append(min(runs, key=lambda run: run.cost).x)
    return _Codes(np.array(codes))


def _jacobian_of(network: Network) -> Callable[[Array], Array]:
    """The Jacobian's transpose at a code, (k, n), layer by layer in NumPy."""

    def jacobian(z: Array) -> Array:
        _, tangents = network.linearize(torch.tensor(z[None]))
        return tangents[0].numpy()

    return jacobian


# Observations that descents from many starts are given, and the peers.
FEW = 3
PEERS = {"scipy x10": _scipy, "adam x10": _adam}


# --- tables -----------------------------------------------------------------------------------------------------------


def _cells(results: Results) -> str:
    """Of each measurement and noise: shares of best codes and median times over the generators."""
    rows, methods = [], ("auto", *PEERS)
    for measured, noise in dict.fromkeys((r["measured"], r["noise"]) for r in results["rows"]):
        group = [r for r in results["rows"] if (r["measured"], r["noise"]) == (measured, noise)]
        rows.append((measured, f"{noise:g}", *(share_and_time(group, method) for method in methods)))
    return table(("measured", "noise", *methods), rows)


def share_and_time(rows: list[Results], method: str) -> str:
    """The share of best codes of a method with its interval, and the median of milliseconds."""
    found, count = np.sum([r["found"][method] for r in rows], axis=0)
    return f"{share(int(found), int(count))}, {short(float(np.median([r['milliseconds'][method] for r in rows])))} ms"


def calibration_error(confidence: Array, best: Flags) -> float:
    """The mean distance of confidence and share of best codes over ten bins, weighted by how many are in each."""
    bins = np.minimum(np.digitize(confidence, BINS) - 1, len(BINS) - 2)
    return float(sum(abs(best[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)) / len(best))


def _gathered(rows: list[dict[str, Any]]) -> tuple[Array, Flags]:
    return np.concatenate([r["confidence"] for r in rows]), np.concatenate([r["best"] for r in rows])


def _confidence(results: Results) -> str:
    """How sure the search is of observations with noise, and how often it is right."""
    rows = [r for r in results["rows"] if r["noise"]]
    confidence, best = _gathered(rows)
    sure = confidence >= SURE
    determined, ambiguous = (
        float((_gathered([r for r in rows if r["ambiguous"] == of])[0] >= SURE).mean()) for of in (False, True)
    )
    return (
        f"Of {len(best):,} answers with noise, {int(sure.sum()):,} have a confidence of {SURE:g} or more, "
        f"{per_cent(determined)} where the data determine the code and {per_cent(ambiguous)} where they are ambiguous. "
        f"Of these are not the best code {counted(int((~best[sure]).sum()), int(sure.sum()))}. "
        f"The calibration error is {calibration_error(confidence, best):.3f}."
    )


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"hard": _cells, "hard confidence": _confidence},
    collect=rows_of,
    parts=(*REPORT, *TUNE),
)
