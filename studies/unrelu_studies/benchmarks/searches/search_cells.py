"""The problems of the search benchmark: generators, measurements and noise levels in all combinations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from unrelu import zoo
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.streams import stream
from unrelu_studies.kit.measures import identifiable, moved_by
from unrelu_studies.kit.random_instances import gaussian_measurements, gaussian_network, sizes_of

# A mask for each observation, a matrix, or nothing: all of the output is seen.
Measured = Flags | Array | None

ZOO = ("mnist-relu", "mnist-leaky", "mnist-sigmoid", "mnist-dcgan")
# Random nets: weights N(0, 1 / n_i), no biases; another net for each batch, and codes at which its Jacobian has rank k.
RANDOM = ("20-100-500", "60-250-600", "100-250-600", "120-250-600")
GENERATORS = (*ZOO, *RANDOM)
MEASUREMENTS = ("full", "half", "block", "gauss 100", "gauss 200")
_NOISES = (0.0, 1e-3, 0.1, 0.3)
_NOISES_RANDOM = (0.0, 1e-6, 1e-4, 1e-2)
# The zoo's images, and the pixels along each side of the missing block.
_IMAGE = (28, 28)
_BLOCK = 10
# |y - A G(z)|^2 up to which a code is a success: this share of |y|^2 without noise, this multiple of z*'s with noise.
_EXACT = 1e-10
_ROOM = 1 + 1e-6


@dataclass(frozen=True)
class SearchCell:
    """A generator, what is measured of its outputs, and the deviation of the Gaussian noise on that.

    Attributes:
        generator: a name of the zoo, or the sizes of a random net.
        measurement: "full"; "half" of the pixels and all but a "block", other pixels for each observation; "gauss m":
            m Gaussian measurements, N(0, 1/m), the same for all observations of a batch.
        noise: in units of the output.
    """

    generator: str
    measurement: str
    noise: float


@dataclass(frozen=True, eq=False)
class CellBatch:
    """Observations of one generator.

    Attributes:
        network, y, operator: what :func:`unrelu.invert` takes.
        noise: its deviation.
        truth: codes z*, (B, k).
        target: |y - A G(z)|^2 up to which a code is a success, (B,).
        oracle: |z - z*| of least squares that knows the linear piece of z*, (B,); None for the zoo's generators.
    """

    network: Network
    y: Array
    operator: Measured
    noise: float
    truth: Array
    target: Array
    oracle: Array | None

    def first(self, count: int) -> CellBatch:
        """The first observations only."""
        operator = self.operator[:count] if self.operator is not None and self.operator.dtype == bool else self.operator
        oracle = None if self.oracle is None else self.oracle[:count]
        return CellBatch(
            self.network, self.y[:count], operator, self.noise, self.truth[:count], self.target[:count], oracle
        )

    def misfit(self, z: Array) -> Array:
        """|y - A G(z)|^2, (B,)."""
        return _problem(self.network, self.y, self.operator).objective(z)


def cells() -> list[SearchCell]:
    """All of them, generator by generator."""
    of_the_zoo = [
        SearchCell(name, measurement, noise) for name in ZOO for measurement in MEASUREMENTS for noise in _NOISES
    ]
    return [*of_the_zoo, *(SearchCell(name, "full", noise) for name in RANDOM for noise in _NOISES_RANDOM)]


QUICK_CELLS = (
    SearchCell("mnist-relu", "half", 0.0),
    SearchCell("mnist-relu", "half", 0.1),
    SearchCell("20-100-500", "full", 0.0),
    SearchCell("20-100-500", "full", 1e-2),
)
QUICK_INSTANCES = 10


def draw(cell: SearchCell, count: int, index: int, seed: int) -> CellBatch:
    """Batch ``index`` of a cell; equal arguments give equal bits.

    Codes, pixels and noise are the same for the noise levels of a cell, up to the level.
    """
    key = (seed, index, cell.generator, cell.measurement)
    random = cell.generator in RANDOM
    network = _random_network(cell.generator, seed, index) if random else zoo.load(cell.generator)
    codes = stream("search, truth", *key)
    truth = _of_full_rank(network, count, codes) if random else codes.standard_normal((count, network.latent_dim))
    operator = _operator(cell.measurement, network, count, stream("search, measurement", *key))
    x = np.asarray(network(truth))
    measured = x if operator is None or operator.dtype == bool else x.reshape(count, -1) @ operator.T
    e = cell.noise * stream("search, noise", *key).standard_normal(measured.shape)
    oracle = np.linalg.norm(moved_by(network.jacobian(truth), np.zeros_like(truth), e), axis=1) if random else None
    y = measured + e
    problem = _problem(network, y, operator)
    target = _ROOM * problem.objective(truth) if cell.noise else _EXACT * np.square(problem.y).sum(axis=1)
    return CellBatch(network, y, operator, cell.noise, truth, target, oracle)


def _problem(network: Network, y: Array, operator: Measured) -> Problem:
    return Problem.build(network, y, operator=operator, norm="l2")


@cache
def _random_network(generator: str, seed: int, index: int) -> Network:
    sizes = sizes_of(generator)
    return gaussian_network(sizes, stream("search, weights", seed, index, *sizes))


def _of_full_rank(network: Network, count: int, rng: np.random.Generator) -> Array:
    """Codes from N(0, I) at which the Jacobian has rank k, (count, k)."""
    found: list[Array] = []
    while len(found) < count:
        z = rng.standard_normal(network.latent_dim)
        if identifiable(network, z[None])[0]:
            found.append(z)
    return np.stack(found)


def _operator(measurement: str, network: Network, count: int, rng: np.random.Generator) -> Measured:
    n = network.output_dim
    if measurement == "full":
        return None
    if measurement.startswith("gauss"):
        m = int(measurement.split()[1])
        return gaussian_measurements(m, n, rng)
    seen = np.ones((count, *_IMAGE), dtype=bool)
    for image in seen:
        if measurement == "half":
            image.flat[rng.permutation(n)[: n // 2]] = False
        else:
            top, left = (rng.integers(side - _BLOCK + 1) for side in _IMAGE)
            image[top : top + _BLOCK, left : left + _BLOCK] = False
    return seen.reshape(count, *network.output_shape)
