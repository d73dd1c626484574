"""Whether a verdict is true on decoders that people train: codes, confidence, p-values and success, family by family.

The families are those of :data:`~unrelu_studies.kit.families.trained_families.REPORT`, on which nothing is tuned. The
best known objective of an observation is the least of the search's own, of the same with other seeds, and of a heavy
search that shares no code with it (:mod:`~unrelu_studies.kit.families.heavy_search`: a descent from the truth, and
1,000 by five strategies), among the codes that the confidence is about: up to ten times as long as those of N(0, I), or
as the answer. Where outputs saturate, every measurement is also made of data that the family did not make. Times are
CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import kstest

from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.families.family_observations import MEASURED, NOISE, FamilyObservations, observe
from unrelu_studies.kit.families.heavy_search import ROUNDS, least_objectives
from unrelu_studies.kit.families.trained_families import FAMILIES, REPORT, Family, TrainedFamily, others, output_of
from unrelu_studies.kit.markdown_tables import aims, per_cent, short, table
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

COUNT, QUICK_COUNT = 120, 10
P_VALUES, QUICK_P_VALUES = 1000, 40
QUICK_ROUNDS = 2
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
STRANGERS = ("white noise", "constants", "spikes", "permuted", "inverted")
# Of each kind of :data:`STRANGERS`, one in so many observations; entries of an observation that are spikes.
_SPIKES = 4


def _units(command: Command) -> list[Unit]:
    """A question, a family, and what the question is asked of."""
    names = command.parts or (QUICK_FAMILIES if command.quick else tuple(REPORT))
    units: list[Unit] = []
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
        elif question == "p_values":
            row = own_p_values(observe(family, str(of), command.count(P_VALUES, QUICK_P_VALUES), seed))
            head = {"measured": of}
        else:
            row, head = strangers(family, count, seed, str(of) == "stated"), {"noise": of}
    return {str(question): [{"family": family, **head, **row}]}


def _makes_flat_outputs(family: Family) -> bool:
    """Whether constants are outputs of it: patches of photographs, which permuted or inverted are such patches too."""
    return isinstance(family, TrainedFamily) and family.data == "patches"


# --- the best codes, and how sure the search is of them ---------------------------------------------------------------


def searched(observed: FamilyObservations, seed: int, rounds: int) -> dict[str, Any]:
    """Codes of the search against the best that is known, its confidences and times.

    Returns:
        ``best`` and ``confidence``, (B,); ``milliseconds`` an observation; the same times and the share of
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
        "best": best.tolist(), "confidence": [float(f"{value:.6g}") for value in confidence],
        "milliseconds": milliseconds, "lm": {"best": float(lm_best.mean()), "milliseconds": descents_milliseconds},
    }  # fmt: skip


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


# --- tables -----------------------------------------------------------------------------------------------------------

SURE = 0.99


def sure_and_wrong(rows: list[Results]) -> tuple[int, int]:
    """Answers with a confidence of at least :data:`SURE`, and how many of them are not the best known."""
    sure = [best for row in rows for c, best in zip(row["confidence"], row["best"], strict=True) if c and c >= SURE]
    return len(sure), sure.count(False)


def _where(rows: list[Results], **values: Any) -> list[Results]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _codes(results: Results) -> str:
    """Of each measurement and source: shares of best codes and median times over the families, and sure answers."""
    lines = []
    for source, said in SAID.items():
        for measured in MEASURED if source == "own" else ("half",):
            rows = _where(results["search"], source=source, measured=measured)
            if rows:
                share = np.mean([best for row in rows for best in row["best"]])
                worst = min(float(np.mean(row["best"])) for row in rows)
                milliseconds = float(np.median([row["milliseconds"] for row in rows]))
                sure, wrong = sure_and_wrong(rows)
                lines.append((said, measured, len(rows), per_cent(float(share)), per_cent(worst), short(milliseconds),
                              f"{sure:,}", wrong))  # fmt: skip
    head = ("data", "measured", "families", "best codes", "worst family", "ms", "sure", "of these wrong")
    return table(head, lines)


SAID = {"own": "own outputs", "real": "real data", "others": "outputs of others"}


def _aims(results: Results) -> Iterator[tuple[str, str, bool | None]]:
    for source, most in (("own", 0.01), ("real", 0.02), ("others", 0.02)):
        sure, wrong = sure_and_wrong(_where(results["search"], source=source))
        yield f"sure answers, {SAID[source]}: at most {most:.0%} wrong", f"{wrong} of {sure:,}", wrong <= most * sure
    rows = results["p_values"]
    if not rows:
        return
    rejected = [row["rejected"] for row in rows]
    inside = min(rejected) >= 0.003 and max(rejected) <= 0.02
    yield "own outputs: p < .01 in .3 to 2%", f"{per_cent(min(rejected))} to {per_cent(max(rejected))}", inside
    distance = max((row["distance"] for row in rows if row["entries"] >= 2 * row["latent"]), default=0.0)
    yield "their p-values: distance at most .08 where m >= 2k", f"{distance:.3f}", distance <= 0.08
    for noise, most in (("stated", 0.01), ("not stated", 0.02)):
        strange = _where(results["strangers"], noise=noise)
        count = sum(row["each"] * len(row["successes"]) for row in strange)
        share = sum(sum(row["successes"].values()) for row in strange) / max(1, count)
        said = f"out of distribution, noise {noise}: success in at most {most:.0%}"
        yield said, f"{per_cent(share)} of {count:,}", share <= most


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"families": _codes, "families aims": lambda results: aims(_aims(results))},
    collect=lambda command, parts: gathered(parts, "search", "p_values", "strangers"),
    parts=tuple(FAMILIES),
)
