"""Fits of gengli's decoder, where it is installed: codes without bounds, and a Jacobian that takes seconds.

Sixty starts of SciPy's trust region would take hours for an observation: it has one, and :data:`MOST` evaluations. Both
begin with codes from N(0, I). Times are CPU times of one thread.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import least_squares

from unrelu import Gaussian, invert
from unrelu.models.generator import Generator
from unrelu.runtime.host import computing
from unrelu_studies.benchmarks.benchmark import Command, Results
from unrelu_studies.kit.emulators import observed
from unrelu_studies.kit.gengli_decoder import COORDINATES, GENGLI, MISSING, gengli_decoder
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.random_instances import random

Array = npt.NDArray[np.float64]

COUNT, QUICK_COUNT = 2, 1
MOST, QUICK_MOST = 30, 2


def measure(command: Command, noisy: bool) -> dict[str, Any]:
    """Residuals of ``auto`` and of SciPy's, relative to y and to those of the truth, and their times."""
    network, count = gengli_decoder(), min(COUNT, command.count(COUNT, QUICK_COUNT))
    most = QUICK_MOST if command.quick else MOST
    truth = random("emulator truth", command.seed, GENGLI).standard_normal((count, COORDINATES))
    y, sigma = observed(network, truth, noisy, command.seed, GENGLI)
    starts = random("emulator starts", command.seed, GENGLI).standard_normal((count, COORDINATES))
    codes, seconds = {}, {}
    with computing(one_thread=True):
        begin = time.process_time()
        codes["auto"] = invert(network, y, noise=Gaussian(sigma) if noisy else None).z
        seconds["auto"] = time.process_time() - begin
        begin = time.process_time()
        codes["trf x1"] = np.array([_fit(network, *pair, sigma, most) for pair in zip(y, starts, strict=True)])
        seconds["trf x1"] = time.process_time() - begin
    misfit = {method: np.square((y - network.outputs(z)) / sigma).sum(axis=1) for method, z in codes.items()}
    size, at_truth = np.square(y / sigma).sum(axis=1), np.square((y - network.outputs(truth)) / sigma).sum(axis=1)
    return {
        "emulator": GENGLI, "noisy": noisy, "observations": count, "evaluations": most,
        "residual": {m: np.sqrt(f / size).tolist() for m, f in misfit.items()},
        "of truth": {m: (f / at_truth).tolist() for m, f in misfit.items()} if noisy else None,
        "milliseconds": {m: 1e3 * s / count for m, s in seconds.items()},
    }  # fmt: skip


def _fit(network: Generator, y: Array, start: Array, sigma: Array, most: int) -> Array:
    def jacobian(z: Array) -> Array:
        return np.asarray(network.linearize(torch.tensor(z[None]))[1][0].numpy().T / sigma[:, None])

    run = least_squares(lambda z: (network(z) - y) / sigma, start, jacobian, method="trf", max_nfev=most)
    return np.asarray(run.x)


def fits_of_gengli(results: Results) -> str:
    """Its table: what the fits leave, without noise of y, with noise of the chi-square of the truth."""
    rows = results.get(GENGLI)
    if not rows:
        return MISSING + "."
    methods = list(rows[0]["milliseconds"])
    evaluations = f"{rows[0]['evaluations']} evaluations at most"
    return table(
        ("noise", "observations", "what is left", methods[0], f"{methods[1]}, {evaluations}"),
        (
            ("stated" if r["noisy"] else "none", r["observations"],
             "chi-square, of the truth's" if r["noisy"] else "residual, of that of y",
             *(f"{_range((r['of truth'] if r['noisy'] else r['residual'])[m])}, "
               f"{short(r['milliseconds'][m] / 1e3)} s" for m in methods))
            for r in rows
        ),
    )  # fmt: skip


def _range(values: list[float]) -> str:
    low, high = (f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
