"""Generators on which descents get stuck: how often each search finds the best code, in what time, and how sure it is.

The best known objective of an observation is the least of the truth's (after a descent from it), of a search with
another seed and many more rounds, of 50 Levenberg-Marquardt descents from random starts for the first ten, and
of all that is compared here. The generators are those that nothing was tuned on. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from scipy.optimize import least_squares

from unrelu import invert
from unrelu.measurements import read_operator
from unrelu.models.network import Network
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.search.auto import Search
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, rows_of
from unrelu_studies.benchmarks.searches.hard_cells import AMBIGUOUS, DETERMINED, REPORT, HardBatch, draw
from unrelu_studies.kit.markdown_tables import aims, per_cent, short, table
from unrelu_studies.kit.picture_style import PAGE, footer, panels, tidy
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

COUNT, QUICK_COUNT = 200, 10
# Observations that are inverted together.
BATCH = 50
# A code is the best if its objective is within this share of the best known; below this share of |y|^2 it is an exact
# fit.
WITHIN, ZERO = 1e-2, 1e-9
# Those of 20-60-784.
DECODERS = ("plain-vae-1", "plain-vae-2", "mnist-relu")
STARTS, DESCENTS = 10, 50
SURE = 0.99
# The heavy search: 12 chains of 256 perturbations each, and 24 where a network has few parameters and a step costs
# little: on narrow nets, many chains together miss the best code. A quick one: 12 of 32.
HEAVY_ROUNDS, HEAVY_ROUNDS_SMALL, SMALL, QUICK_ROUNDS = 11, 13, 2000, 8
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
        objectives, times = {"auto": _objective(batch, found["z"])}, {"auto": milliseconds}
        for peer, (method, few) in PEERS.items():
            codes, times[peer] = _timed(batch, method, min(few, count))
            objectives[peer] = _objective(batch, codes["z"])
        rivals = [_from_truth(batch), _descents(DESCENTS - STARTS, STARTS)(batch, batch.y[:FEW]).z]
        if noise:
            heavy = _heavy(batch.network, command.quick)
            rivals.append(invert(batch.network, batch.y, heavy, operator=batch.operator, seed=1 + command.seed).z)
    best = np.full(count, np.inf)
    for f in (*objectives.values(), *(_objective(batch, z) for z in rivals)):
        best[: len(f)] = np.minimum(best[: len(f)], f)
    most = np.maximum((1 + WITHIN) * best, ZERO * np.square(batch.y.reshape(count, -1)).sum(axis=1))
    return {
        "generator": name, "measured": measurement, "noise": noise, "ambiguous": (measurement, noise) in AMBIGUOUS,
        "best": (objectives["auto"] <= most).tolist(), "confidence": found["confidence"].tolist(),
        "shares": {peer: float((f <= most[: len(f)]).mean()) for peer, f in objectives.items()},
        "milliseconds": times,
    }  # fmt: skip


def _heavy(network: Network, quick: bool) -> Search:
    """The search whose codes are compared with, of another seed."""
    rounds = HEAVY_ROUNDS_SMALL if network.parameters <= SMALL else HEAVY_ROUNDS
    return Search(confidence=1.0, rounds=QUICK_ROUNDS if quick else rounds, learn=False)


def _timed(batch: HardBatch, method: Callable[[HardBatch, Array], Any], size: int) -> tuple[dict[str, Array], float]:
    """Codes and confidences of the first observations, :data:`BATCH` at a time, and CPU milliseconds for each."""
    y = batch.y[:size]
    invert(batch.network, y, operator=batch.operator)  # compiles, draws samples, and learns for all levels of noise
    codes, sure, begin = [], [], time.process_time()
    for start in range(0, len(y), BATCH):
        result = method(batch, y[start : start + BATCH])
        codes.append(result.z)
        sure.append(result.confidence)
    seconds = time.process_time() - begin
    return {"z": np.concatenate(codes), "confidence": np.concatenate(sure)}, 1e3 * seconds / len(y)


def _objective(batch: HardBatch, z: Array) -> Array:
    """|y - A G(z)|^2 of codes of the first observations, (b,)."""
    operator = read_operator(batch.operator, batch.network.output_shape, batch.y.shape)
    x = batch.network(z).reshape(len(z), -1)
    r = batch.y[: len(z)].reshape(len(z), -1) - operator.values(x)
    return np.asarray(np.nan_to_num(np.square(r).sum(axis=1), nan=np.inf))


def _from_truth(batch: HardBatch) -> Array:
    result = invert(batch.network, batch.y, "lm", operator=batch.operator, z0=batch.truth)
    return np.where(np.isfinite(result.z), result.z, batch.truth)


def _descents(count: int, first: int = 0) -> Callable[[HardBatch, Array], Any]:
    """The best of so many Levenberg-Marquardt descents from N(0, I)."""

    def run(batch: HardBatch, y: Array) -> Any:
        seeds = range(first, first + count)
        return _best([invert(batch.network, y, "lm", operator=batch.operator, seed=seed) for seed in seeds])

    return run


def _adam(batch: HardBatch, y: Array) -> Any:
    return _best([invert(batch.network, y, "adam", operator=batch.operator, seed=seed) for seed in range(STARTS)])


class _Codes:
    """Codes of a method without a confidence."""

    def __init__(self, z: Array) -> None:
        self.z, self.confidence = z, np.full(len(z), np.nan)


def _best(results: list[Any]) -> _Codes:
    values = np.nan_to_num(np.array([result.residual("l2") for result in results]), nan=np.inf)
    z = np.array([result.z for result in results])
    return _Codes(z[values.argmin(axis=0), np.arange(z.shape[1])])


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


# And of how many observations each is given; Adam takes a second for one.
FEW = 10
PEERS = {"lm x10": (_descents(STARTS), FEW), "adam x10": (_adam, FEW // 2), "scipy x10": (_scipy, FEW)}


# --- tables -----------------------------------------------------------------------------------------------------------


def _sizes(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return [r for r in rows if not r["ambiguous"]], [r for r in rows if r["ambiguous"]]


def _cells(results: Results) -> str:
    text = (
        "Share of codes within 1% of the best known, and milliseconds of CPU time for one observation (batches "
        f"of {BATCH}, one thread; LM and SciPy on {FEW} of them, Adam on {FEW // 2}):\n\n"
    )
    peers = list(results["rows"][0]["shares"])
    rows = (
        (
            r["generator"],
            r["measured"],
            f"{r['noise']:g}",
            *(f"{per_cent(r['shares'][p])}, {short(r['milliseconds'][p])}" for p in peers),
        )
        for r in results["rows"]
    )
    return text + table(("generator", "measured", "noise", *peers), rows)


def calibration_error(confidence: Array, best: npt.NDArray[np.bool_]) -> float:
    """The mean distance of confidence and share of best codes over ten bins, weighted by how many are in each."""
    bins = np.minimum(np.digitize(confidence, BINS) - 1, len(BINS) - 2)
    return float(sum(abs(best[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)) / len(best))


def _gathered(rows: list[dict[str, Any]]) -> tuple[Array, npt.NDArray[np.bool_]]:
    return np.concatenate([r["confidence"] for r in rows]), np.concatenate([r["best"] for r in rows])


def _reliability(results: Results) -> str:
    noisy = [r for r in results["rows"] if r["noise"]]
    confidence, best = _gathered(noisy)
    edges = (*BINS[:-1], 0.95, SURE, 1.0 + 1e-9)
    rows = []
    for low, high in pairwise(edges):
        inside = (confidence >= low) & (confidence < high)
        if high > low and inside.any():
            rows.append(
                (
                    f"{low:.2f} to {min(high, 1):.2f}",
                    int(inside.sum()),
                    f"{confidence[inside].mean():.3f}",
                    f"{best[inside].mean():.3f}",
                )
            )
    return (
        "Of observations with noise, by their confidence: how many, its mean, and how many codes were the best:\n\n"
        + table(("confidence", "observations", "mean", "best"), rows)
    )


def draw_reliability(results: Results) -> Figure:
    """The share of best codes against the confidence, with intervals of two standard errors; how many have each."""
    confidence, best = _gathered([r for r in results["rows"] if r["noise"]])
    figure, axes = panels(1, 2, width=PAGE, height=2.7)
    edges = np.array((*BINS[:-1], 0.95, 0.98, SURE, 1.0 + 1e-9))
    bins = np.digitize(confidence, edges) - 1
    filled = [b for b in range(len(edges) - 1) if (bins == b).sum() >= FEW]
    mean = np.array([confidence[bins == b].mean() for b in filled])
    share = np.array([best[bins == b].mean() for b in filled])
    error = 2 * np.sqrt(share * (1 - share) / [(bins == b).sum() for b in filled])
    axes[0].plot([0, 1], [0, 1], "--", color="#7f7f7f", linewidth=1)
    axes[0].errorbar(mean, share, yerr=error, fmt="o", color="#009e73", markersize=4, linewidth=1)
    tidy(axes[0], "confidence", "share of best codes", "reliability")
    axes[0].set_xlim(max(0.0, mean.min() - 0.05), 1.02)
    axes[0].set_ylim(max(0.0, mean.min() - 0.05), 1.02)
    axes[1].hist(confidence, bins=50, range=(0.0, 1.0), color="#009e73")
    tidy(axes[1], "confidence", "observations", "how many")
    footer(figure, f"{len(best)} observations with noise; bins of fewer than {FEW} are left out")
    return figure


def _aims(results: Results) -> str:
    rows = results["rows"]
    determined, ambiguous = _sizes(rows)
    lowest = min(r["shares"]["auto"] for r in determined)
    mean = float(np.mean([r["shares"]["auto"] for r in determined]))
    unsure = float(np.mean([r["shares"]["auto"] for r in ambiguous]))
    slow = {
        "noiseless": max(r["milliseconds"]["auto"] for r in determined if not r["noise"]),
        "noisy": max(r["milliseconds"]["auto"] for r in determined if r["noise"]),
        "decoders": max(
            (r["milliseconds"]["auto"] for r in determined if r["noise"] and r["generator"] in DECODERS), default=0.0
        ),
        "ambiguous": max(r["milliseconds"]["auto"] for r in ambiguous),
    }
    confidence, best = _gathered([r for r in rows if r["noise"]])
    few = [r for r in rows if r["generator"] in DECODERS and (r["measured"], r["noise"]) == ("gauss", 0.0)]
    sure = confidence >= SURE
    of_determined, _ = _gathered([r for r in determined if r["noise"]])
    of_ambiguous, _ = _gathered(ambiguous)
    wrong = 1 - float(best[sure].mean())
    error = calibration_error(confidence, best)
    reached = float((of_determined >= SURE).mean())
    return aims(
        [
            ("determined cells: 99% within 1% of the best known", per_cent(mean), mean >= 0.99),
            ("97% in each of them", per_cent(lowest), lowest >= 0.97),
            ("at most 25 ms without noise", short(slow["noiseless"]), slow["noiseless"] <= 25),
            ("at most 30 ms with noise, decoders 20-60-784", short(slow["decoders"]), slow["decoders"] <= 30),
            ("the same, all generators", short(slow["noisy"]), slow["noisy"] <= 30),
            *_few_aims(few),
            ("ambiguous cells: 95%", per_cent(unsure), unsure >= 0.95),
            ("at most 100 ms", short(slow["ambiguous"]), slow["ambiguous"] <= 100),
            ("of answers with confidence 0.99 at most 1% wrong", per_cent(wrong), wrong <= 0.01),
            ("confidence 0.99 is reached by 90% in determined cells with noise", per_cent(reached), reached >= 0.9),
            ("in ambiguous cells (no aim)", per_cent(float((of_ambiguous >= SURE).mean())), True),
            ("calibration error at most 0.02", f"{error:.3f}", error <= 0.02),
        ]
    )  # fmt: skip


def _few_aims(rows: list[dict[str, Any]]) -> list[tuple[str, str, bool | None]]:
    """Of cells of 60 Gaussian measurements without noise."""
    if not rows:
        return []
    exact, slow = min(r["shares"]["auto"] for r in rows), max(r["milliseconds"]["auto"] for r in rows)
    what = "decoders 20-60-784, 60 Gaussian measurements without noise: 99% exact fits in each"
    return [(what, per_cent(exact), exact >= 0.99), ("at most 20 ms", short(slow), slow <= 20)]


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"hard aims": _aims, "hard cells": _cells, "hard reliability": _reliability},
    collect=rows_of,
    draw=draw_reliability,
    parts=REPORT,
)
