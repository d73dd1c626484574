"""What :func:`unrelu.invert` by a layer method costs, in units of one of its programs: networks of one layer.

A unit is :func:`~unrelu.layerwise.layer_program.least_violation` of every observation of the batch at the true noise
level. The inversions have everything else in them: checks, the search of the threshold where no noise is stated, the
rank and the verdict. All of one batch take turns, on one thread; times are of the processor, the least of several, so
that other work on the machine counts for little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu import Uniform, zoo
from unrelu._invert import invert
from unrelu.layerwise import LayerSystem, rows
from unrelu.layerwise.layer_by_layer import layer_systems
from unrelu.layerwise.layer_program import least_violation
from unrelu.loaders import from_arrays
from unrelu.models.network import Network
from unrelu.runtime.host import on_one_core
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.benchmarks.layer_programs.layer_instances import CASES, Case
from unrelu_studies.benchmarks.layer_programs.layers import spaced
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.timing import one_thread, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

TIMED_CASES = tuple(case for case in CASES if case.name in ("784x60", "zoo 784x60", "600x250"))
METHODS = ("l1", "linf")
# Of the uniform noise, relative to max|x|.
LEVELS = (1e-3, 5e-2)
OBSERVATIONS, QUICK_OBSERVATIONS = 24, 4
_REPETITIONS, _QUICK_REPETITIONS = 5, 2
# How many programs an inversion may cost with stated noise, and without.
_AIMS = {"stated": 1.5, "unknown": 5.0}


def _units(command: Command) -> list[Unit]:
    """A layer, a method and a noise level each."""
    cases = TIMED_CASES[:1] if command.quick else TIMED_CASES
    return [(case.name, method, level) for case in cases for method in METHODS for level in LEVELS]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    case = next(case for case in CASES if case.name == unit[0])
    repetitions = _QUICK_REPETITIONS if command.quick else _REPETITIONS
    count = command.count(OBSERVATIONS, QUICK_OBSERVATIONS)
    with one_thread(), on_one_core():
        return measure(case, str(unit[1]), float(unit[2]), count, command.seed, repetitions)


def measure(case: Case, method: str, level: float, count: int, seed: int, repetitions: int) -> dict[str, Any]:
    """Time one batch.

    Returns:
        ``seconds`` of the processor of every repetition: of "program", a program for every observation, and of the
        inversions with "stated" and "unknown" noise; ``programs`` that these solved for an observation, on average;
        ``ratios`` of their least times to that of the programs.
    """
    network, system = _layer(case, seed)
    z = stream("layer methods, truth", seed, case.name).standard_normal((count, network.latent_dim))
    x = np.asarray(network(z), dtype=np.float64)
    size = level * float(np.abs(x).max())
    y = x + size * stream("layer methods, noise", seed, case.name).uniform(-1, 1, x.shape)
    runs: dict[str, Callable[[], Any]] = {
        "program": partial(_programs, system, y, size, method),
        "stated": partial(invert, network, y, method, noise=Uniform(size)),
        "unknown": partial(invert, network, y, method),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    programs: dict[str, float] = {}
    # An untimed turn leaves out imports, compilation and what depends on W alone.
    for turn in range(repetitions + 1):
        for name, run in runs.items():
            result, spent = timed(run, time.process_time)
            if turn:
                seconds[name].append(spent)
            programs[name] = float(np.mean(result.nit)) if name in _AIMS else 1.0
    unit = min(seconds["program"])
    return {
        "layer": case.name, "method": method, "level": level, "observations": count, "seconds": seconds,
        "programs": programs, "ratios": {name: min(seconds[name]) / unit for name in _AIMS},
    }  # fmt: skip


def _programs(system: LayerSystem, y: Array, threshold: float, norm: str) -> None:
    for row in y:
        least_violation(system, rows(system, row, threshold), norm)


def _layer(case: Case, seed: int) -> tuple[Network, LayerSystem]:
    """A network of one layer, that of a case, and its system."""
    if case.network:
        last = zoo.load(case.network).layers[-1]
        network = from_arrays([last.matrix()], [last.bias()], activation="relu")
    else:
        rng = stream("layer methods, weights", seed, case.name)
        network = from_arrays([rng.normal(0, case.n**-0.5, (case.n, case.k))], activation="relu")
    return network, layer_systems(network, "benchmark")[0]


def _table(results: Results) -> str:
    lines = []
    for row in results["rows"]:
        ratios = row["ratios"]
        reached = ", ".join("yes" if ratios[name] <= aim else "no" for name, aim in _AIMS.items())
        unit = 1e3 * min(row["seconds"]["program"]) / row["observations"]
        cells = [cell for name in _AIMS for cell in (short(ratios[name]), f"{row['programs'][name]:.1f}")]
        lines.append((spaced(row["layer"]), row["method"], f"{row['level']:g}", short(unit), *cells, reached))
    head = ("layer", "method", "noise", "one program, ms", "stated, / program", "programs", "unknown, / program",
            "programs", "1.5 and 5, the aims, reached")  # fmt: skip
    text = f"Batches of {results['rows'][0]['observations']} observations of one layer, milliseconds of the processor:"
    return f"{text}\n\n{table(head, lines)}"


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"layer_methods": _table})
