"""Random networks, codes and noise, as in section 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from unrelu.loaders import from_arrays
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream


def random(purpose: str, *key: str | float) -> np.random.Generator:
    """The stream of a purpose, such as "weights", "truth", "noise" or "starts"; keys are the seed, a name, the unit."""
    return stream(f"experiments, {purpose}", *key)


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for ``invert``, so that starts differ from unit to unit."""
    return int(rng.integers(2**31))


def gaussian_network(sizes: Sequence[int], rng: np.random.Generator, activation: str = "relu") -> Network:
    """Weights N(0, 1/n_i), no biases; ``sizes`` are k, n_1, ..., n_d."""
    weights = [rng.normal(0, n_out**-0.5, (n_out, n_in)) for n_in, n_out in pairwise(sizes)]
    return from_arrays(weights, activation=activation)


def sizes_of(name: str) -> tuple[int, ...]:
    """k, n_1, ..., n_d of a name such as "20-100-500"."""
    return tuple(map(int, name.split("-")))


def noise(kind: str, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Noise of level 1: U(-1, 1) of "uniform", N(0, 1) of "gaussian"."""
    return rng.uniform(-1, 1, shape) if kind == "uniform" else rng.standard_normal(shape)


def gaussian_measurements(m: int, n: int, rng: np.random.Generator) -> Array:
    """A matrix (m, n) with entries N(0, 1/m)."""
    return np.asarray(rng.standard_normal((m, n)) / np.sqrt(m))
