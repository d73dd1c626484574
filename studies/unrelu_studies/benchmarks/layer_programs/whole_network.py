r"""Inverting a whole network by ``linf``: ours, HiGHS under our search, and the published loop over HiGHS.

All three go through :func:`unrelu.invert`, every layer handing its threshold down to the next. Ours is the best of 3,
HiGHS under our search runs once; only the solver of the layer programs differs between them. The published loop,
Algorithm 1 with one program at every threshold, takes seconds an observation, so it runs on the first observation of
each noise level. All three run in the same turn of the loop.

HiGHS gets the dual of each program, shifted and scaled as it is in this package, and starts it cold.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu._invert import invert
from unrelu.layerwise import LayerMethod, LayerSolution, LayerSystem, LInf, layer_program, rows
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.layerwise.layer_method import first_threshold
from unrelu.layerwise.layer_program import least_violation
from unrelu.lp.lp_status import LpStatus
from unrelu.measurements.noise import Noise
from unrelu.models.network import Network
from unrelu.result import Ending, Status
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import short, table
from unrelu_studies.kit.timing import one_thread, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

_NETWORK = "mnist-relu"
# Relative to max|x|. Every second turn through them takes a real digit, the others an output of the network.
NOISES = (1e-6, 1e-3, 1e-1)
OBSERVATIONS, QUICK_OBSERVATIONS = 8 * len(NOISES), 2 * len(NOISES)
# Observations on which the published loop runs: one of each noise level.
PUBLISHED = len(NOISES)
BASELINES = ("highs", "published")
_BEST_OF_OURS = 3

# Room for rounding in the test delta <= eps, that of LInf.
_SLACK = 1 + 1e-9


@dataclass(frozen=True)
class PublishedLoop:
    """``linf`` without its search: the smallest delta at eps_0, alpha eps_0, alpha^2 eps_0, ... until delta <= eps.

    It ends at the threshold and the delta of :class:`~unrelu.layerwise.LInf`, or where a program is not solved. No
    program knows of the one before it.

    Args:
        alpha: growth factor, above 1; the paper's experiments use 1.2.

    Source: Algorithm 1 of the paper.
    """

    alpha: float = 1.2
    norm = "linf"
    largest = math.inf

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        """See :class:`~unrelu.layerwise.LayerMethod`."""
        end = time.perf_counter() + time_limit
        start, pivots = first_threshold(system, target, threshold), 0
        for step in itertools.count():
            eps = start * self.alpha**step
            answer = least_violation(system, rows(system, target, eps), "linf", end - time.perf_counter())
            pivots += answer.pivots
            limited = answer.status is LpStatus.LIMIT or time.perf_counter() >= end
            if limited or answer.status is not LpStatus.OPTIMAL or answer.objective <= eps * _SLACK:
                break
        status = Status.CONVERGED if answer.status is LpStatus.OPTIMAL else Ending.SOLVER_FAILED
        status = Status.TIME_LIMIT if limited else status
        return LayerSolution(answer.h, answer.objective, status, pivots, eps, step + 1)


# --- the ways to invert -----------------------------------------------------------------------------------------------


def compare(network: Network, y: Array, published: bool) -> dict[str, dict[str, Any] | None]:
    """One observation by ours, by HiGHS under our search and, where asked for, by the published loop.

    Returns:
        Of each way ``seconds`` of every repetition; ``programs``, linear ones solved over all layers; ``objective``,
        the smallest delta of the last layer, which is unique; ``fun``, |y - G(z)|_inf, in which two ways may differ
        where a layer has more than one optimum; and ``status``.
    """
    ours = _run(network, y, LInf(), _BEST_OF_OURS)
    with patch.object(layer_program, "WIDEST", 0):
        return {
            "ours": ours, "highs": _run(network, y, LInf()),
            "published": _run(network, y, PublishedLoop()) if published else None,
        }  # fmt: skip


def _run(network: Network, y: Array, method: LayerMethod, repetitions: int = 1) -> dict[str, Any]:
    seconds = []
    for _ in range(repetitions):
        kept = _Kept(method)
        result, spent = timed(partial(invert, network, y, Layerwise(kept, "linf")))
        seconds.append(spent)
    objective = kept.solutions[0].objective if kept.solutions else math.nan
    return {
        "seconds": seconds, "programs": int(result.nit), "objective": objective, "fun": float(result.fun),
        "status": str(result.verdict),
    }  # fmt: skip


@dataclass(frozen=True)
class _Kept:
    """A layer method that keeps its solutions, those of the last layer first."""

    method: LayerMethod
    solutions: list[LayerSolution] = field(default_factory=list)

    @property
    def norm(self) -> str:
        """Of the method."""
        return self.method.norm

    @property
    def largest(self) -> float:
        """Of the method."""
        return self.method.largest

    def __call__(
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf,
        noise: Noise | None = None,
    ) -> LayerSolution:  # fmt: skip
        self.solutions.append(self.method(system, target, threshold, time_limit, noise))
        return self.solutions[-1]


# --- the benchmark ----------------------------------------------------------------------------------------------------


def _units(command: Command) -> list[Unit]:
    """An observation each."""
    return [(index,) for index in range(command.count(OBSERVATIONS, QUICK_OBSERVATIONS))]


def observation(index: int, seed: int) -> tuple[Array, dict[str, Any]]:
    """A noisy output of the network or a noisy real digit, and what it is."""
    network, digits = zoo.load(_NETWORK), zoo.observations(_NETWORK)
    truth = stream("whole network, truth", seed, _NETWORK, index)
    noise, real = NOISES[index % len(NOISES)], index // len(NOISES) % 2 == 1
    x = digits[truth.integers(len(digits))] if real else network(truth.standard_normal(network.latent_dim))
    scale = float(np.abs(x).max())
    y = x + noise * scale * stream("whole network, noise", seed, _NETWORK, index).uniform(-1, 1, x.shape)
    return y, {"index": index, "noise": noise, "source": "digit" if real else "random z", "scale": scale}


@cache
def _compiled() -> None:
    """What a process does only once, before anything is timed."""
    invert(zoo.load(_NETWORK), observation(0, 0)[0], "linf")


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    index = int(unit[0])
    y, what = observation(index, command.seed)
    with one_thread():
        _compiled()
        runs = compare(zoo.load(_NETWORK), y, index < PUBLISHED)
    ours, scale = runs["ours"], what["scale"]
    return {**what, **runs, "compared": {name: compared(ours, runs[name], scale) for name in BASELINES}}


def compared(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, scale: float) -> dict[str, float | None]:
    """How many times longer a baseline took, and (ours - theirs) / max(theirs, 1e-8 max|x|) of the objectives.

    None where it was not run, or either broke down: that is no speed.
    """
    if not ours or not theirs or Ending.SOLVER_FAILED.name in (ours["status"], theirs["status"]):
        return {"ratio": None, "difference": None}
    return {
        "ratio": min(theirs["seconds"]) / min(ours["seconds"]),
        "difference": (ours["objective"] - theirs["objective"]) / max(theirs["objective"], 1e-8 * scale),
    }


def _table(results: Results) -> str:
    rows = []
    observations = results["observations"]

    def median_of(values: Callable[[dict[str, Any]], float], group: list[dict[str, Any]]) -> float:
        return float(np.median([values(m) for m in group]))

    for noise in dict.fromkeys(m["noise"] for m in observations):
        group = [m for m in observations if m["noise"] == noise]
        cells: list[Any] = [f"{noise:g}", short(1e3 * median_of(lambda m: min(m["ours"]["seconds"]), group))]
        cells.append(f"{median_of(lambda m: m['ours']['programs'], group):g}")
        for name in BASELINES:
            runs = [m[name] for m in group if m[name]]
            cells.append(short(1e3 * median_of(lambda run: min(run["seconds"]), runs)) if runs else None)
            ratios = [m["compared"][name]["ratio"] for m in group if m["compared"][name]["ratio"] is not None]
            cells.append(short(float(np.median(ratios))) if ratios else None)
            if name == "published":
                cells.append(f"{median_of(lambda run: run['programs'], runs):g}" if runs else None)
        known = [m["compared"][n]["difference"] for m in group for n in BASELINES if m[n]]
        rows.append((*cells, f"{max(abs(d) for d in known if d is not None):.0e}"))
    head = ("noise", "ours, ms", "programs", "HiGHS, our search, ms", "times longer", "published loop, HiGHS cold, ms",
            "times longer", "programs", "objectives differ by")  # fmt: skip
    return table(head, rows)


BENCHMARK = Benchmark(
    units=_units, measure=_measure, blocks={"network": _table}, collect=lambda command, parts: {"observations": parts}
)
