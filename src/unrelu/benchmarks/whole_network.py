"""Inverting a whole network by ``linf`` with the kernel and with HiGHS, observation by observation.

``unrelu.invert(network, y, method="linf")`` as a user calls it: every layer, every threshold. Only the solver of the
layer programs differs. Ours is the best of 3, HiGHS runs once, both in the same turn of the loop.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unrelu import zoo
from unrelu.benchmarks.instances import REPORT_SEED
from unrelu.benchmarks.machine import one_thread
from unrelu.layer import LInf, convex
from unrelu.methods.layerwise import layer_systems
from unrelu.network import Network
from unrelu.solve import invert

__all__ = ["OBSERVATIONS", "Inverted", "measure_network"]

Array = npt.NDArray[np.float64]

OBSERVATIONS = 24
# Relative to max|x|; every second observation of a level is a real digit, the others are outputs of the network.
_NOISES = (1e-3, 1e-1)
_BEST_OF_OURS = 3
# The context manager of unrelu.layer.convex that puts one solver under least_violation.
_SWITCH = "engine"


@dataclass(frozen=True)
class Inverted:
    """One observation.

    Attributes:
        index, noise, source: which.
        ours_seconds: every repetition.
        highs_seconds: with HiGHS in place of the kernel.
        ours_objective, highs_objective: the smallest delta of the last layer, which is unique.
        ours_fun, highs_fun: |y - G(z)|_inf. They may differ where the last layer has more than one optimum.
        scale: max|x|.
    """

    index: int
    noise: float
    source: str
    ours_seconds: list[float]
    highs_seconds: float
    ours_objective: float
    highs_objective: float
    ours_fun: float
    highs_fun: float
    scale: float

    @property
    def speedup(self) -> float:
        """HiGHS's seconds in ours."""
        return self.highs_seconds / min(self.ours_seconds)

    @property
    def difference(self) -> float:
        """(ours - HiGHS) / max(HiGHS, 1e-8 max|x|) of the last layer's objectives."""
        return (self.ours_objective - self.highs_objective) / max(self.highs_objective, 1e-8 * self.scale)


def measure_network(
    observations: int | None = None, seed: int = REPORT_SEED, name: str = "mnist-relu"
) -> list[Inverted]:
    """Invert noisy outputs of a network of the zoo, and noisy real digits, with both solvers."""
    network = zoo.load(name)
    digits = zoo.observations(name)
    done = []
    with one_thread():
        for index in range(observations or OBSERVATIONS):
            rng = np.random.default_rng([seed, index])
            noise, real = _NOISES[index % len(_NOISES)], index // len(_NOISES) % 2 == 1
            x = digits[rng.integers(len(digits))] if real else network(rng.standard_normal(network.latent_dim))
            scale = float(np.abs(x).max())
            y = x + noise * scale * rng.uniform(-1, 1, x.shape)
            if not index:
                invert(network, y, "linf")
            done.append(_compare(network, y, index, noise, "digit" if real else "random z", scale))
    return done


def _compare(network: Network, y: Array, index: int, noise: float, source: str, scale: float) -> Inverted:
    seconds = []
    for _ in range(_BEST_OF_OURS):
        begin = time.perf_counter()
        ours = invert(network, y, "linf")
        seconds.append(time.perf_counter() - begin)
    last, target = layer_systems(network, "linf")[-1], y.ravel()
    objective = LInf()(last, target).objective
    with _highs():
        begin = time.perf_counter()
        theirs = invert(network, y, "linf")
        highs_seconds = time.perf_counter() - begin
        highs_objective = LInf()(last, target).objective
    fun = float(ours.fun), float(theirs.fun)
    return Inverted(index, noise, source, seconds, highs_seconds, objective, highs_objective, *fun, scale)


def _highs() -> AbstractContextManager[None]:
    """Put HiGHS under every layer program."""
    switch: AbstractContextManager[None] = getattr(convex, _SWITCH)("highs")
    return switch
