"""Generators on which descents get stuck, and what is observed of them: half of them to tune on, half to report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from unrelu import zoo
from unrelu.loaders import from_arrays
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.kit.random_instances import gaussian_measurements, random, sizes_of
from unrelu_studies.kit.trained_generators import PIXELS, plain_vae

# Names are those of trained decoders, or "sizes activations seed" of random ones: weights N(0, 2 / n_{i-1}), which keep
# the size of what a ReLU layer puts out; biases of half that size where the seed is odd.
TUNE = (
    "plain-vae-0", "plain-vae-0-variance-0.2", "10-30-60 relu 2", "20-60-200 relu 2", "12-40-80 relu 3",
    "16-60-60-60-100 relu,identity 2", "6-10-12-16-40 relu 3", "20-60-200 leaky_relu:0.2 2", "12-50-150 relu,sigmoid 2",
    "8-12-14-18-50 relu 4", "4-10-16 relu 3", "3-8-12 relu 4", "2-6-9 relu 3",
)  # fmt: skip
REPORT = (
    "plain-vae-1", "plain-vae-2", "mnist-relu", "10-30-60 relu 6", "20-60-200 relu 6", "12-40-80 relu 7",
    "16-60-60-60-100 relu,identity 6", "6-10-12-16-40 relu 7", "20-60-200 leaky_relu:0.2 6", "12-50-150 relu,tanh 6",
    "8-12-14-18-50 relu 8", "4-10-16 relu 7", "3-8-10 relu 8",
)  # fmt: skip
# What is measured and the deviation of Gaussian noise, as a fraction of the root mean square of what is measured.
DETERMINED = (
    ("full", 0.0), ("half", 0.0), ("full", 0.02), ("full", 0.1), ("full", 0.3), ("half", 0.02), ("block", 0.02),
    ("gauss", 0.0),
)  # fmt: skip
AMBIGUOUS = (("half", 0.3), ("gauss", 0.3))


@dataclass(frozen=True, eq=False)
class HardBatch:
    """Observations of one generator.

    Attributes:
        network, y, operator: what :func:`unrelu.invert` takes.
        deviation: of the noise, (B,).
        truth: codes z*, (B, k).
    """

    network: Network
    y: Array
    operator: Array | None
    deviation: Array
    truth: Array


@cache
def generator(name: str) -> Network:
    """A generator by its name."""
    sizes, *rest = name.split(" ")
    if not rest:
        return plain_vae(name) if name.startswith("plain-vae") else zoo.load(name)
    activations, seed = rest[0].split(","), int(rest[1])
    widths, rng = sizes_of(sizes), random("hard generators", seed, sizes)
    weights = [rng.standard_normal((b, a)) * np.sqrt(2 / a) for a, b in pairwise(widths)]
    biases = [0.5 * rng.standard_normal(n) for n in widths[1:]] if seed % 2 else None
    hidden = [activations[0]] * (len(weights) - 1)
    return from_arrays(weights, biases, activation=[*hidden, activations[-1]])


def draw(name: str, measurement: str, noise: float, size: int, seed: int) -> HardBatch:
    """Codes z ~ N(0, I), what is measured of their outputs, and noise; each from a stream of its own.

    "half" are a random half of the outputs, the same for the batch; "block" hides a third of them in a row (of images a
    block of 16 x 16); "gauss" are 3 k Gaussian measurements.
    """
    network = generator(name)
    k, n = network.latent_dim, network.output_dim
    truth = random("truth", seed, name, measurement, noise).standard_normal((size, k))
    x = network(truth).reshape(size, n)
    chosen = random("measurements", seed, name, measurement)
    operator: Array | None = None
    if measurement == "gauss":
        operator = gaussian_measurements(min(3 * k, n), n, chosen)
    elif measurement != "full":
        operator = (chosen.random(n) < 0.5 if measurement == "half" else _outside_block(n, chosen)).astype(float)
    clean = x if operator is None else x * operator if operator.ndim == 1 else x @ operator.T
    shown = clean if operator is None or operator.ndim == 2 else clean[:, operator > 0]
    deviation = noise * np.sqrt(np.square(shown).mean(axis=1))
    error = random("noise", seed, name, measurement, noise).standard_normal(clean.shape)
    y = clean + deviation[:, None] * error
    if operator is not None and operator.ndim == 1:
        y, operator = y * operator, operator.reshape(network.output_shape)
        y = y.reshape(size, *network.output_shape)
    return HardBatch(network, y, operator, deviation, truth)


def _outside_block(n: int, rng: np.random.Generator) -> Flags:
    seen = np.ones(n, dtype=bool)
    if n == PIXELS:
        row, column = rng.integers(13, size=2)
        seen.reshape(28, 28)[row : row + 16, column : column + 16] = False
    else:
        begin = rng.integers(n - n // 3)
        seen[begin : begin + n // 3] = False
    return seen
