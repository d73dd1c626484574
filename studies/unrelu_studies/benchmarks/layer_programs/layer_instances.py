"""The layer programs that are timed: five layers, three programs, noise and bounds in all combinations.

An instance is drawn from (seed, layer, index) alone, so the programs of one layer share their data: "linf" sees the
rows that "l1" sees, and the outliers are added to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unrelu import zoo
from unrelu.layerwise import LayerSystem, Rows, rows
from unrelu.models.activations import Activation
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream

# Noise relative to max|x|, without and with h >= 0: instance i is of combination i modulo 6.
COMBINATIONS = tuple((noise, bounded) for noise in (1e-6, 1e-3, 1e-1) for bounded in (False, True))


@dataclass(frozen=True)
class Case:
    """A layer x = relu(W h), n x k: W with entries N(0, 1/n), or the last layer of a network of the zoo.

    Attributes:
        name: what tables call it.
        n, k: outputs and inputs.
        network: the network's name in the zoo, or empty for a random W.
    """

    name: str
    n: int
    k: int
    network: str = ""


@dataclass(frozen=True)
class TimedProgram:
    """What is minimised, and the share of entries of x replaced by gross errors, uniform in [0, 2 max|x|]."""

    norm: str
    outliers: float = 0.0

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.norm}, {self.outliers:.0%} outliers" if self.outliers else self.norm


CASES = (
    Case("784x60", 784, 60),
    Case("zoo 784x60", 784, 60, "mnist-relu"),
    Case("500x100", 500, 100),
    Case("500x200", 500, 200),
    Case("600x250", 600, 250),
)
# A quick run has a small random layer in place of large ones, whose programs take others seconds.
QUICK_CASES = (CASES[1], Case("200x20", 200, 20))
ALL_CASES = (*CASES, QUICK_CASES[1])
PROGRAMS = (TimedProgram("l1"), TimedProgram("linf"), TimedProgram("l1", 0.05))


@dataclass(frozen=True, eq=False)
class Instance:
    """One layer program.

    Attributes:
        case, program, index: what it is.
        noise: level of the uniform noise, relative to max|x|; also the threshold of the rows.
        bounded: h >= 0, as behind a ReLU; else h is free.
        source: where x comes from: "random h", "random z" or "digit".
        scale: max|x| before the noise.
        system, rows: the program.
    """

    case: Case
    program: TimedProgram
    index: int
    noise: float
    bounded: bool
    source: str
    scale: float
    system: LayerSystem
    rows: Rows


def draw(case: Case, program: TimedProgram, index: int, seed: int) -> Instance:
    """Instance ``index`` of a layer; equal arguments give equal bits.

    Of the last layer of a network, every second run through the combinations takes a real digit that the network has
    never seen, the others take G(z) of a random z.
    """
    key = (seed, ALL_CASES.index(case), index)
    noise, bounded = COMBINATIONS[index % len(COMBINATIONS)]
    system = _layer(case, bounded, stream("layer, weights", *key))
    x, source = _output(case, system, index // len(COMBINATIONS), stream("layer, truth", *key))
    scale = float(np.abs(x).max())
    observed = x + noise * scale * stream("layer, noise", *key).uniform(-1, 1, len(x))
    outliers = stream("layer, outliers", *key)
    gross = outliers.permutation(len(x))[: round(program.outliers * len(x))]
    observed[gross] = outliers.uniform(0, 2 * scale, len(gross))
    return Instance(case, program, index, noise, bounded, source, scale, system, rows(system, observed, noise * scale))


def _layer(case: Case, bounded: bool, rng: np.random.Generator) -> LayerSystem:
    """The last layer of a network, or W with entries N(0, 1/n); h >= 0 where it is bounded."""
    if case.network:
        network = zoo.load(case.network)
        return LayerSystem.of(network.layers[-1], network.layers[-2].activation if bounded else None)
    matrix = rng.normal(0, case.n**-0.5, (case.n, case.k))
    lower = np.full(case.k, 0.0 if bounded else -np.inf)
    return LayerSystem(matrix, np.zeros(case.n), Activation("relu"), lower, np.full(case.k, np.inf))


def _output(case: Case, system: LayerSystem, turn: int, rng: np.random.Generator) -> tuple[Array, str]:
    """A clean output x, and where it comes from.

    Of a network, a real digit in odd turns and G(z) in even ones, z ~ N(0, I); of a random layer, relu(W h) with
    h ~ N(0, I), moved into its bounds.
    """
    if not case.network:
        return system.value(system.inside(rng.standard_normal(case.k))), "random h"
    network = zoo.load(case.network)
    if turn % 2:
        digits = zoo.observations(case.network)
        return digits[rng.integers(len(digits))].ravel(), "digit"
    return np.asarray(network(rng.standard_normal(network.latent_dim)), dtype=np.float64).ravel(), "random z"
