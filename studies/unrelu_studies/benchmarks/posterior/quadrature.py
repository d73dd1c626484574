"""The posterior of a generator with one to three latent coordinates, on a grid: marginals, modes, evidence.

Codes are standard normal. The grid covers the box outside of which the density is below e^-14 of its maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Place = tuple[slice, ...]

# Half the side of the box that is searched for the posterior, points a side to search it and of the grid itself, by k.
_REACH, _DEPTH = 6.0, 14.0
_COARSE = {1: 401, 2: 201, 3: 81}
_FINE = {1: 4001, 2: 701, 3: 141}
_CHUNK = 1 << 18
# Maxima count as two modes if the density falls to a tenth of the lower one between them, as the package has it.
_PROMINENCE = float(np.log(10.0))


@dataclass(frozen=True, eq=False)
class GridPosterior:
    """p(z | y) on a grid.

    Attributes:
        axes: the points of each coordinate, k arrays.
        log_density: log p(y | z) + log p(z) on the grid, (n_1, ..., n_k).
    """

    axes: tuple[Array, ...]
    log_density: Array

    @classmethod
    def of(cls, log_likelihood: Callable[[Array], Array], k: int, points: int | None = None) -> GridPosterior:
        """Of a function of codes (N, k), on ``points`` points a side."""
        coarse = cls._on([np.linspace(-_REACH, _REACH, _COARSE[k])] * k, log_likelihood)
        inside = coarse.log_density > coarse.log_density.max() - _DEPTH
        axes = []
        for i, axis in enumerate(coarse.axes):
            held = np.flatnonzero(inside.any(axis=tuple(j for j in range(k) if j != i)))
            low, high = axis[max(held[0] - 1, 0)], axis[min(held[-1] + 1, len(axis) - 1)]
            axes.append(np.linspace(low, high, points or _FINE[k]))
        return cls._on(axes, log_likelihood)

    @classmethod
    def _on(cls, axes: list[Array], log_likelihood: Callable[[Array], Array]) -> GridPosterior:
        z = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        parts = [log_likelihood(z[i : i + _CHUNK]) for i in range(0, len(z), _CHUNK)]
        prior = -0.5 * np.square(z).sum(axis=1) - 0.5 * len(axes) * np.log(2 * np.pi)
        return cls(tuple(axes), (np.concatenate(parts) + prior).reshape([len(axis) for axis in axes]))

    @cached_property
    def mass(self) -> Array:
        """The probability of each cell of the grid."""
        p = np.exp(self.log_density - self.log_density.max())
        return np.asarray(p / p.sum())

    @property
    def log_evidence(self) -> float:
        """log of the integral of p(y | z) p(z)."""
        top = float(self.log_density.max())
        cell = float(np.prod([axis[1] - axis[0] for axis in self.axes]))
        return top + float(np.log(np.exp(self.log_density - top).sum() * cell))

    def marginal_distance(self, draws: Array, bins: int) -> Array:
        """Total variation between marginals and draws (N, k), (k,), over bins of equal probability."""
        return np.array([self._distance(i, column, bins) for i, column in enumerate(draws.T)])

    def _distance(self, i: int, draws: Array, bins: int) -> float:
        axis, others = self.axes[i], tuple(j for j in range(len(self.axes)) if j != i)
        # The mass of a cell is spread evenly around its point.
        step = axis[1] - axis[0]
        ends = np.concatenate([[axis[0] - step / 2], axis + step / 2])
        below = np.concatenate([[0.0], np.cumsum(self.mass.sum(axis=others))])
        share = np.interp(draws, ends, below / below[-1])
        counts = np.bincount(np.minimum((share * bins).astype(int), bins - 1), minlength=bins)
        return float(0.5 * np.abs(counts / len(draws) - 1 / bins).sum())

    # --- modes --------------------------------------------------------------------------------------------------------

    @cached_property
    def basins(self) -> Integers:
        """The mode of each cell, 0, 1, ... from the heaviest: where steepest ascent on the grid ends."""
        upwards = _steepest(self.log_density).ravel()
        while ((after := upwards[upwards]) != upwards).any():
            upwards = after
        peaks, label = np.unique(upwards, return_inverse=True)
        merged = _merged(self.log_density, peaks, label.reshape(self.log_density.shape))[label]
        weight = np.bincount(merged, self.mass.ravel(), len(peaks))
        order = np.argsort(np.argsort(-weight))
        return np.asarray(order[merged].reshape(self.log_density.shape))

    @cached_property
    def weights(self) -> Array:
        """The probability of each mode, heaviest first."""
        weight = np.bincount(self.basins.ravel(), self.mass.ravel())
        return np.asarray(weight[weight > 0])

    def mode_of(self, z: Array) -> Integers:
        """The mode of codes (N, k), (N,)."""
        cells = tuple(
            np.clip(np.rint((column - axis[0]) / (axis[1] - axis[0])).astype(int), 0, len(axis) - 1)
            for column, axis in zip(z.T, self.axes, strict=True)
        )
        return np.asarray(self.basins[cells])


def _neighbours(shape: tuple[int, ...]) -> Iterator[tuple[Place, Place]]:
    """Pairs of slices that put each cell beside one of its neighbours, also diagonal ones; each pair once."""
    for shift in product((-1, 0, 1), repeat=len(shape)):
        if shift > (0,) * len(shape):
            here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(shift, shape, strict=True))
            there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(shift, shape, strict=True))
            yield here, there


def _steepest(density: Array) -> Integers:
    """Of each cell the number of the highest among itself and its neighbours.

    Ties go to the cell with the larger number, so that no two cells point at each other.
    """
    places = np.arange(density.size).reshape(density.shape)
    best, towards = density.copy(), places.copy()
    for pair in _neighbours(density.shape):
        for here, there in (pair, pair[::-1]):
            higher = density[there] > best[here]
            higher |= (density[there] == best[here]) & (places[there] > towards[here])
            best[here] = np.where(higher, density[there], best[here])
            towards[here] = np.where(higher, places[there], towards[here])
    return towards


def _merged(density: Array, peaks: Integers, label: Integers) -> Integers:
    """Of each maximum the one that it counts to, (maxima,): those with little prominence join the next higher one.

    The prominence of a maximum is its height above the highest saddle to a higher one (Edelsbrunner, Letscher and
    Zomorodian, Topological persistence and simplification, 2002).
    """
    keys, heights = [], []
    for here, there in _neighbours(density.shape):
        a, b = label[here], label[there]
        differ = a != b
        keys.append(np.minimum(a, b)[differ] * len(peaks) + np.maximum(a, b)[differ])
        heights.append(np.minimum(density[here], density[there])[differ])
    key, height = np.concatenate(keys), np.concatenate(heights)
    order = np.lexsort((-height, key))
    key, first = np.unique(key[order], return_index=True)
    saddle, top = height[order][first], density.ravel()[peaks]
    root = list(range(len(peaks)))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for j in np.argsort(-saddle):
        lower, upper = sorted((find(int(i)) for i in divmod(int(key[j]), len(peaks))), key=lambda i: top[i])
        if lower != upper and top[lower] - saddle[j] < _PROMINENCE:
            root[lower] = upper
    return np.array([find(i) for i in range(len(peaks))])
