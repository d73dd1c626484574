"""What ``prior`` changes under heavy noise: the latent error of ``auto`` with and without it.

z ~ N(0, I) and noise of deviation S make S^2 the weight of the most probable code: |y - A G(z)|^2 / S^2 + |z|^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import unrelu
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.measures import relative_error
from unrelu_studies.kit.random_instances import gaussian_measurements
from unrelu_studies.kit.unit_runner import Unit

COUNT, QUICK_COUNT = 50, 5
NOISES = (0.03, 0.1, 0.3, 0.6)
FACTORS = (0.0, 0.1, 1.0, 10.0)
GENERATORS = ("mnist-relu", "mnist-sigmoid")
MEASUREMENTS = {"full": None, "100 Gaussian": 100}


def _units(command: Command) -> list[Unit]:
    """A generator, a measurement and a noise level each."""
    return [(name, measured, noise) for name in GENERATORS for measured in MEASUREMENTS for noise in NOISES]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    """``errors``, medians of |z - z*| / |z*|, by the factor of S^2."""
    name, measured, noise = str(unit[0]), str(unit[1]), float(unit[2])
    network, m, seed = unrelu.zoo.load(name), MEASUREMENTS[measured], command.seed
    count = command.count(COUNT, QUICK_COUNT)
    truth = stream("prior, truth", seed, name).standard_normal((count, network.latent_dim))
    matrix = stream("prior, measurement matrix", seed, name)
    operator = None if m is None else gaussian_measurements(m, network.output_dim, matrix)
    x = network(truth) if operator is None else network(truth) @ operator.T
    y = x + noise * stream("prior, noise", seed, name, measured).standard_normal(x.shape)
    errors = {}
    for factor in FACTORS:
        z = unrelu.invert(network, y, "auto", operator=operator, prior=factor * noise**2).z
        errors[f"{factor:g}"] = float(np.median(relative_error(z, truth)))
    return {"generator": name, "measured": measured, "noise": noise, "errors": errors}


def _table(results: Results) -> str:
    """Without a prior, and with that of the most probable code."""
    rows = (
        (r["generator"], r["measured"], f"{r['noise']:g}", *(f"{r['errors'][f]:.2g}" for f in ("0", "1")))
        for r in results["rows"]
    )
    return table(("generator", "measured", "noise S", "error without", "with prior S^2"), rows)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    blocks={"prior": _table},
    collect=lambda command, parts: {"observations": command.count(COUNT, QUICK_COUNT), "rows": parts},
)
