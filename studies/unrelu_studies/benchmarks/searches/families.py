"""Whether a verdict is true on decoders that people train: codes, confidence, p-values and success, family by family.

The families are those of :data:`~unrelu_studies.kit.families.trained_families.REPORT`, on which nothing is tuned. The
best known objective of an observation is the least of the search's own, of the same with another seed, and of a heavy
search that shares no code with it (:mod:`~unrelu_studies.kit.families.heavy_search`: a descent from the truth, and
hundreds by five strategies), among the codes that the confidence is about: up to ten times as long as those of
N(0, I), or as the answer. Where outputs saturate, every measurement is also made of data that the family did not make.
All observations of a cell are inverted together, and the first ones are judged. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.stats import kstest

from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.kit.binomial import OPEN, at_most, counted, interval, share
from unrelu_studies.kit.families.family_observations import DRAWN, MEASURED, NOISE, ZERO, FamilyObservations, observe
from unrelu_studies.kit.families.heavy_search import ROUNDS, least_objectives
from unrelu_studies.kit.families.trained_families import FAMILIES, REPORT, Family, TrainedFamily, others, output_of
from unrelu_studies.kit.markdown_tables import aims, short, table
from unrelu_studies.kit.numbers_file import plain
from unrelu_studies.kit.unit_runner import Unit

# Observations of a cell, and those of them whose codes are compared with the best that is known.
COUNT, QUICK_COUNT, JUDGED = 50, 10, 12
# Rounds of the heavy search: the truth, which is known of own outputs, is what most of them are compared with.
OWN_ROUNDS, QUICK_ROUNDS = 8, 2
SATURATED = ("sigmoid", "tanh")
QUICK_FAMILIES = (
    "weight decay 2e-3, 8-32-64", "digits 0 to 4, 8-40-80", "convolutional, 8-16-8", "random leaky .01, 9-36-14-64",
)  # fmt: skip
# Levenberg-Marquardt from so many starts, for so many observations of half of the outputs.
STARTS, FEW = 10, 6
STRANGERS = ("white noise", "constants", "spikes", "permuted", "inverted")
# Observations of each kind of :data:`STRANGERS`; entries of an observation that are spikes.
EACH, _SPIKES = 4, 4


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
        if not _makes_flat_outputs(FAMILIES[name]):
            units += [("strangers", name, stated) for stated in ("stated", "not stated")]
    return units


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    question, name, of, *rest = unit
    family, seed = str(name), command.seed
    with computing(one_thread=True):
        if question == "search":
            source = str(rest[0])
            rounds = QUICK_ROUNDS if command.quick else OWN_ROUNDS if source == "own" else ROUNDS
            observed = observe(family, str(of), command.count(COUNT, QUICK_COUNT), seed, source)
            row, head = searched(observed, seed, rounds, descents=of == "half"), {"measured": of, "source": source}
        else:
            row, head = strangers(family, command.count(EACH, 1), seed, str(of) == "stated"), {"noise": of}
    return {str(question): [{"family": family, **head, **row}]}


def _makes_flat_outputs(family: Family) -> bool:
    """Whether constants are outputs of it: patches of photographs, which permuted or inverted are such patches too."""
    return isinstance(family, TrainedFamily) and family.data == "patches"


# --- the best codes, and how sure the search is of them ---------------------------------------------------------------


def searched(observed: FamilyObservations, seed: int, rounds: int, descents: bool) -> dict[str, Any]:
    """Codes of the search against the best that is known, its confidences, p-values and times.

    Args:
        observed: the observations.
        seed: of the heavy search.
        rounds: of the heavy search.
        descents: whether Levenberg-Marquardt from :data:`STARTS` starts is given the first observations too.

    Returns:
        ``best``, ``confidence``, ``objective`` and ``known``, the best known one, of the first :data:`JUDGED`, those of
        exact fits at the limit of such fits; ``p``, (B,); ``milliseconds`` an observation; and with
        ``descents`` ``lm``: ``best``, how many of its codes are, ``count``, of how many, and ``milliseconds``.
    """
    found, milliseconds = _timed(observed, FamilyObservations.invert)
    some = observed.take(slice(JUDGED))
    z = found.z[: len(some)]
    codes, few, row = [z, some.invert(seed=1).z], some.take(slice(FEW)), {}
    if descents:
        by_descents, descents_milliseconds = _timed(few, _levenberg_marquardt)
        codes.append(np.concatenate([by_descents, z[len(few) :]]))
    longest = some.longest(z)
    known, _ = least_objectives(some, seed, codes, rounds, longest)
    known = np.min([known, *(some.objective(code, longest) for code in codes)], axis=0)
    if descents:
        best = few.best(few.objective(by_descents), known[: len(few)])
        row["lm"] = {"best": int(best.sum()), "count": len(few), "milliseconds": descents_milliseconds}
    confidence = np.nan_to_num(np.asarray(found.confidence))[: len(some)]
    f, exact = some.objective(z), ZERO * np.square(some.measured).sum(axis=1)
    return {
        "best": some.best(f, known).tolist(), "objective": plain(np.maximum(f, exact), 6),
        "known": plain(np.maximum(known, exact), 6), "confidence": plain(confidence, 6),
        "p": plain(found.p_value, 4), "milliseconds": milliseconds, **row,
    }  # fmt: skip


def _timed(observed: FamilyObservations, method: Callable[[FamilyObservations], Any]) -> tuple[Any, float]:
    """What a method gives, and CPU milliseconds for each observation."""
    method(observed.take(slice(2)))  # compiles, and learns what is learned of a generator once
    begin = time.process_time()
    found = method(observed)
    return found, 1e3 * (time.process_time() - begin) / len(observed)


def _levenberg_marquardt(observed: FamilyObservations) -> Array:
    """The best of descents from N(0, I)."""
    z = np.array([observed.invert("lm", seed=seed).z for seed in range(STARTS)])
    f = np.array([observed.objective(codes) for codes in z])
    return np.asarray(z[f.argmin(axis=0), np.arange(len(observed))])


# --- success on what no generator made --------------------------------------------------------------------------------


def strangers(name: str, each: int, seed: int, stated: bool) -> dict[str, Any]:
    """Successes on observations that no generator made, ``each`` of :data:`STRANGERS`, the noise stated or not."""
    own, family = observe(name, "all", DRAWN, seed), FAMILIES[name]
    like = family.held_out() if isinstance(family, TrainedFamily) else own.measured
    size = NOISE * float(like.std())
    x = np.concatenate([_strange(kind, like, each, stream("families, strangers", seed, name, kind))
                        for kind in STRANGERS])  # fmt: skip
    noise = [stream("families, noise of strangers", seed, name, kind) for kind in STRANGERS]
    x += size * np.concatenate([rng.standard_normal((each, x.shape[1])) for rng in noise])
    result = own.with_measured(x).invert(noise=f"gaussian:{size!r}" if stated else None)
    found = np.reshape(result.success, (len(STRANGERS), each)).sum(axis=1)
    return {"each": each, "successes": dict(zip(STRANGERS, found.tolist(), strict=True))}


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
                best = [b for row in rows for b in row["best"]]
                milliseconds = float(np.median([row["milliseconds"] for row in rows]))
                sure, wrong = sure_and_wrong(rows)
                lines.append((said, measured, f"{len(best):,}", share(sum(best), len(best)), short(milliseconds),
                              f"{sure:,}", wrong))  # fmt: skip
    head = ("data", "measured", "observations", "best codes", "ms", "sure", "of these wrong")
    return table(head, lines)


SAID = {"own": "own outputs", "real": "real data", "others": "outputs of others"}


def p_values(rows: list[Results]) -> list[float]:
    """Of own outputs."""
    return [p for row in _where(rows, source="own") for p in row["p"]]


def _aims(results: Results) -> Iterator[tuple[str, str, bool | str | None]]:
    rows = results["search"]
    for source, most in (("own", 0.01), ("real", 0.02), ("others", 0.02)):
        sure, wrong = sure_and_wrong(_where(rows, source=source))
        said = f"sure answers, {SAID[source]}: at most {most:.0%} wrong"
        yield said, counted(wrong, sure), at_most(wrong, sure, most)
    p = p_values(rows)
    rejected = sum(value < 0.01 for value in p)
    low, high = interval(rejected, len(p))
    inside = True if low >= 0.003 and high <= 0.02 else False if high < 0.003 or low > 0.02 else OPEN
    yield "own outputs: p < .01 in .3 to 2%", counted(rejected, len(p)), inside
    families = dict.fromkeys(row["family"] for row in rows)
    refused = sum(kstest(p_values(_where(rows, family=name)), "uniform").pvalue < 0.01 for name in families)
    yield "their p-values: families told from uniform at .01 (no aim)", f"{refused} of {len(families)}", None
    for noise, most in (("stated", 0.01), ("not stated", 0.02)):
        strange = _where(results["strangers"], noise=noise)
        count = sum(row["each"] * len(row["successes"]) for row in strange)
        successes = sum(sum(row["successes"].values()) for row in strange)
        said = f"out of distribution, noise {noise}: success in at most {most:.0%}"
        yield said, counted(successes, count), at_most(successes, count, most)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"families": _codes, "families aims": lambda results: aims(_aims(results))},
    collect=lambda command, parts: gathered(parts, "search", "strangers"),
    parts=tuple(FAMILIES),
)
