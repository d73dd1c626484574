"""Modes: which components form one mode, how many descents end in each mode, and what another search would miss."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.sampling._mixture import Mixture, distances_from
from unrelu.sampling._target import Target

# Two points belong to one mode if, along the segment between them, the density never falls below a tenth of the lower
# of its two end values. Nine points of the segment are checked. Each is compared with its 6 nearest, itself included.
_DIP, _POINTS, _NEIGHBOURS = float(np.log(10.0)), 9, 6
# Optima whose U exceeds the lowest by more than this are ignored.
FAR = 15.0


def components_of(mixture: Mixture, t: Array, energies: Array) -> tuple[Index, Integers, Array]:
    """Assign draws to components: return the used components, (M,), each draw's, (c,), and their best draws, (M, k)."""
    used, label = np.unique(mixture.logs(t).argmax(axis=1), return_inverse=True)
    order = np.lexsort((energies, label))
    return used, label, t[order[np.unique(label[order], return_index=True)[1]]]


def modes_of(target: Target, points: Array, whiteners: Array) -> Integers:
    """Number the mode of each component, (M,), given its best point, (M, k), and its whitener, (M, k, k)."""
    count = len(points)
    nearest = np.argsort(distances_from(points, points, whiteners), axis=1)[:, :_NEIGHBOURS]
    pairs = np.stack([np.repeat(np.arange(count), nearest.shape[1]), nearest.ravel()], axis=1)
    joined = pairs[_connected(target, points[pairs[:, 0]], points[pairs[:, 1]])]
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1])


def hits_of(target: Target, points: Array, whiteners: Array, ends: Array) -> Integers:
    """Count the descents, with ends (c, k), that ended in the mode of each component, (M,), see :func:`modes_of`."""
    energies, mode = target.energies(ends), modes_of(target, points, whiteners)
    ends = ends[energies <= energies.min() + FAR]
    nearest = distances_from(ends, points, whiteners).argmin(axis=1)
    inside = mode[nearest[_connected(target, ends, points[nearest])]]
    return np.bincount(inside, minlength=len(points))[mode]


def missed_again(weights: Array, hits: Integers, harder: float = 1.0) -> float:
    r"""Return the expected share of the posterior that another search with as many descents would miss.

    The number h of independent descents that end in a mode is Poisson with unknown mean m. Let log m be uniform. As
    many further descents all miss a mode that is ``harder`` = c times as hard to find with probability

    .. math:: \int e^{-m - m / c} m^{h - 1} dm \Big/ \int e^{-m} m^{h - 1} dm = (1 + 1 / c)^{-h}.
    """
    return float(weights @ (1 + 1 / harder) ** -hits.astype(np.float64))


def _connected(target: Target, first: Array, second: Array) -> Flags:
    """Check whether the two points of each pair, (p, k) each, belong to one mode, (p,)."""
    share = np.arange(1, _POINTS + 1)[:, None, None] / (_POINTS + 1)
    between = (1 - share) * first + share * second
    highest = target.energies(between.reshape(-1, target.k)).reshape(_POINTS, -1).max(axis=0, initial=-np.inf)
    return np.asarray(highest <= np.maximum(target.energies(first), target.energies(second)) + _DIP)
