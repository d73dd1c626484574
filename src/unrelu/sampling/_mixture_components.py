"""The components of the mixture: around optima before sampling, where draws lack density, and where there are none."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.sampling._mixture import JACOBIANS, SAME, Mixture, separate, variational
from unrelu.sampling._target import Target

# The first number of restarts. It is doubled until optima that were found once hold at most this share of the weight.
_RESTARTS, _FOUND_ONCE = 64, 0.05
# Optima with an energy this much above the lowest one are left out, as are components with an ELBO so much lower, about
# one in 10,000 of the weight.
_FAR, _FAINT = 15.0, 9.0
# Points whose curvatures are computed at a time.
_AT_ONCE = 64
# The most components.
_COMPONENTS = 128
# Draws at which log p / q is so much above its median are starts of further components: the most that are added at a
# time, and the limits of the logarithms of their weights.
_UNDERCOVERED, _ADDED, _NEW_WEIGHTS = 3.0, 24, (-7.0, -1.5)


def starting_mixture(target: Target, from_prior: Flags, most: int, rng: np.random.Generator) -> tuple[Mixture, Array]:
    """The mixture around the optima that were found, the heaviest of which chains begin at.

    Args:
        target: the density.
        from_prior: which chains begin at a descent from a draw of the prior, (c,).
        most: the largest number of restarts.
        rng: for the draws of the prior and the variational approximations.

    Returns:
        The mixture, and the coordinates of the chains, (c, k).
    """
    ended = target.descended(rng.standard_normal((int(from_prior.sum()), target.k)))
    restarts = min(_RESTARTS, most)
    while True:
        points = np.concatenate([ended, target.optima(restarts)])
        means, precisions, once = _laplace(target, points, len(ended))
        if once <= _FOUND_ONCE or restarts >= most or target.watch():
            break
        restarts = min(2 * restarts, most)
    means, whiteners, bounds = variational(target, means, precisions, rng)
    order = np.argsort(-bounds)
    kept = separate(order[bounds[order] >= bounds.max() - _FAINT], means, whiteners)
    own = _nearest(ended, means, whiteners)
    every = np.concatenate([kept, np.setdiff1d(own, kept)])
    mixture = Mixture(means[every], whiteners[every], np.exp(bounds[every] - logsumexp(bounds[every])))
    starts = np.resize(means[kept], (len(from_prior), target.k))
    starts[from_prior] = ended
    return mixture, starts


def extended(target: Target, mixture: Mixture, t: Array, energies: Array, rng: np.random.Generator) -> Mixture:
    """The mixture with further components where draws show that its density is too low.

    Draws t (c, k) with energies U (c,) at which p / q is largest are the starts of variational approximations. Those
    that end apart from all components are added, with the weights that their ELBOs give them.

    Source: Raftery and Bao, "Estimating and projecting trends in HIV/AIDS generalized epidemics using incremental
    mixture importance sampling", Biometrics 66 (2010), which adds components at the largest importance weights.
    """
    ratios = -energies - mixture.log_density(t)
    usual, k = float(np.median(ratios)), target.k
    near, covered = mixture.distances(t).argmin(axis=1), ratios - usual < _UNDERCOVERED
    chosen: list[int] = []
    most = target.affordable(_ADDED, JACOBIANS * target.k)
    while len(chosen) < most and not covered.all():
        i = int(np.argmax(np.where(covered, -np.inf, ratios)))
        chosen.append(i)
        covered |= np.square((t - t[i]) @ mixture.whiteners[near[i]].T).sum(axis=1) <= k
    if not chosen:
        return mixture
    precisions = target.curvatures(t[chosen])[2]
    return _with(mixture, *variational(target, t[chosen], precisions, rng), usual)


def overlooked(
    target: Target, mixture: Mixture, t: Array, log_z: float, rng: np.random.Generator
) -> tuple[float, Mixture]:
    """The share of the posterior at optima near which there is no draw, and the mixture with components there.

    As many descents as a search begins with are made: half from further starts of ``auto``, half from draws of the
    prior. The share is that of the optima that these find: there may be many more than can be found. The integral over
    an optimum is estimated by its ELBO, or by Laplace's method where there are draws. A draw is near if its squared
    Mahalanobis distance is at most k, the mean of that of draws. The share is NaN if the watch says stop.

    Args:
        target: the density.
        mixture: the mixture that the draws were made with.
        t: draws of the posterior, (c, k).
        log_z: the logarithm of the integral of exp(-U).
        rng: for the draws of the prior, and the variational approximations.
    """
    half = _RESTARTS // 2
    points = np.concatenate([target.further_optima(half), target.descended(rng.standard_normal((half, target.k)))])
    energies = target.energies(points)
    points = points[np.isfinite(energies) & (energies <= energies.min() + _FAR)]
    if target.watch() or not len(points):
        return np.nan, mixture
    most = target.affordable(_COMPONENTS, JACOBIANS * target.k)
    distinct, precisions = _distinct(target, points, 4 * most)
    unknown = _unknown(t, points[distinct], _whiteners(precisions))
    logs = _laplace_masses(target.energies(points[distinct]), precisions)[~unknown]
    new = np.flatnonzero(unknown)[:most]
    if not len(new):
        return 0.0, mixture
    means, whiteners, bounds = variational(target, points[distinct[new]], precisions[new], rng)
    distinct = separate(np.argsort(-bounds), means, whiteners)
    distinct = distinct[_unknown(t, means[distinct], whiteners[distinct])]
    mass = float(np.exp(bounds[distinct] + _of_gaussian(target.k) - log_z).sum())
    found = min(1.0, float(np.exp(logs - log_z).sum()))
    if target.watch.reason or not len(distinct):
        return (np.nan if target.watch.reason else 0.0), mixture
    return mass / (found + mass), _with(mixture, means[distinct], whiteners[distinct], bounds[distinct], log_z)


def _unknown(t: Array, means: Array, whiteners: Array) -> Flags:
    """Which components have no draw t (c, k) near them, (M,)."""
    each = zip(means, whiteners, strict=True)
    return np.array([np.square((t - mean) @ whitener.T).sum(axis=1).min() > t.shape[1] for mean, whitener in each])


def _with(mixture: Mixture, means: Array, whiteners: Array, bounds: Array, log_z: float) -> Mixture:
    """The mixture with those variational approximations that lie apart from all its components."""
    means, whiteners = np.concatenate([mixture.means, means]), np.concatenate([mixture.whiteners, whiteners])
    known, k = len(mixture.means), means.shape[1]
    kept = separate(np.arange(len(means)), means, whiteners)
    logs = bounds[kept[kept >= known] - known] + _of_gaussian(k) - log_z
    weights = np.concatenate([mixture.weights[kept[kept < known]], np.exp(np.clip(logs, *_NEW_WEIGHTS))])
    return Mixture(means[kept], whiteners[kept], weights / weights.sum())


def _of_gaussian(k: int) -> float:
    """What is added to a bound of :func:`variational` for the logarithm of the integral of exp(-U) over a component."""
    return 0.5 * k * (1 + float(np.log(2 * np.pi)))


def _laplace(target: Target, points: Array, own: int) -> tuple[Array, Array, float]:
    """Distinct optima, (M, k), their precisions, (M, k, k), and the share of weight of those found once.

    An optimum was found again if another point has at most the mean squared distance of a draw, k; kinks split a mode
    into several optima. The first ``own`` points are kept however high they are. Weights are those of the Laplace
    approximation.
    """
    energies = target.energies(points)
    order = np.argsort(energies, kind="stable")
    near = order[(energies[order] <= energies[order[0]] + _FAR) | (order < own)]
    most = target.affordable(_COMPONENTS, JACOBIANS * target.k)
    near = near[np.isfinite(energies[near])]
    points, energies = points[near], energies[near]
    kept, precisions = _distinct(target, points, 4 * most)
    whiteners = _whiteners(precisions)
    once = (_distances(points, points[kept], whiteners) <= target.k).sum(axis=0) <= 1
    logs = -energies[kept] - np.linalg.slogdet(whiteners)[1]
    weights = np.exp(logs - logsumexp(logs))
    wanted = np.flatnonzero(np.argsort(np.argsort(-logs)) < most)
    return points[kept[wanted]], precisions[wanted], float(weights[once].sum())


def _distinct(target: Target, points: Array, most: int) -> tuple[Index, Array]:
    """Which points (c, k) are distinct, at most so many, each the first of its copies, and their precisions, (M, k, k).

    Descents end in the same optima again and again; the curvature is computed of few copies.
    """
    kept: Index = np.empty(0, dtype=np.int64)
    precisions, left = np.empty((0, target.k, target.k)), np.arange(len(points))
    while len(left) and len(kept) < most:
        some, left = np.split(left, [_AT_ONCE])
        precisions = np.concatenate([precisions, target.curvatures(points[some])[2]])
        every = np.concatenate([kept, some])
        whiteners = _whiteners(precisions)
        new = separate(np.arange(len(every)), points[every], whiteners)
        kept, precisions = every[new], precisions[new]
        left = left[(_distances(points[left], points[kept], whiteners[new]) >= SAME**2).all(axis=1)]
    return kept, precisions


def _laplace_masses(energies: Array, precisions: Array) -> Array:
    """The logarithms of the integrals of exp(-U) around optima by Laplace's method, (M,)."""
    k = precisions.shape[1]
    return np.asarray(-energies - 0.5 * np.linalg.slogdet(precisions)[1] + 0.5 * k * np.log(2 * np.pi))


def _whiteners(precisions: Array) -> Array:
    """C with C^T C = P for precisions P, (M, k, k)."""
    return np.asarray(np.linalg.cholesky(precisions).transpose(0, 2, 1), dtype=np.float64)


def _nearest(points: Array, means: Array, whiteners: Array) -> Index:
    """The component of the least Mahalanobis distance from each point, (c,)."""
    return np.asarray(np.argmin(_distances(points, means, whiteners), axis=1), dtype=np.int64)


def _distances(points: Array, means: Array, whiteners: Array) -> Array:
    """The squared Mahalanobis distances of points from components, (c, M)."""
    each = zip(means, whiteners, strict=True)
    return np.stack([np.square((points - mean) @ whitener.T).sum(axis=1) for mean, whitener in each], axis=1)
