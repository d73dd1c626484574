"""Inverting a whole network by ``linf``: ours, HiGHS under our search, and the published loop over HiGHS.

All three go through :func:`unrelu.invert`, every layer handing its threshold down to the next. Ours is the best of 3,
HiGHS under our search runs once; only the solver of the layer programs differs between them. The published loop,
Algorithm 1 with one program at every threshold, takes seconds an observation, so it runs on the first observation of
each noise level. All three run in the same turn of the loop.

HiGHS gets the dual of each program, shifted and scaled as it is in this package, and starts it cold.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu._invert import invert
from unrelu.layerwise import LayerMethod, LayerSolution, LayerSystem, LInf, layer_program
from unrelu.layerwise.layer_by_layer import Layerwise
from unrelu.models.network import Network
from unrelu.result import Status
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.instances import REPORT_SEED
from unrelu_studies.benchmarks.one_core import one_thread
from unrelu_studies.benchmarks.published import PublishedLoop

Array = npt.NDArray[np.float64]

# Relative to max|x|. Every second turn through them takes a real digit, the others an output of the network.
NOISES = (1e-6, 1e-3, 1e-1)
OBSERVATIONS = 8 * len(NOISES)
QUICK_OBSERVATIONS = 2 * len(NOISES)
# Observations on which the published loop runs: one of each noise level.
PUBLISHED = len(NOISES)
BASELINES = ("highs", "published")
_BEST_OF_OURS = 3


@dataclass(frozen=True)
class NetworkRun:
    """One observation inverted in one way.

    Attributes:
        seconds: of every repetition.
        programs: linear programs solved, over all layers.
        objective: the smallest delta of the last layer, which is unique; NaN where there is none.
        fun: |y - G(z)|_inf. Two runs may differ in it where a layer has more than one optimum.
        status: how the inversion ended.
    """

    seconds: list[float]
    programs: int
    objective: float
    fun: float
    status: str


@dataclass(frozen=True)
class Inverted:
    """One observation, inverted in every way.

    Attributes:
        index, noise, source: which.
        scale: max|x|.
        ours: the exchange kernel under the search of ``linf``.
        highs: HiGHS under the same search.
        published: HiGHS under the published loop; None where it was not run.
    """

    index: int
    noise: float
    source: str
    scale: float
    ours: NetworkRun
    highs: NetworkRun
    published: NetworkRun | None

    def against(self, baseline: str) -> tuple[NetworkRun, NetworkRun] | None:
        """Ours and one of :data:`BASELINES`; None where it was not run, or either broke down: that is no speed."""
        run = self.highs if baseline == "highs" else self.published
        failed = Status.SOLVER_FAILED.name
        return None if run is None or failed in (self.ours.status, run.status) else (self.ours, run)

    def ratio(self, baseline: str) -> float | None:
        """How many times longer a baseline took than ours."""
        pair = self.against(baseline)
        return min(pair[1].seconds) / min(pair[0].seconds) if pair else None

    def difference(self, baseline: str) -> float | None:
        """(ours - theirs) / max(theirs, 1e-8 max|x|) of the last layer's objectives."""
        pair = self.against(baseline)
        return _relative(pair[0].objective, pair[1].objective, self.scale) if pair else None

    def same_residual(self, baseline: str) -> bool | None:
        """Whether |y - G(z)|_inf of ours and of a baseline agree to 1e-6."""
        pair = self.against(baseline)
        return abs(_relative(pair[0].fun, pair[1].fun, self.scale)) <= 1e-6 if pair else None


def _relative(ours: float, theirs: float, scale: float) -> float:
    return (ours - theirs) / max(theirs, 1e-8 * scale)


def measure_network(
    observations: int | None = None,
    seed: int = REPORT_SEED,
    name: str = "mnist-relu",
    published: int = PUBLISHED,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Inverted]:
    """Invert noisy outputs of a network of the zoo, and noisy real digits, in every way.

    Args:
        observations: how many; 24 by default.
        seed: of the observations.
        name: of the network.
        published: how many of them, from the first, also go through the published loop.
        progress: called with the name of what is measured, the observations done and their total.
    """
    count = observations or OBSERVATIONS
    network, digits = zoo.load(name), zoo.observations(name)
    done: list[Inverted] = []
    with one_thread():
        for index in range(count):
            progress(name, index, count)
            truth = stream("whole network, truth", seed, name, index)
            noise, real = NOISES[index % len(NOISES)], index // len(NOISES) % 2 == 1
            x = digits[truth.integers(len(digits))] if real else network(truth.standard_normal(network.latent_dim))
            scale = float(np.abs(x).max())
            y = x + noise * scale * stream("whole network, noise", seed, name, index).uniform(-1, 1, x.shape)
            if not index:
                invert(network, y, "linf")
            runs = compare(network, y, index < published)
            done.append(Inverted(index, noise, "digit" if real else "random z", scale, *runs))
    progress(name, count, count)
    return done


def compare(network: Network, y: Array, published: bool) -> tuple[NetworkRun, NetworkRun, NetworkRun | None]:
    """One observation by ours, by HiGHS under our search and, where asked for, by the published loop."""
    ours = _run(network, y, LInf(), _BEST_OF_OURS)
    with patch.object(layer_program, "WIDEST", 0):
        return ours, _run(network, y, LInf()), _run(network, y, PublishedLoop()) if published else None


def _run(network: Network, y: Array, method: LayerMethod, repetitions: int = 1) -> NetworkRun:
    seconds = []
    for _ in range(repetitions):
        kept = _Kept(method)
        begin = time.perf_counter()
        result = invert(network, y, Layerwise(kept, "linf"))
        seconds.append(time.perf_counter() - begin)
    objective = kept.solutions[0].objective if kept.solutions else math.nan
    return NetworkRun(seconds, int(result.nit), objective, float(result.fun), str(result.status))


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
        self, system: LayerSystem, target: Array, threshold: float | None = None, time_limit: float = math.inf
    ) -> LayerSolution:
        self.solutions.append(self.method(system, target, threshold, time_limit))
        return self.solutions[-1]
