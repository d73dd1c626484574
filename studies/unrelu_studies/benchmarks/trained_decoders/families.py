"""Whether a verdict is true on decoders that people train: codes, confidence, p-values and success, family by family.

The families are those of :data:`~unrelu_studies.kit.families.trained_families.REPORT`, on which nothing is tuned. The
best known objective of an observation is the least of the search's own, of the same with other seeds, and of a heavy
search that shares no code with it (:mod:`~unrelu_studies.kit.families.heavy_search`: a descent from the truth, and
1,000 by five strategies), among the codes that the confidence is about: up to ten times as long as those of N(0, I), or
as the answer. Where outputs saturate, every measurement is also made of data that the family did not make. Times are
CPU times of one thread.

``--part anew`` measures only what calls with new masks and matrices cost, and ``--part beyond_relu`` the families of
:data:`~unrelu_studies.kit.families.trained_families.BEYOND_RELU`, each beside a ReLU decoder.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from scipy.stats import kstest, norm

from unrelu import invert, zoo
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.thresholds import SIGNIFICANCE
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.benchmarks.trained_decoders import family_tables
from unrelu_studies.kit.families.family_observations import MEASURED, NOISE, FamilyObservations, observe
from unrelu_studies.kit.families.heavy_search import ROUNDS, gains_by_lbfgs, least_objectives
from unrelu_studies.kit.families.trained_families import (
    BEYOND_RELU,
    FAMILIES,
    REPORT,
    Family,
    TrainedFamily,
    others,
    output_of,
)
from unrelu_studies.kit.timing import timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

COUNT, QUICK_COUNT = 120, 10
P_VALUES, QUICK_P_VALUES = 1000, 40
UNIFORM, QUICK_UNIFORM = 100, 10
QUICK_ROUNDS = 2
# A generator of the zoo and families whose outputs are given to calls with new random measurements; kinds of
# measurements, the number of calls with each, and of observations in a call.
ANEW = (
    "mnist-relu", "leaky .01, 8-30-60", "ReLU out, weight decay, 10-40-80", "sigmoid out, dropout, 12-64-128",
)  # fmt: skip
KINDS = ("half", "gauss")
CALLS, QUICK_CALLS, EACH = 6, 2, 12
SATURATED = ("sigmoid", "tanh")
QUICK_FAMILIES = (
    "weight decay 2e-3, 8-32-64", "digits 0 to 4, 8-40-80", "convolutional, 8-16-8", "random leaky .01, 9-36-14-64",
)  # fmt: skip
# Observations that are inverted together, for the times.
BATCH = 50
# Levenberg-Marquardt from so many starts, for so many observations.
STARTS, FEW = 10, 10
# Other seeds of the search, for the best that is known.
SEEDS = (1, 2)
# By how many standard deviations one entry is off.
OFF = 6.0
# Half of the width of uniform noise, as a share of the outputs' standard deviation.
AMPLITUDES = (0.1, 0.01)
STRANGERS = ("white noise", "constants", "spikes", "permuted", "inverted")
# Of each kind of :data:`STRANGERS`, one in so many observations; entries of an observation that are spikes.
_SPIKES = 4


def _units(command: Command) -> list[Unit]:
    """A question, a family, and what the question is asked of."""
    if command.parts == ("beyond_relu",):
        return [("search", name, "half", source) for name in BEYOND_RELU for source in ("own", "real")]
    anew: list[Unit] = [
        ("anew", name, measured) for name in (ANEW[1:2] if command.quick else ANEW) for measured in KINDS
    ]
    if command.parts == ("anew",):
        return anew
    names = command.parts or (QUICK_FAMILIES if command.quick else tuple(REPORT))
    zoo_names = zoo.names()[:1] if command.quick else zoo.names()
    units: list[Unit] = [] if command.parts else [*[("optimum", name, "half") for name in zoo_names], *anew]
    for name in names:
        foreign = [
            *(["real"] if isinstance(FAMILIES[name], TrainedFamily) else []),
            *(["others"] if others(name) else []),
        ]
        seen = MEASURED if output_of(name) in SATURATED else ("half",)
        units += [("search", name, measured, "own") for measured in MEASURED]
        units += [("search", name, measured, source) for source in foreign for measured in seen]
        units += [("p_values", name, measured) for measured in ("all", "half", "quarter")]
        if not _makes_flat_outputs(FAMILIES[name]):
            units += [("strangers", name, stated) for stated in ("stated", "not stated")]
        units += [("outlier", name, measured) for measured in ("all", "half")]
        units += [("uniform", name, amplitude) for amplitude in AMPLITUDES]
    return units


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    question, name, of, *rest = unit
    count = command.count(COUNT, QUICK_COUNT)
    family, seed = str(name), command.seed
    with computing(one_thread=True):
        if question == "search":
            rounds = QUICK_ROUNDS if command.quick else ROUNDS
            row = searched(observe(family, str(of), count, seed, str(rest[0])), seed, rounds)
            head = {"measured": of, "source": rest[0]}
        elif question == "anew":
            calls, rounds = (QUICK_CALLS, QUICK_ROUNDS) if command.quick else (CALLS, ROUNDS)
            row, head = measured_anew(family, str(of), calls, seed, rounds), {"measured": of}
        elif question == "optimum":
            row, head = refined(observe(family, str(of), count, seed)), {"measured": of}
        elif question == "p_values":
            row = own_p_values(observe(family, str(of), command.count(P_VALUES, QUICK_P_VALUES), seed))
            head = {"measured": of}
        elif question == "strangers":
            row, head = strangers(family, count, seed, str(of) == "stated"), {"noise": of}
        elif question == "outlier":
            row, head = one_entry_off(observe(family, str(of), count, seed), seed), {"measured": of}
        else:
            row = uniform_noise(family, command.count(UNIFORM, QUICK_UNIFORM), seed, float(of))
            head = {"amplitude": of}
    return {str(question): [{"family": family, "kind": _kind(family), **head, **row}]}


def _makes_flat_outputs(family: Family) -> bool:
    """Whether constants are outputs of it: patches of photographs, which permuted or inverted are such patches too."""
    return isinstance(family, TrainedFamily) and family.data == "patches"


def _kind(family: str) -> str:
    """What kind of generator it is, as goals tell them apart."""
    return "zoo" if family not in FAMILIES else type(FAMILIES[family]).__name__.removesuffix("Family").lower()


# --- the best codes, and how sure the search is of them ---------------------------------------------------------------


def searched(observed: FamilyObservations, seed: int, rounds: int) -> dict[str, Any]:
    """Codes of the search against the best that is known, its confidences and times; how far L-BFGS lowers its codes.

    Returns:
        ``best``, ``confidence`` and ``gains``, (B,); ``milliseconds`` an observation; the same times and the share of
        best codes of Levenberg-Marquardt from :data:`STARTS` starts, ``lm``, of the first observations.
    """
    z, confidence, milliseconds = _timed(observed, _search)
    few = observed.take(slice(FEW))
    by_descents, _, descents_milliseconds = _timed(few, _levenberg_marquardt)
    codes = [z, *(observed.invert(seed=other).z for other in SEEDS)]
    longest = observed.longest(z)
    known, _ = least_objectives(observed, seed, codes, rounds, longest)
    known = np.min([known, *(observed.objective(code, longest) for code in codes)], axis=0)
    known[: len(few)] = np.minimum(known[: len(few)], few.objective(by_descents, longest[: len(few)]))
    best = observed.best(observed.objective(z), known)
    lm_best = few.best(few.objective(by_descents), known[: len(few)])
    return {
        "best": best.tolist(), "confidence": _rounded(confidence), "gains": _rounded(gains_by_lbfgs(observed, z)),
        "milliseconds": milliseconds, "lm": {"best": float(lm_best.mean()), "milliseconds": descents_milliseconds},
    }  # fmt: skip


def measured_anew(name: str, measured: str, calls: int, seed: int, rounds: int) -> dict[str, Any]:
    """Calls with new random measurements of a kind, each made twice: the second time, nothing is left to learn.

    Returns:
        ``seconds`` and ``again``, CPU seconds of each call and of the same call again, (calls,); ``best`` and
        ``confidence`` of the first answers, of all calls.
    """
    drawn = [observe(name, measured, EACH, seed + 1 + i) for i in range(calls)]
    drawn[0].invert()  # compiles; what it learns is of another object than the copy
    network = copy(drawn[0].network)
    seconds, again, confidence, best = list[float](), list[float](), list[float](), list[bool]()
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, UNRELU_CACHE=folder):
        invert(network, network(np.ones(network.latent_dim)))  # draws samples, and learns nothing: there is no noise
        for each in drawn:
            observed = replace(each, network=network)
            result, spent = timed(observed.invert, time.process_time)
            _, repeated = timed(observed.invert, time.process_time)
            longest = observed.longest(result.z)
            known, _ = least_objectives(observed, seed, [result.z], rounds, longest)
            seconds.append(spent)
            again.append(repeated)
            confidence += _rounded(np.nan_to_num(result.confidence))
            best += observed.best(observed.objective(result.z), known).tolist()
    return {"each": EACH, "seconds": seconds, "again": again, "confidence": confidence, "best": best}


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def _timed(
    observed: FamilyObservations, method: Callable[[FamilyObservations], tuple[Array, Array]]
) -> tuple[Array, Array, float]:
    """Codes and confidences, :data:`BATCH` observations at a time, and CPU milliseconds for each."""
    method(observed.take(slice(2)))  # compiles, and learns what is learned of a generator once
    parts, begin = [], time.process_time()
    for start in range(0, len(observed), BATCH):
        parts.append(method(observed.take(slice(start, start + BATCH))))
    milliseconds = 1e3 * (time.process_time() - begin) / len(observed)
    z, confidence = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return z, confidence, milliseconds


def _search(observed: FamilyObservations) -> tuple[Array, Array]:
    result = observed.invert()
    return result.z, np.nan_to_num(result.confidence)


def _levenberg_marquardt(observed: FamilyObservations) -> tuple[Array, Array]:
    """The best of descents from N(0, I), whose confidence is not known."""
    results = [observed.invert("lm", seed=seed) for seed in range(STARTS)]
    f = np.array([observed.objective(result.z) for result in results])
    z = np.array([result.z for result in results])[f.argmin(axis=0), np.arange(len(observed))]
    return z, np.full(len(z), np.nan)


def refined(observed: FamilyObservations) -> dict[str, Any]:
    """How far L-BFGS lowers the objective of the search's codes."""
    return {"gains": _rounded(gains_by_lbfgs(observed, observed.invert().z))}


# --- p-values and success ---------------------------------------------------------------------------------------------


def own_p_values(observed: FamilyObservations) -> dict[str, Any]:
    """P-values of own outputs: the share below .01, the Kolmogorov distance from uniform, and successes."""
    results = [observed.take(slice(start, start + BATCH)).invert() for start in range(0, len(observed), BATCH)]
    p = np.concatenate([np.atleast_1d(result.p_value) for result in results])
    return {
        "count": len(p), "rejected": float((p < 0.01).mean()), "distance": float(kstest(p, "uniform").statistic),
        "success": float(np.concatenate([result.success for result in results]).mean()),
        "entries": observed.measured.shape[1], "latent": observed.network.latent_dim,
    }  # fmt: skip


def strangers(name: str, count: int, seed: int, stated: bool) -> dict[str, Any]:
    """Successes on observations that no generator made, of each of :data:`STRANGERS`, the noise stated or not."""
    own = observe(name, "all", count, seed)
    family = FAMILIES[name]
    like = family.held_out() if isinstance(family, TrainedFamily) else own.measured
    each = max(1, count // len(STRANGERS))
    successes = {}
    for kind in STRANGERS:
        x = _strange(kind, like, each, stream("families, strangers", seed, name, kind))
        size = NOISE * float(like.std())
        noise = stream("families, noise of strangers", seed, name, kind).standard_normal(x.shape)
        observed = own.with_measured(x + size * noise)
        result = observed.invert(noise=f"gaussian:{size!r}" if stated else None)
        successes[kind] = int(result.success.sum())
    return {"each": each, "successes": successes, "output": str(own.network.layers[-1].activation)}


def _strange(kind: str, like: Array, count: int, rng: np.random.Generator) -> Array:
    """Observations of one kind in the range of others, (count, n)."""
    low, high, n = float(like.min()), float(like.max()), like.shape[1]
    some = like[rng.permutation(len(like))[:count]]
    if kind == "white noise":
        return rng.uniform(low, high, (count, n))
    if kind == "constants":
        return np.repeat(rng.uniform(low + 0.3 * (high - low), high, (count, 1)), n, axis=1)
    if kind == "spikes":
        x = np.full((count, n), low)
        np.put_along_axis(x, rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)[:, :_SPIKES], high, axis=1)
        return x
    return rng.permuted(some, axis=1) if kind == "permuted" else low + high - some


def one_entry_off(observed: FamilyObservations, seed: int) -> dict[str, Any]:
    """Successes on own outputs of which one measured entry is off by :data:`OFF` standard deviations.

    ``least`` is what a test at :data:`SIGNIFICANCE` misses that knows the linear region, for entries of mean leverage.
    """
    rng = stream("families, outliers", seed, observed.measured.shape[1])
    y = observed.measured.copy()
    rows = np.arange(len(y))
    y[rows, rng.integers(y.shape[1], size=len(y))] += OFF * observed.size * rng.choice([-1.0, 1.0], len(y))
    m = y.shape[1]
    left = OFF * np.sqrt(max(0.0, 1 - observed.network.latent_dim / m))
    least = float(norm.cdf(norm.isf(SIGNIFICANCE / 2 / m) - left))
    return {"count": len(y), "success": float(observed.with_measured(y).invert().success.mean()), "least": least}


def uniform_noise(name: str, count: int, seed: int, share: float) -> dict[str, Any]:
    """Successes on own outputs with uniform noise that is stated."""
    observed = observe(name, "all", count, seed)
    assert observed.truth is not None
    x = observed.network(observed.truth).reshape(count, -1)
    amplitude = share * float(x.std())
    e = stream("families, uniform noise", seed, name, share).uniform(-amplitude, amplitude, x.shape)
    result = observed.with_measured(x + e).invert(noise=f"uniform:{amplitude!r}")
    return {"count": count, "success": float(result.success.mean())}


def _collect(command: Command, parts: list[Any]) -> Results:
    return gathered(parts, "search", "anew", "optimum", "p_values", "strangers", "outlier", "uniform")


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks=family_tables.BLOCKS,
    collect=_collect,
    parts=("beyond_relu", "anew", *FAMILIES),
)
