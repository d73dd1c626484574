"""Observations of trained families: outputs of their own, real data, and outputs of other decoders, with noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from unrelu import invert
from unrelu.models.network import Network
from unrelu.result import Inversion
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.streams import stream
from unrelu.thresholds import RADIUS
from unrelu_studies.kit.families.trained_families import FAMILIES, TrainedFamily, family_network, others
from unrelu_studies.kit.random_instances import gaussian_measurements

# All outputs, a random half or quarter of them, and 2 k + 2 Gaussian measurements.
MEASURED = ("all", "half", "quarter", "gauss")
# Standard deviation of the noise, as a share of that of what is measured.
NOISE = 0.1
# A code is the best if no known objective is lower by more than this share. Below this share of |y|^2 an objective is
# that of an exact fit.
WITHIN, ZERO = 1e-2, 1e-9
# Who made the observations: the generator, nature, or other decoders of the list.
SOURCES = ("own", "real", "others")
# From how many of these.
_OTHERS = 4
# So many are drawn of each kind at least: the level of the noise is theirs, and fewer observations are the first ones.
DRAWN = 120


@dataclass(frozen=True, eq=False)
class FamilyObservations:
    """y = A x + e with e ~ N(0, size^2), as :func:`unrelu.invert` takes it.

    Attributes:
        network: the generator G.
        matrix: A written out, (m, n).
        operator: what :func:`unrelu.invert` takes: None, a mask, or the matrix.
        y: (B, ...), zero where a mask hides an entry.
        size: standard deviation of the noise.
        truth: codes of the generator's own outputs, (B, k); None of others.
    """

    network: Network
    matrix: Array
    operator: npt.NDArray[Any] | None
    y: Array
    size: float
    truth: Array | None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.y)

    @property
    def noise(self) -> str:
        """The noise as it is stated."""
        return f"gaussian:{self.size!r}"

    @property
    def measured(self) -> Array:
        """What is measured, (B, m)."""
        y = self.y.reshape(len(self.y), -1)
        return y[:, self.operator.ravel()] if self.masked and self.operator is not None else y

    @property
    def masked(self) -> bool:
        """Whether A picks entries."""
        return self.operator is not None and self.operator.dtype == bool

    def take(self, rows: slice | Index) -> FamilyObservations:
        """Some of them."""
        return replace(self, y=self.y[rows], truth=None if self.truth is None else self.truth[rows])

    def with_measured(self, measured: Array) -> FamilyObservations:
        """Others, (B, m), in their place, of the same measurement and noise."""
        return replace(self, y=_shown(measured, self.operator, self.network), truth=None)

    def invert(self, method: Any = "auto", **options: Any) -> Inversion:
        """By a method, with the noise stated unless the options say otherwise."""
        return invert(self.network, self.y, method, operator=self.operator, **({"noise": self.noise} | options))

    def objective(self, z: Array, longest: Array | float = np.inf) -> Array:
        """|y - A G(z)|^2 of codes (B, k), (B,); infinite where there is no code, or a longer one."""
        r = self.measured - self.network(z).reshape(len(z), -1) @ self.matrix.T
        f = np.nan_to_num(np.square(r).sum(axis=1), nan=np.inf)
        return np.where(np.linalg.norm(z, axis=1) <= longest, f, np.inf)

    def longest(self, z: Array) -> Array:
        """The length of codes up to which the confidence of answers (B, k) compares them, (B,)."""
        return np.asarray(np.maximum(RADIUS * np.sqrt(self.network.latent_dim), np.linalg.norm(z, axis=1)))

    def fitted_exactly(self, f: Array) -> Flags:
        """Whether objectives (B,) are zero but for rounding: at most :data:`ZERO` of |y|^2."""
        return np.asarray(f <= ZERO * np.square(self.measured).sum(axis=1))

    def best(self, f: Array, known: Array) -> Flags:
        """Whether no known objective is lower than these (B,) by more than :data:`WITHIN` of them."""
        return np.asarray((known >= (1 - WITHIN) * f) | self.fitted_exactly(f))


def observe(name: str, measured: str, count: int, seed: int, source: str = "own") -> FamilyObservations:
    """Observations of a family; codes, measurement and noise each from a stream of its own.

    Args:
        name: of the family.
        measured: one of :data:`MEASURED`; the same measurement for all observations.
        count: how many, the first of more; of real data at most as many as are held out.
        seed: of the streams.
        source: one of :data:`SOURCES`; "real" is for trained families, "others" where there are some.
    """
    network, drawn = family_network(name), max(count, DRAWN)
    truth: Array | None = None
    if source == "own":
        truth = _codes(name, measured, drawn, seed)
        x = network(truth).reshape(drawn, -1)
    else:
        x = real_data(name, drawn, seed) if source == "real" else outputs_of_others(name, drawn, seed)
    matrix, operator = _measurement(name, measured, seed)
    clean = x @ matrix.T
    size = NOISE * float(clean.std())
    e = stream("families, noise", seed, name, measured, source).standard_normal(clean.shape)
    y = _shown(clean + size * e, operator, network)
    return FamilyObservations(network, matrix, operator, y, size, truth).take(slice(count))


def real_data(name: str, count: int, seed: int) -> Array:
    """Held-out data of a trained family's kind, (count, n)."""
    family = FAMILIES[name]
    assert isinstance(family, TrainedFamily)
    x = family.held_out()
    return x[stream("families, real", seed, name).permutation(len(x))[:count]]


def outputs_of_others(name: str, count: int, seed: int) -> Array:
    """Outputs of other decoders, (count, n), in turn."""
    names = others(name)
    rng = stream("families, others", seed, name)
    chosen = [family_network(names[i]) for i in rng.permutation(len(names))[:_OTHERS]]
    drawn = [chosen[i % len(chosen)] for i in range(count)]
    return np.array([network(rng.standard_normal(network.latent_dim)).ravel() for network in drawn])


def _codes(name: str, measured: str, count: int, seed: int) -> Array:
    return stream("families, truth", seed, name, measured).standard_normal((count, family_network(name).latent_dim))


def _measurement(name: str, measured: str, seed: int) -> tuple[Array, npt.NDArray[Any] | None]:
    """A written out, and as an operator."""
    network = family_network(name)
    n, rng = network.output_dim, stream("families, measurement", seed, name, measured)
    if measured == "all":
        return np.eye(n), None
    if measured == "gauss":
        matrix = gaussian_measurements(2 * network.latent_dim + 2, n, rng)
        return matrix, matrix
    mask = np.zeros(n, dtype=bool)
    mask[rng.permutation(n)[: n // {"half": 2, "quarter": 4}[measured]]] = True
    return np.eye(n)[mask], mask.reshape(network.output_shape)


def _shown(measured: Array, operator: npt.NDArray[Any] | None, network: Network) -> Array:
    """Measured entries (B, m) in the shape that :func:`unrelu.invert` takes."""
    if operator is None:
        return measured.reshape(len(measured), *network.output_shape)
    if operator.dtype != bool:
        return measured
    y = np.zeros((len(measured), *network.output_shape))
    y[:, operator] = measured
    return y
