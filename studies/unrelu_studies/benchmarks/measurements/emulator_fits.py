"""Fits of emulators inside their box: ``auto`` beside SciPy's bounded least squares with 1 and 10 starts.

Every observation is fitted twice: without noise, where an exact fit is what counts, and with Gaussian noise whose
deviation differs for every output, by two decades, and is stated. The best known objective is the least of all that are
compared, of a descent from the truth and, with noise, of a longer search of another seed. SciPy's fits are made of the
first observations of a cell. Times are CPU times of one thread.

The search fits the same emulators with a scale and an offset of all outputs that are unknown too, in the same process.
NNERO's network is among the emulators where its package is installed.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from unrelu import Gaussian, extend, invert
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.search.auto import Search
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements.trf_fits import (
    WITHIN,
    TrfFits,
    confidence_error,
    dense_model,
    sure_and_wrong,
)
from unrelu_studies.kit.binomial import at_least, at_most, counted, share
from unrelu_studies.kit.emulators import EMULATORS, TUNED, emulator, observed
from unrelu_studies.kit.markdown_tables import aims, per_cent, short, table
from unrelu_studies.kit.numbers_file import plain
from unrelu_studies.kit.published_emulators import installed, ionised_share
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.unit_runner import Unit

PUBLISHED = "NNERO"
REPORT = tuple(name for name in EMULATORS if name not in TUNED)
# Observations; of so many drawn, which the level of the noise is of; and those that SciPy's fits are given.
COUNT, QUICK_COUNT, DRAWN, FEW = 40, 4, 100, 6
STARTS, QUICK_STARTS = (1, 10), (1, 2)
# A fit is exact whose largest residual is this fraction of the largest output.
EXACT = 1e-8
# Bounds of the unknown scale; those of the offset are half of the largest outputs.
SCALE = (0.5, 2.0)
# Rounds of the longer search.
ROUNDS, QUICK_ROUNDS = 8, 2


def _units(command: Command) -> list[Unit]:
    names = [name for name in command.parts or (*REPORT, PUBLISHED) if name != PUBLISHED or installed("nnero")]
    return [(name, noisy) for name in names for noisy in (False, True)]


def _boxed(name: str) -> tuple[Network, Array, Array]:
    """An emulator by its name, and the lower and upper bounds of its parameters."""
    if name == PUBLISHED:
        network = ionised_share()
        return network, np.zeros(network.latent_dim), np.ones(network.latent_dim)
    return emulator(name), np.array(EMULATORS[name].lower), np.array(EMULATORS[name].upper)


def simulated(name: str, noisy: bool, count: int, seed: int) -> tuple[Array, Array, Array]:
    """Codes uniform in the box, (B, k), observations of them, (B, n), and the deviations of the noise, (n,)."""
    network, lower, upper = _boxed(name)
    drawn = random("emulator truth", seed, name).random((max(count, DRAWN), len(lower)))
    truth = lower + (upper - lower) * drawn
    y, sigma = observed(network, truth, noisy, seed, name)
    return truth[:count], y[:count], sigma


def _timed(network: Generator, y: Array, stated: dict[str, Any]) -> tuple[Inversion, float]:
    """What the search finds, and CPU milliseconds an observation."""
    invert(network, y[:2], **stated)  # compiles, and draws
    begin = time.process_time()
    found = invert(network, y, **stated)
    return found, 1e3 * (time.process_time() - begin) / len(y)


def _extended(name: str, noisy: bool, count: int, seed: int) -> dict[str, Any]:
    """The search on an emulator whose outputs have a scale and an offset that are unknown too.

    Returns:
        ``exact``, the share of exact fits; ``below truth``, that of objectives at most the truth's; the confidence of
        each; and ``milliseconds``, of an observation.
    """
    plain, lower, upper = _boxed(name)
    network = extend(plain, scale=SCALE, offset=True)
    drawn = max(count, DRAWN)
    inside = lower + (upper - lower) * random("extended truth", seed, name).random((drawn, len(lower)))
    truth = np.hstack([inside, random("extended nuisances", seed, name).standard_normal((drawn, 2))])
    y, sigma = observed(network, truth, noisy, seed, name)
    truth, y = truth[:count], y[:count]
    free = np.full(2, np.inf)
    ends = np.append(lower, -free), np.append(upper, free)
    found, milliseconds = _timed(network, y, {"bounds": ends, "noise": Gaussian(sigma) if noisy else None})
    x, at_truth = network.outputs(found.z), network.outputs(truth)
    below = np.square((x - y) / sigma).sum(axis=1) <= np.square((at_truth - y) / sigma).sum(axis=1)
    return {
        "observations": count, "exact": float((np.abs(x - y).max(axis=1) <= EXACT * np.abs(y).max(axis=1)).mean()),
        "below truth": float(below.mean()), "confidence": np.asarray(found.confidence).tolist(),
        "milliseconds": milliseconds,
    }  # fmt: skip


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name, noisy = str(unit[0]), bool(unit[1])
    (network, lower, upper), count = _boxed(name), command.count(COUNT, QUICK_COUNT)
    few = min(FEW, count)
    starts = QUICK_STARTS if command.quick else STARTS
    truth, y, sigma = simulated(name, noisy, count, command.seed)
    stated: dict[str, Any] = {"bounds": (lower, upper), "noise": Gaussian(sigma) if noisy else None}
    peer = TrfFits(dense_model(network), lower, upper, 1 / sigma)
    with computing(one_thread=True):
        found, milliseconds = _timed(network, y, stated)
        extended = _extended(name, noisy, count, command.seed)
        runs, seconds_each = peer.runs(y[:few], starts[-1], random("emulator starts", command.seed, name))
        rivals = [truth]
        if noisy:
            heavy = Search(confidence=1.0, rounds=QUICK_ROUNDS if command.quick else ROUNDS, learn=False)
            rivals += [invert(network, y, heavy, seed=1 + command.seed, **stated).z]
            rivals += [np.array([peer.fit(row, code) for row, code in zip(y, truth, strict=True)])]
    codes = {"auto": found.z, **{f"trf x{n}": peer.best(runs[:, :n], y[:few]) for n in starts}}
    times = {"auto": milliseconds} | {f"trf x{n}": 1e3 * float(seconds_each[:, :n].sum()) / few for n in starts}
    size, at_truth = np.abs(y).max(axis=1), peer.objective(truth, y)
    objectives = {method: peer.objective(z, y[: len(z)]) for method, z in codes.items()}
    known = np.min([objectives["auto"], *(peer.objective(z, y) for z in rivals)], axis=0)
    known[:few] = np.min([known[:few], *(f[:few] for f in objectives.values())], axis=0)
    best = {
        m: objectives[m] <= (1 + WITHIN) * known[: len(z)] if noisy
        else np.abs(network(z) - y[: len(z)]).max(axis=1) <= EXACT * size[: len(z)]
        for m, z in codes.items()
    }  # fmt: skip
    return {
        "emulator": name, "noisy": noisy, "observations": count, "few": few,
        "inside": bool(((found.z >= lower) & (found.z <= upper)).all()),
        "best": {m: float(good.mean()) for m, good in best.items()},
        "below truth": float((objectives["auto"] <= at_truth).mean()),
        "success": float(np.mean(found.success)), "confidence": np.asarray(found.confidence).tolist(),
        "was best": best["auto"].tolist(), "p": plain(found.p_value, 4),
        "objective": plain(objectives["auto"], 6), "known": plain(known, 6),
        "milliseconds": times, "extended": extended,
    }  # fmt: skip


# --- tables -----------------------------------------------------------------------------------------------------------


def share_of(row: Results, method: str) -> tuple[int, int]:
    """How many fits of a method are the best, and how many observations it was given."""
    count = row["observations"] if method == "auto" else row["few"]
    return round(row["best"][method] * count), count


def _table(results: Results) -> str:
    rows = results["rows"]
    methods = list(rows[0]["milliseconds"])
    return table(
        ("emulator", "noise", "observations, SciPy's", "share of", *methods, "at most the truth's"),
        (
            (r["emulator"], "stated" if r["noisy"] else "none", f"{r['observations']}, {r['few']}",
             "best codes" if r["noisy"] else "exact fits",
             *(f"{share(*share_of(r, m))}, {short(r['milliseconds'][m])} ms" for m in methods),
             per_cent(r["below truth"]) if r["noisy"] else "-")
            for r in rows
        ),
    )  # fmt: skip


def _aims(results: Results) -> str:
    rows = results["rows"]
    clean, noisy = [r for r in rows if not r["noisy"]], [r for r in rows if r["noisy"]]
    ten = list(rows[0]["milliseconds"])[-1]
    exact, below = (
        min(r["best"]["auto"] for r in clean),
        sum(round(r["below truth"] * r["observations"]) for r in noisy),
    )
    slower = max(r["milliseconds"]["auto"] / r["milliseconds"][ten] for r in rows)
    error, (sure, wrong) = confidence_error(rows), sure_and_wrong(rows)
    inside, fits = all(r["inside"] for r in rows), sum(r["observations"] for r in noisy)
    same = min(
        r["extended"]["below truth"] - r["below truth"] if r["noisy"] else r["extended"]["exact"] - r["best"]["auto"]
        for r in rows
    )
    more = max(r["extended"]["milliseconds"] / r["milliseconds"]["auto"] for r in rows)
    return aims(
        [
            ("exact fits: 90% of every emulator", f"{per_cent(exact)} at least", exact >= 0.9),
            (f"in at most the time of {ten}", f"{slower:.2f} of it at most", slower <= 1),
            ("noisy objectives at or below the truth's: 98%", share(below, fits), at_least(below, fits, 0.98)),
            ("confidence is calibrated to .02", f"{error:.3f}", error <= 0.02),
            ("of sure answers at most 1% are wrong", counted(wrong, sure), at_most(wrong, sure, 0.01)),
            ("every code inside its bounds", "yes" if inside else "no", inside),
            ("with a scale and an offset: shares of exact fits and of those at most the truth's as without, to 2%",
             f"{100 * same:+.3g}% at least", same >= -0.02),
            ("at most twice the time", f"{more:.2f} times", more <= 2),
        ]
    )  # fmt: skip


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"emulators aims": _aims, "emulators fits": _table},
    parts=(*EMULATORS, PUBLISHED),
)
