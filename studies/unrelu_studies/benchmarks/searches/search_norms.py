"""What ``auto`` does beside l2 in batches: uniform noise, gross errors, and observations one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu._invert import invert
from unrelu.models.network import Network
from unrelu.result import Inversion
from unrelu.runtime.streams import stream
from unrelu.search.sample_cache import SampleCache
from unrelu_studies.benchmarks.benchmark import Results
from unrelu_studies.benchmarks.searches.modules_without_layers import MODULES, module_without_layers
from unrelu_studies.benchmarks.searches.search_cells import SearchCell, draw
from unrelu_studies.kit.markdown_tables import per_cent, short, table
from unrelu_studies.kit.measures import relative_error
from unrelu_studies.kit.timing import one_core, timed

Array = npt.NDArray[np.float64]
Seen = npt.NDArray[np.bool_]

_NETWORK = "mnist-relu"
# Observations of a batch, and those of Adam and of the runs that take them one at a time.
_BATCH, _FEW = 50, 20
# Own outputs of each generator without known layers.
_WITHOUT_LAYERS = 60
# Bound of the uniform noise; share of gross errors, and the deviation of the noise on the other pixels.
BOUND = 0.1
SHARE, _SMALL = 0.05, 0.01
# Deviations of the noise on the observations that are taken one at a time.
_NOISES = (0.0, 0.1)
# Two objectives that differ by this share are the same.
_ROUNDING = 1e-9
# Times that the samples are drawn.
_BANKS = 3


def measure(part: str, count: int, seed: int) -> dict[str, Any]:
    """One of :data:`PARTS` for mnist-relu, on one core; at most 20 observations for Adam and one at a time."""
    with one_core():
        return {part: PARTS[part](count, seed)}


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


def _uniform(count: int, seed: int) -> list[dict[str, Any]]:
    """``auto``, which ends in linf, and the layer-wise linf under noise of known bound.

    ``within``: share with |y - G(z)|_inf up to the bound, to rounding; ``above``: share with a larger one than linf.
    """
    network, y = zoo.load(_NETWORK), draw_uniform(count, seed)
    errors, times = {}, {}
    for method in ("auto", "linf"):
        solve = partial(invert, network, method=method, noise=f"uniform:{BOUND}")
        runs, times[method] = _in_batches(solve, y)
        errors[method] = np.concatenate([run.residual("linf") for run in runs])
    most = (1 + _ROUNDING) * np.nan_to_num(errors["linf"], nan=np.inf)
    return [
        {
            "method": method, "observations": count, "milliseconds": times[method],
            "within": float(np.mean(found <= BOUND * (1 + _ROUNDING))), "above": float(np.mean(~(found <= most))),
        }
        for method, found in errors.items()
    ]  # fmt: skip


def _outliers(count: int, seed: int) -> list[dict[str, Any]]:
    """Half of the pixels are seen and 5% of those are +1 or -1, whatever they were; ``error``: median of the code's."""
    network, (truth, y, seen) = zoo.load(_NETWORK), draw_outliers(count, seed)
    auto = partial(invert, network, noise=f"outliers:{SHARE}")
    solvers: dict[str, tuple[Callable[..., Inversion], int]] = {
        "auto": (auto, count),
        "auto, norm l2": (partial(auto, norm="l2"), count),
        "adam": (partial(invert, network, method="adam"), min(_FEW, count)),
    }
    rows = []
    for method, (solve, size) in solvers.items():
        runs, milliseconds = _in_batches(solve, y[:size], seen[:size])
        error = float(np.median(relative_error(np.concatenate([run.z for run in runs]), truth[:size])))
        rows.append({"method": method, "observations": size, "milliseconds": milliseconds, "error": error})
    return rows


def _without_layers(count: int, seed: int) -> list[dict[str, Any]]:
    """``auto`` on own outputs of generators without known layers, under uniform noise and with gross errors, stated.

    Noise is uniform within a tenth of the outputs' deviation s. Gross errors, in 5% of the entries, have the deviation
    3 s; twice their share is stated. ``success``: share of ``result.success``; ``statuses``: how the inversions ended.
    """
    count, rows = min(_WITHOUT_LAYERS, count), []
    for name in MODULES:
        network, rng = module_without_layers(name, seed), stream("without layers", name, seed)
        x = network(rng.standard_normal((count, network.latent_dim)))
        size = float(x.std())
        gross = np.where(rng.random(x.shape) < SHARE, 3 * size * rng.standard_normal(x.shape), 0.0)
        bounded = 0.1 * size * rng.uniform(-1, 1, x.shape)
        for noise, e in ((f"uniform:{0.1 * size!r}", bounded), (f"outliers:{2 * SHARE}", gross)):
            runs, milliseconds = _in_batches(partial(invert, network, noise=noise), x + e)
            statuses = Counter(str(status) for run in runs for status in run.verdict)
            rows.append({
                "generator": name, "noise": noise.partition(":")[0], "observations": count,
                "milliseconds": milliseconds, "statuses": dict(statuses),
                "success": float(np.mean(np.concatenate([run.success for run in runs]))),
            })  # fmt: skip
    return rows


def _single(count: int, seed: int) -> list[dict[str, Any]]:
    """``auto`` on observations one at a time, nothing stated about the noise: milliseconds for one."""
    count, rows = min(_FEW, count), []
    for noise in _NOISES:
        batch = draw(SearchCell(_NETWORK, "full", noise), count, 0, seed)
        invert(batch.network, batch.y[0])
        results, seconds = zip(*(timed(partial(invert, batch.network, y)) for y in batch.y), strict=True)
        statuses = dict(Counter(str(result.verdict) for result in results))
        rows.append({
            "noise": noise, "observations": count, "median": 1e3 * float(np.median(seconds)),
            "largest": 1e3 * max(seconds), "statuses": statuses,
        })  # fmt: skip
    return rows


def _bank_seconds(count: int, seed: int) -> list[float]:
    """For the samples of a generator and their model; it is new each time, as banks are kept for the object."""
    fresh = [replace(zoo.load(_NETWORK)) for _ in range(_BANKS)]
    return [timed(partial(_model, network))[1] for network in fresh]


def _model(network: Network) -> object:
    return SampleCache.of(network).model.parts


# By their names in the results.
PARTS: dict[str, Callable[[int, int], list[Any]]] = {
    "uniform": _uniform, "outliers": _outliers, "without_layers": _without_layers, "single": _single,
    "bank_seconds": _bank_seconds,
}  # fmt: skip


def _in_batches(solve: Callable[..., Inversion], y: Array, seen: Seen | None = None) -> tuple[list[Inversion], float]:
    """All batches after a first observation that is not timed, and milliseconds an observation."""

    def run(first: int, size: int) -> Inversion:
        part = slice(first, min(first + size, len(y)))
        return solve(y[part], operator=None if seen is None else seen[part])

    run(0, 1)
    runs, seconds = timed(lambda: [run(first, _BATCH) for first in range(0, len(y), _BATCH)])
    return runs, 1e3 * seconds / len(y)


def norms_table(results: Results) -> str:
    """A row for each problem and method."""
    norms = results["norms"]
    head = ("problem", "method", "observations", "ms", "result")
    rows: list[tuple[Any, ...]] = []
    for u in norms["uniform"]:
        said = f"within the bound: {per_cent(u['within'])}; above `linf`: {per_cent(u['above'])}"
        rows.append(("uniform noise 0.1", u["method"], u["observations"], short(u["milliseconds"]), said))
    for o in norms["outliers"]:
        found = f"latent error {o['error']:.2g}"
        rows.append(("half seen, 5% gross errors", o["method"], o["observations"], short(o["milliseconds"]), found))
    for w in norms.get("without_layers", ()):  # numbers before this part was measured have none
        said = f"successes: {per_cent(w['success'])}"
        rows.append((f"{w['generator']}, {w['noise']}", "auto", w["observations"], short(w["milliseconds"]), said))
    for s in norms["single"]:
        times = f"{short(s['median'])} (at most {short(s['largest'])})"
        said = ", ".join(f"{status} {count}" for status, count in s["statuses"].items())
        rows.append((f"one at a time, noise {s['noise']:g}", "auto", s["observations"], times, said))
    bank = short(1e3 * float(np.median(norms["bank_seconds"])))
    rows.append(("samples of a generator and their model", "auto", None, bank, "once for each generator and seed"))
    return table(head, rows)
