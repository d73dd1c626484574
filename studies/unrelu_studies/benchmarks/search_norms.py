"""What ``auto`` does beside l2 in batches: uniform noise, gross errors, and observations one at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu._invert import invert
from unrelu.result import Inversion
from unrelu.runtime.streams import stream
from unrelu.search.sample_bank import Bank
from unrelu_studies.benchmarks.instances import REPORT_SEED
from unrelu_studies.benchmarks.one_core import one_core
from unrelu_studies.benchmarks.search_cells import SearchCell, draw

Array = npt.NDArray[np.float64]
Seen = npt.NDArray[np.bool_]

_NETWORK = "mnist-relu"
# Observations, those of a batch, and those of Adam and of the runs that take them one at a time.
_INSTANCES = 100
_BATCH = 50
_FEW = 20
# Bound of the uniform noise; share of gross errors, and the deviation of the noise on the other pixels.
BOUND = 0.1
SHARE, _SMALL = 0.05, 0.01
# Deviations of the noise on the observations that are taken one at a time.
_NOISES = (0.0, 0.1)
# Two objectives that differ by this share are the same.
_ROUNDING = 1e-9
# Times that the samples are drawn.
_BANKS = 3


@dataclass(frozen=True)
class Uniform:
    """One method under uniform noise of known bound, |e_j| <= 0.1.

    Attributes:
        method: "auto", which ends in linf, or "linf", the layer-wise Algorithm 1.
        observations: how many.
        milliseconds: mean time an observation, in batches.
        within: share of them with |y - G(z)|_inf <= 0.1, to rounding.
        above: share of them with a larger |y - G(z)|_inf than "linf", by more than a factor 1 + 1e-9.
    """

    method: str
    observations: int
    milliseconds: float
    within: float
    above: float


@dataclass(frozen=True)
class Outliers:
    """One method where half of the pixels are seen and 5% of those are +1 or -1, whatever they were.

    Attributes:
        method: "auto", which ends in l1; "auto, norm l2"; "adam".
        observations: how many.
        milliseconds: mean time an observation, in batches.
        error: median of |z - z*| / |z*|.
    """

    method: str
    observations: int
    milliseconds: float
    error: float


@dataclass(frozen=True)
class Single:
    """``auto`` on observations one at a time, nothing stated about the noise.

    Attributes:
        noise: deviation of the Gaussian noise.
        observations: how many.
        median, largest: milliseconds for one.
        statuses: how the inversions ended.
    """

    noise: float
    observations: int
    median: float
    largest: float
    statuses: dict[str, int]


@dataclass(frozen=True)
class Norms:
    """All of it.

    Attributes:
        uniform, outliers, single: a row for each method, or noise.
        bank_seconds: for the samples of a generator and their linear model, once for each generator; repeated.
    """

    uniform: list[Uniform]
    outliers: list[Outliers]
    single: list[Single]
    bank_seconds: list[float]


def measure_norms(
    instances: int | None = None,
    seed: int = REPORT_SEED,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Norms:
    """All of it for mnist-relu, in one process and on one core.

    Args:
        instances: observations; 100 by default, and at most 20 for Adam and one at a time.
        seed: of the observations.
        progress: called with the name of what is measured, the parts done and their total.
    """
    count = instances or _INSTANCES
    with one_core():
        progress("uniform noise", 0, 4)
        uniform = _uniform(count, seed)
        progress("gross errors", 1, 4)
        outliers = _outliers(count, seed)
        progress("one at a time", 2, 4)
        single = [_single(noise, min(_FEW, count), seed) for noise in _NOISES]
        progress("samples", 3, 4)
        return Norms(uniform, outliers, single, [_bank_seconds() for _ in range(_BANKS)])


def draw_uniform(count: int, seed: int) -> Array:
    """Observations with uniform noise."""
    network = zoo.load(_NETWORK)
    truth = stream("uniform noise, truth", seed).standard_normal((count, network.latent_dim))
    x = np.asarray(network(truth))
    return x + stream("uniform noise, noise", seed).uniform(-BOUND, BOUND, x.shape)


def draw_outliers(count: int, seed: int) -> tuple[Array, Array, Seen]:
    """Codes (B, k), observations (B, n) with gross errors, and what is seen of them, (B, n), other pixels for each."""
    network, rng = zoo.load(_NETWORK), stream("gross errors, pixels", seed)
    truth = stream("gross errors, truth", seed).standard_normal((count, network.latent_dim))
    x = np.asarray(network(truth)).reshape(count, -1)
    y = x + _SMALL * stream("gross errors, noise", seed).standard_normal(x.shape)
    seen = np.zeros(x.shape, dtype=bool)
    shown = x.shape[1] // 2
    wrong = round(SHARE * shown)
    for row, mask in zip(y, seen, strict=True):
        pixels = rng.permutation(len(row))[:shown]
        mask[pixels] = True
        row[pixels[:wrong]] = rng.choice((-1.0, 1.0), wrong)
    return truth, y, seen


def _uniform(count: int, seed: int) -> list[Uniform]:
    network, y = zoo.load(_NETWORK), draw_uniform(count, seed)
    errors, times = {}, {}
    for method in ("auto", "linf"):
        solve = partial(invert, network, method=method, noise=f"uniform:{BOUND}")
        runs, times[method] = _timed(solve, y)
        errors[method] = np.concatenate([run.residual("linf") for run in runs])
    most = (1 + _ROUNDING) * np.nan_to_num(errors["linf"], nan=np.inf)
    return [
        Uniform(
            method,
            count,
            times[method],
            within=float(np.mean(found <= BOUND * (1 + _ROUNDING))),
            above=float(np.mean(~(found <= most))),
        )
        for method, found in errors.items()
    ]


def _outliers(count: int, seed: int) -> list[Outliers]:
    network, (truth, y, seen) = zoo.load(_NETWORK), draw_outliers(count, seed)
    auto = partial(invert, network, noise=f"outliers:{SHARE}")
    solvers = {
        "auto": (auto, count),
        "auto, norm l2": (partial(auto, norm="l2"), count),
        "adam": (partial(invert, network, method="adam"), min(_FEW, count)),
    }
    measured = []
    for method, (solve, size) in solvers.items():
        runs, milliseconds = _timed(solve, y[:size], seen[:size])
        errors = np.linalg.norm(np.concatenate([run.z for run in runs]) - truth[:size], axis=1)
        error = float(np.median(errors / np.linalg.norm(truth[:size], axis=1)))
        measured.append(Outliers(method, size, milliseconds, error))
    return measured


def _single(noise: float, count: int, seed: int) -> Single:
    batch = draw(SearchCell(_NETWORK, "full", noise), count, 0, seed)
    invert(batch.network, batch.y[0])
    milliseconds, statuses = [], Counter[str]()
    for y in batch.y:
        begin = time.perf_counter()
        result = invert(batch.network, y)
        milliseconds.append(1e3 * (time.perf_counter() - begin))
        statuses[str(result.status)] += 1
    return Single(noise, count, float(np.median(milliseconds)), max(milliseconds), dict(statuses))


def _bank_seconds() -> float:
    """For a network that was not seen before: banks are kept for the object, not for its weights."""
    fresh = replace(zoo.load(_NETWORK))
    begin = time.perf_counter()
    _ = Bank.of(fresh).model
    return time.perf_counter() - begin


def _timed(solve: Callable[..., Inversion], y: Array, seen: Seen | None = None) -> tuple[list[Inversion], float]:
    """All batches after a first observation that is not timed, and milliseconds an observation."""

    def run(first: int, size: int) -> Inversion:
        part = slice(first, min(first + size, len(y)))
        return solve(y[part], operator=None if seen is None else seen[part])

    run(0, 1)
    begin = time.perf_counter()
    runs = [run(first, _BATCH) for first in range(0, len(y), _BATCH)]
    return runs, 1e3 * (time.perf_counter() - begin) / len(y)
