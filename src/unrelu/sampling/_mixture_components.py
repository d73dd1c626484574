"""The components of the mixture: around optima before sampling, later also at draws and optima that it covers badly."""

from __future__ import annotations

import numpy as np
from scipy.special import chdtr, logsumexp

from unrelu.runtime.array_types import Array, Flags
from unrelu.sampling._mixture import JACOBIANS, SAME, Mixture, distances_from, separate, variational
from unrelu.sampling._modes import FAR, components_of, hits_of, missed_again
from unrelu.sampling._target import Target
from unrelu.sampling.sampled_chains import OVERLOOKED

# The first number of restarts, and its growth factor. It grows until another search would miss next to nothing, even if
# modes were 4 times as hard to find as the modes found. Tuned on a decoder of the studies, `plain-vae-0`.
_RESTARTS, _GROWTH, _HARDER = 64, 4, 4.0
# Components whose log mass is this far below the largest are left out: they hold about 1 / 10,000 of the weight.
_FAINT = 9.0
# The number of points whose curvatures are computed together.
_AT_ONCE = 64
# The largest number of components.
_COMPONENTS = 128
# Further components start at draws whose log p / q lies this far above its median. The next two numbers are the most
# components added at a time, and the limits of their log weights.
_UNDERCOVERED, _ADDED, _NEW_WEIGHTS = 3.0, 24, (-7.0, -1.5)
# An optimum lacks draws if it has less than this share of the draws that its mass predicts, after subtracting this many
# standard errors. The mass is estimated from this many importance samples.
_FEW, _ERRORS, _IMPORTANCE = 0.5, 2.0, 64
# The number of descents for overlooked optima that start at the draws with the largest p / q.
_LIKELIEST = 8
# The distances from an optimum, in standard deviations, at which the rise of U is measured; the smallest half-width.
_DISTANCES, _NARROWEST = 2.0 ** -np.arange(6), 1e-3


def starting_mixture(target: Target, from_prior: Flags, most: int, rng: np.random.Generator) -> tuple[Mixture, Array]:
    """Build the mixture around the optima found, and choose the starts of the chains: the heaviest optima first.

    Args:
        target: the density.
        from_prior: which chains start at the end of a descent from a draw of the prior, (c,).
        most: the largest number of restarts.
        rng: for the draws of the prior and the variational approximations.

    Returns:
        The mixture, and the starts of the chains, (c, k).
    """
    ended = target.descended(rng.standard_normal((int(from_prior.sum()), target.k)))
    restarts = min(_RESTARTS, most)
    while True:
        ends = np.concatenate([ended, target.optima(restarts)])
        points, precisions = _distinct(target, ends)
        logs = _laplace_masses(target.energies(points), precisions)
        hits = hits_of(target, points, _whiteners(precisions), ends)
        missed = missed_again(np.exp(logs - logsumexp(logs)), hits, _HARDER)
        if missed <= OVERLOOKED or restarts >= most or target.watch():
            break
        restarts = min(_GROWTH * restarts, most)
    heavy = np.argsort(-logs)[: target.affordable(_COMPONENTS, JACOBIANS * target.k)]
    heavy = heavy[logs[heavy] >= logs.max() - _FAINT]
    means, whiteners, bounds = variational(target, points[heavy], precisions[heavy], rng)
    order = np.argsort(-bounds)
    kept = separate(order[bounds[order] >= bounds.max() - _FAINT], means, whiteners)
    mixture = Mixture(means[kept], whiteners[kept], np.exp(bounds[kept] - logsumexp(bounds[kept])))
    starts = np.resize(means[kept], (len(from_prior), target.k))
    starts[from_prior] = ended
    return mixture, starts


def extended(target: Target, mixture: Mixture, t: Array, energies: Array, rng: np.random.Generator) -> Mixture:
    """Add components to the mixture where draws show that its density is too low.

    Variational approximations start at such draws. They are added if they end apart from all components. Their ELBOs
    determine their weights.

    Source: Raftery and Bao, "Estimating and projecting trends in HIV/AIDS generalized epidemics using incremental
    mixture importance sampling", Biometrics 66 (2010), which adds components at the largest importance weights.
    """
    starts, usual = _undercovered(target, mixture, t, energies)
    if not len(starts):
        return mixture
    means, whiteners, bounds = variational(target, starts, target.curvatures(starts)[2], rng)
    of_gaussian = 0.5 * target.k * (1 + float(np.log(2 * np.pi)))  # of the integral of exp(-U) over a component
    return _with(mixture, means, whiteners, bounds + of_gaussian - usual)


def _undercovered(target: Target, mixture: Mixture, t: Array, energies: Array) -> tuple[Array, float]:
    """Choose distinct draws, (m, k), with the largest p / q, from t (c, k) with U (c,); return the median log p / q."""
    ratios = -energies - mixture.log_density(t)
    usual, k = float(np.median(ratios)), target.k
    near, covered = mixture.distances(t).argmin(axis=1), ratios - usual < _UNDERCOVERED
    chosen: list[int] = []
    most = target.affordable(_ADDED, JACOBIANS * k)
    while len(chosen) < most and not covered.all():
        i = int(np.argmax(np.where(covered, -np.inf, ratios)))
        chosen.append(i)
        covered |= np.square((t - t[i]) @ mixture.whiteners[near[i]].T).sum(axis=1) <= k
    return t[chosen], usual


def overlooked(
    target: Target, mixture: Mixture, t: Array, energies: Array, log_z: float, most: int, rng: np.random.Generator
) -> tuple[float, Mixture]:
    """Estimate the share of the posterior that is overlooked, and add components at the overlooked optima.

    The share counts what the draws lack and what another search would miss. As many descents are made as at the start
    of a search, half from further starts of ``auto``, half from draws of the prior; some more start at the draws with
    the largest p / q. Starts of ``auto`` are added until enough descents have ended in each mode of the draws.

    Importance sampling estimates the mass of the ellipsoid around each optimum. An optimum is overlooked if its
    ellipsoid holds less than half the draws that this mass predicts. The share is NaN once the watch says stop.

    Args:
        target: the density.
        mixture: the mixture that the sampler used for these draws.
        t, energies: draws of the posterior, (c, k), and their U.
        log_z: the logarithm of the integral of exp(-U).
        most: the largest number of restarts of the whole search.
        rng: for the draws of the prior and of ellipsoids, and the variational approximations.
    """
    half, k = _RESTARTS // 2, target.k
    likeliest = _undercovered(target, mixture, t, energies)[0][:_LIKELIEST]
    ends = target.descended(np.concatenate([rng.standard_normal((half, k)), likeliest]))
    used, label, best = components_of(mixture, t, energies)
    weights, last = np.bincount(label) / len(label), target.restarts + half
    while True:
        every = np.concatenate([target.optima(last), ends[:half]])
        hits = hits_of(target, best, mixture.whiteners[used], every)
        if missed_again(weights, hits, _HARDER) <= OVERLOOKED or last >= most or target.watch():
            break
        last = min(_GROWTH * last, most)
    missed, (points, precisions) = missed_again(weights, hits), _distinct(target, np.concatenate([every, ends[half:]]))
    if target.watch() or not len(points):
        return np.nan, mixture
    whiteners, most = _narrowed(target, points, precisions), target.affordable(_COMPONENTS, JACOBIANS * k)
    logs, errors = _log_masses(target, points, whiteners, rng)
    logs -= log_z
    drawn = (distances_from(t, points, whiteners) <= k).mean(axis=0)
    share = float(chdtr(k, k))  # of a Gaussian within its ellipsoid
    least = np.exp(np.minimum(logs, 0.0)) * np.maximum(1 - _ERRORS * errors, 0.0)
    lacking = drawn < _FEW * least
    missing = np.flatnonzero(lacking)[np.argsort(-logs[lacking])][:most]
    # Ellipsoids cover a small part of a mode with many kinks, and so say little about how much was missed.
    found = min(1.0, float(np.exp(_laplace_masses(target.energies(points), precisions)[~lacking] - log_z).sum()))
    mass = float((least[missing] - drawn[missing]).sum()) / share
    lost = mass / (found + mass) if len(missing) else 0.0
    total = 1 - (1 - lost) * (1 - missed)
    if target.watch() or total <= OVERLOOKED or lost <= missed:  # further components would not help
        return (np.nan if target.watch.reason else total), mixture
    means, factors, _ = variational(target, points[missing], precisions[missing], rng)
    away = np.einsum("mij,mj->mi", whiteners[missing], means - points[missing])
    strayed = np.square(away).sum(axis=1) > 4 * k  # a narrow optimum has next to no part in the average curvature
    means[strayed], factors[strayed] = points[missing][strayed], whiteners[missing][strayed]
    return total, _with(mixture, means, factors, logs[missing] - np.log(share))


def _laplace_masses(energies: Array, precisions: Array) -> Array:
    """Compute the log integrals of exp(-U) around optima, (M,), by Laplace's method."""
    k = precisions.shape[1]
    return np.asarray(-energies - 0.5 * np.linalg.slogdet(precisions)[1] + 0.5 * k * np.log(2 * np.pi))


def _narrowed(target: Target, points: Array, precisions: Array) -> Array:
    """Return whiteners C of ellipsoids around optima, (M, k, k), with the principal axes of their precisions.

    Beyond the linear region of an optimum, U can rise faster than the precision predicts. The rise of U at several
    distances gives estimates of the half-width along an axis. The smallest counts, at most a standard deviation.
    """
    count, k = points.shape
    values, vectors = np.linalg.eigh(precisions)
    axes = (vectors / np.sqrt(values)[:, None]).transpose(0, 2, 1)
    steps = _DISTANCES[:, None, None, None] * axes
    at = np.stack([points[:, None] + steps, points[:, None] - steps])
    rises = target.energies(at.reshape(-1, k)).reshape(2, len(_DISTANCES), count, k).mean(axis=0)
    rises = np.maximum(rises - target.energies(points)[:, None], 0.5 * np.square(_DISTANCES)[:, None, None])
    widths = (_DISTANCES[:, None, None] / np.sqrt(2 * rises)).min(axis=0)
    return np.asarray(vectors.transpose(0, 2, 1) * (np.sqrt(values) / np.maximum(widths, _NARROWEST))[:, :, None])


def _log_masses(target: Target, points: Array, whiteners: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Estimate the log integrals of exp(-U) over ellipsoids |C (t - m)|^2 <= k, (M,), by importance sampling.

    Also return the relative standard errors of the integrals, (M,).
    """
    count, k = points.shape
    normal = rng.standard_normal((count, _IMPORTANCE, k))
    distances = np.square(normal).sum(axis=2)
    at = points[:, None] + np.einsum("mij,mpj->mpi", np.linalg.inv(whiteners), normal)
    logs = 0.5 * distances - target.energies(at.reshape(-1, k)).reshape(distances.shape)
    logs = np.where(distances <= k, logs, -np.inf)
    sums = logsumexp(logs, axis=1)
    errors = np.sqrt(np.maximum(np.exp(logsumexp(2 * logs, axis=1) - 2 * sums) - 1 / _IMPORTANCE, 0.0))
    of_normal = 0.5 * k * np.log(2 * np.pi) - np.linalg.slogdet(whiteners)[1]
    return sums - np.log(_IMPORTANCE) + of_normal, errors


def _with(mixture: Mixture, means: Array, whiteners: Array, logs: Array) -> Mixture:
    """Add the components that lie apart from all components of the mixture; ``logs`` (M,) are their log weights."""
    means, whiteners = np.concatenate([mixture.means, means]), np.concatenate([mixture.whiteners, whiteners])
    known = len(mixture.means)
    kept = separate(np.arange(len(means)), means, whiteners, mutual=True)
    logs = logs[kept[kept >= known] - known]
    weights = np.concatenate([mixture.weights[kept[kept < known]], np.exp(np.clip(logs, *_NEW_WEIGHTS))])
    return Mixture(means[kept], whiteners[kept], weights / weights.sum())


def _distinct(target: Target, points: Array) -> tuple[Array, Array]:
    """Select the distinct low optima among points (c, k): optima, lowest first, (M, k), and precisions, (M, k, k).

    Descents often end in the same optimum, so the curvature is computed at few of the copies. A narrow optimum within
    the ellipsoid of a wide one is lower, and so comes first.
    """
    energies, most = target.energies(points), 2 * target.affordable(_COMPONENTS, JACOBIANS * target.k)
    left = np.argsort(energies, kind="stable")
    left = left[np.isfinite(energies[left]) & (energies[left] <= energies.min() + FAR)]
    kept, precisions = left[:0], np.empty((0, target.k, target.k))
    while len(left) and len(kept) < most:
        some, left = np.split(left, [_AT_ONCE])
        precisions = np.concatenate([precisions, target.curvatures(points[some])[2]])
        every = np.concatenate([kept, some])
        whiteners = _whiteners(precisions)
        new = separate(np.arange(len(every)), points[every], whiteners)
        kept, precisions = every[new], precisions[new]
        left = left[(distances_from(points[left], points[kept], whiteners[new]) >= SAME**2).all(axis=1)]
    return points[kept], precisions


def _whiteners(precisions: Array) -> Array:
    """Return C with C^T C = P for each of the precisions P (M, k, k)."""
    return np.asarray(np.linalg.cholesky(precisions).transpose(0, 2, 1), dtype=np.float64)
