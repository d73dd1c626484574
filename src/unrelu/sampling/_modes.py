"""Modes: which components of a mixture are one, which descents end in each, and what another search would miss."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.sampling._mixture import Mixture, distances_from
from unrelu.sampling._target import Target

# Two points belong to one mode if the density on the segment between them, at so many points, is nowhere below a tenth
# of that at the lower end. Each is compared with so many of the nearest, itself included.
_DIP, _POINTS, _NEIGHBOURS = float(np.log(10.0)), 9, 6
# Optima with an energy this much above the lowest one are left out.
FAR = 15.0


def components_of(mixture: Mixture, t: Array, energies: Array) -> tuple[Index, Integers, Array]:
    """The components that draws belong to, (M,), which of these each belongs to, (c,), and their best draws, (M, k)."""
    used, label = np.unique(mixture.logs(t).argmax(axis=1), return_inverse=True)
    order = np.lexsort((energies, label))
    return used, label, t[order[np.unique(label[order], return_index=True)[1]]]


def modes_of(target: Target, points: Array, whiteners: Array) -> Integers:
    """The number of the mode of each component, (M,), by its best point, (M, k), and its whitener, (M, k, k)."""
    count = len(points)
    nearest = np.argsort(distances_from(points, points, whiteners), axis=1)[:, :_NEIGHBOURS]
    pairs = np.stack([np.repeat(np.arange(count), nearest.shape[1]), nearest.ravel()], axis=1)
    joined = pairs[_connected(target, points[pairs[:, 0]], points[pairs[:, 1]])]
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def hits_of(target: Target, points: Array, whiteners: Array, ends: Array) -> Integers:
    """How many descents, which ended at (c, k), ended in the mode of each component, (M,), see :func:`modes_of`."""
    energies, mode = target.energies(ends), modes_of(target, points, whiteners)
    ends = ends[energies <= energies.min() + FAR]
    nearest = distances_from(ends, points, whiteners).argmin(axis=1)
    inside = mode[nearest[_connected(target, ends, points[nearest])]]
    return np.bincount(inside, minlength=len(points))[mode]


def missed_again(weights: Array, hits: Integers, harder: float = 1.0) -> float:
    r"""The expected share of the posterior that another search, of as many descents, would miss.

    h independent descents end in a mode with a Poisson distribution of unknown mean m. If log m is uniform, as many
    others all miss a mode that is ``harder`` = c times as hard to find with probability

    .. math:: \int e^{-m - m / c} m^{h - 1} dm \Big/ \int e^{-m} m^{h - 1} dm = (1 + 1 / c)^{-h}.
    """
    return float(weights @ (1 + 1 / harder) ** -hits.astype(np.float64))


def _connected(target: Target, first: Array, second: Array) -> Flags:
    """Whether points of pairs, (p, k) each, belong to one mode, (p,)."""
    share = np.arange(1, _POINTS + 1)[:, None, None] / (_POINTS + 1)
    between = (1 - share) * first + share * second
    highest = target.energies(between.reshape(-1, target.k)).reshape(_POINTS, -1).max(axis=0, initial=-np.inf)
    return np.asarray(highest <= np.maximum(target.energies(first), target.energies(second)) + _DIP)
