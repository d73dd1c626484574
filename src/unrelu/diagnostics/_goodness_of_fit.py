r"""Goodness of fit: the degrees of freedom of a least-squares fit, and whether its residual looks like noise.

**Effective degrees of freedom.** Let :math:`\sigma_i` be the singular values of A J, S the noise and :math:`\tau` the
distance that the code can move. Along direction i the fit follows this share of the noise:

.. math:: h_i = \frac{\sigma_i^2}{\sigma_i^2 + S^2 / \tau^2}, \qquad \tau = c \max(|z|_2 / \sqrt k, 1),

as in ridge regression (Hastie and Tibshirani, Generalized Additive Models, 1990). Along a direction in which outputs
hardly change, a kink ends the linear region before the noise is fitted. Along partly determined directions, the fit can
choose the best of several linear regions, which follows the noise more than a single region does. In total,

.. math:: u = H + g \sqrt{1 - H / m} \sum_i h_i (1 - h_i), \qquad H = \sum_i h_i,

with measured constants c and g. A prior of weight :math:`\lambda` replaces :math:`S^2 / \tau^2` if it is larger. If
coordinates have different weights, those with larger weights are scaled until all have the same ridge. A prior also
narrows the choice between linear regions: the term of direction i is multiplied by
:math:`1 - w_i \min(\lambda \max(|z|_2^2 / k, 1) / S^2, 1)`, where :math:`w_i` is the direction's share in coordinates
with a prior. N(0, I) leaves no choice. A generator without kinks has one region, so u is its rank, or the trace of its
hat matrix. Coordinates at a bound are not fitted: their columns of J are zero. If the noise is not stated,
:math:`S^2 = |r|_2^2 / (m - u)`.

**The shape of the residual.** The first test examines the largest entry, :math:`\max_j r_j^2 / (S^2 \kappa_j)`, by
Sidak's inequality for m entries. The fit leaves this share of the noise in entry j:

.. math:: \kappa_j = (1 - h_{jj}) \frac{m - u}{m - H}, \qquad \sum_j \kappa_j = m - u,

with the leverage :math:`h_{jj}` (Cook and Weisberg, Residuals and Influence in Regression, 1982); it is at least .05.
The second test examines the residual in the span of the principal directions of the generator's outputs. If a picture
is almost an output, its residual lies in this span. The test keeps q directions: eigenvectors of the residual operator,
restricted to the span. In direction i the fit leaves the share :math:`\kappa_i` of the noise, the eigenvalue, and the
residual :math:`r_i`:

.. math::

    \frac{\sum_i r_i^2 / \kappa_i}{\sum_i r_i^2 / \kappa_i + |r|_2^2 - \sum_i r_i^2}
    \sim \mathrm{Beta}\Big(\frac q 2, \frac{m - u - \sum_i \kappa_i}{2}\Big).

If the size of the noise was fitted (:mod:`unrelu.measurements.unknown_level`), the first test examines the share of the
largest entry, :math:`r_j^2 / (\kappa_j S^2 (m - u)) \sim \mathrm{Beta}(\tfrac12, \tfrac{m - u - 1}{2})`.

The share of the structure does not depend on S, so it cannot show that a residual is far below the noise. If noise
leaves so small a residual in at most one of a million observations,
:math:`\sum_i r_i^2 / (S^2 \kappa_i) \sim \chi^2_q` is tested.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betainc, betaincc, chdtrc, ndtr

from unrelu.diagnostics.identifiability import jacobians
from unrelu.measurements.noise import Fit
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.result.uniqueness import Uniqueness
from unrelu.runtime.array_types import Array, Flags, Index, Integers
from unrelu.runtime.streams import stream
from unrelu.search.sample_cache import exact_model, is_expensive
from unrelu.thresholds import CHANCE, SIGNIFICANCE

# c and g. Tuned on the noise that auto fitted in 400 noisy outputs of 21 decoders under three measurements: decoders of
# scikit-learn's digits (dropout, weight decay, strong KL, all activations, k = 5 to 16), and random weights.
_REACH, _CHOICE = 0.87, 4.25
# The most principal directions in the second test, and the least share of the noise that the fit must leave in each.
# Tuned on the same decoders, for real digits.
_DIRECTIONS, _NOISE_LEFT = 32, 0.3
# The Jacobian is taken this far beside the code, as a multiple of the code's root mean square. Rounding puts a code at
# a kink on either side of it; searches that differ in rounding end up to a twentieth of this distance apart.
_BESIDE = 1e-3
# Directions shorter than this share of the longest are rounding errors.
_ROUNDING = 1e-4
# The least share of noise in an entry. A smaller share is too inaccurate to divide by.
_KEPT = 0.05
# The ridge of coordinates without a prior in an affine map, relative to the weight of the other coordinates.
_LOOSE = 1e-6
# The largest entry is not tested if fewer degrees of freedom are left.
_TESTABLE = 1.5
# A limit for the lengths of codes. Codes of divergent searches are so long that their squares overflow.
_FARTHEST = 1e100
# The number of fixed-point iterations for noise that is not stated.
_STEPS = 4


class GoodnessOfFit(NamedTuple):
    """Effective degrees of freedom and tests of the residual.

    Attributes:
        used: u, (B,); 0 without a code.
        shape: p-values of the largest entry and of the structure of the residual, (B, 2); NaN if not tested.
        kept: the share of the noise that the fit leaves in each entry, (B, m).
    """

    used: Array
    shape: Array
    kept: Array


def goodness_of_fit(problem: Problem, z: Array, residual: Array, uniqueness: Uniqueness) -> GoodnessOfFit:
    """Compute the effective degrees of freedom of codes (B, k), and test the shape of their residuals (B, m).

    If Jacobians are expensive, or if the p-value of the noise does not depend on u, an upper bound of the rank of A J
    replaces u: k or the number of observed entries. If the verdict could depend on the difference, the rank is used.
    """
    too_large, noise, prior = problem.network.too_large, problem.noise, problem.prior
    used = np.where(np.isfinite(z).all(axis=1), np.minimum(z.shape[1], problem.observed), 0).astype(np.float64)
    shape = np.full((len(z), 2), np.nan)
    gaussian, expensive = noise.shaped, is_expensive(problem.network)
    kept = _even(problem.observed, used, residual.shape[1])
    if too_large or (expensive and not prior) or (noise.stated and not gaussian):
        if not (too_large or _decided(problem, z, residual, used)):
            used = np.maximum(uniqueness.known.rank, 0).astype(float)
            kept = _even(problem.observed, used, residual.shape[1])
        if np.any(noise.size_fitted):  # nothing else tests the residual
            free = np.maximum(problem.observed - used, 0.0)
            p = _largest(residual, problem.observed, noise.level * np.sqrt(kept), free)
            shape[:, 0] = np.where(noise.size_fitted & (free > _TESTABLE), p, np.nan)
        return GoodnessOfFit(used, shape, kept)
    for part, j in free_jacobians(problem, z, _BESIDE):
        r, m = residual[part], problem.observed[part]
        variance = np.full(len(part), noise.level**2) if gaussian else None
        prior = problem.prior
        if problem.weights.min() < prior:  # with a prior, the noise is stated
            assert variance is not None
            prior *= _LOOSE
            own = np.maximum(_own_ridge(problem, z[part], variance), prior)[:, None]
            scaling = own / np.maximum(own, problem.weights)
            np.multiply(j, np.sqrt(scaling)[:, :, None], out=j)
        with np.errstate(over="ignore"):  # squares of an exponential
            gram = j @ j.transpose(0, 2, 1)
        squares, vectors = np.linalg.eigh(np.where(np.isfinite(gram).all(axis=(1, 2), keepdims=True), gram, 0.0))
        squares = np.where(squares > 1e-14 * squares[:, -1:], squares, 0.0)
        held = np.square(vectors[:, problem.weights > 0]).sum(axis=1)
        share, used[part] = _effective(problem, z[part], squares, m, r, variance, prior, held)
        if variance is None or expensive:
            continue
        weights = np.where(squares > 0, share / np.where(squares > 0, squares, 1.0), 0.0)
        half = np.sqrt(weights)[:, :, None] * (vectors.transpose(0, 2, 1) @ j)  # H = half^T half
        remaining = np.maximum(m - used[part], 0.0)
        own = (1 - (half * half).sum(axis=1)) * (remaining / np.maximum(m - share.sum(axis=1), _KEPT))[:, None]
        kept[part] = np.maximum(own, _KEPT)
        fitted = np.broadcast_to(noise.size_fitted, problem.size)[part]
        largest = _largest(r, m, noise.level * np.sqrt(kept[part]), np.where(fitted, remaining, np.inf))
        shape[part, 0] = np.where(remaining > _TESTABLE, largest, np.nan)
        basis = _principal(problem, part)
        if basis is not None:
            fit = Fit(r, r, problem.operator.seen(problem.size)[part], used[part], np.ones(len(part)))
            size = np.where(noise.too_large_for(fit), noise.level, np.nan)
            shape[part, 1] = _structure(r, remaining, half, basis, size)
    return GoodnessOfFit(used, shape, kept)


def _even(m: Integers, used: Array, entries: int) -> Array:
    """Return the share of the noise that a fit with u degrees of freedom leaves in the mean, for every entry."""
    share = np.maximum(1 - used / np.maximum(m, 1), _KEPT)
    return np.broadcast_to(share[:, None], (len(m), entries)).copy()


def _decided(problem: Problem, z: Array, residual: Array, most: Array) -> bool:
    """Check whether every u from 0 to ``most``, (B,), leads to the same verdicts."""
    x, seen = problem.network.outputs(z), problem.operator.seen(len(z))

    def verdicts(used: Array) -> Flags:
        if problem.noise.stated:
            return problem.p_value(problem.fit_of(x, used)) >= SIGNIFICANCE
        return chance(residual, problem.y, seen, used) > CHANCE

    return bool((verdicts(np.zeros_like(most)) == verdicts(most)).all())


def free_jacobians(problem: Problem, z: Array, beside: float = 0.0) -> Iterator[tuple[Index, Array]]:
    """Yield Jacobians of A G in chunks, (b, k, m), ``beside`` away from the codes; 0 for coordinates at a bound."""
    free = problem.bounds.active(z) == 0
    away = beside * _extent(z)[:, None] * stream("beside kinks").standard_normal(z.shape[1])
    for part, tangents in jacobians(problem.network, z + away, problem.operator):
        yield part, tangents.numpy() * free[part, :, None]


def chance(residual: Array, y: Array, observed: Flags, used: Array) -> Array:
    r"""Return the probability that a fit with u degrees of freedom explains white noise as well as y, (B,).

    For white noise about its own mean, :math:`|r|_2^2 / |y - \bar y|_2^2` has the distribution
    :math:`\mathrm{Beta}((m - 1 - u) / 2, u / 2)`, as in the F-test of linear regression. The probability is 1 if no
    degrees of freedom are left.

    Args:
        residual: y - A G(z), (B, m), 0 where nothing was observed.
        y: (B, m).
        observed: which entries were observed, (B, m).
        used: u, (B,).
    """
    m = observed.sum(axis=1)
    mean = np.where(observed, y, 0.0).sum(axis=1) / np.maximum(m, 1)
    size = np.abs(y).max(axis=1, initial=np.finfo(float).tiny)[:, None]
    about = np.square(np.where(observed, (y - mean[:, None]) / size, 0.0)).sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.square(residual / size).sum(axis=1)
    testable = (m - 1 - used > 0) & (energy < about)
    ratio = np.divide(energy, about, out=np.ones_like(energy), where=testable)
    p = betainc(np.maximum(m - 1 - used, 1e-3) / 2, np.maximum(used, 1e-3) / 2, ratio)
    return np.where(testable, p, 1.0)


def _straight(problem: Problem) -> bool:
    """Check whether A G is an affine map."""
    layers = problem.network.layers if isinstance(problem.network, Network) else ()
    return bool(layers) and problem.operator.linear and all(layer.activation.linear for layer in layers)


def _own_ridge(problem: Problem, z: Array, level: Array) -> Array:
    """Return the ridge S^2 / tau^2 for S^2 = ``level``, (b,); 0 if A G is an affine map, which has no kinks."""
    if _straight(problem):
        return np.zeros_like(level)
    return np.asarray(level / (_REACH * _extent(z)) ** 2)


def _extent(z: Array) -> Array:
    """Return max(|z|_2 / sqrt(k), 1), (b,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.sqrt(np.square(z).mean(axis=1)), 1.0, _FARTHEST))


def _effective(
    problem: Problem, z: Array, squares: Array, m: Integers, r: Array, variance: Array | None, prior: float,
    held: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Compute the shares h, (b, k), and u, (b,); ``variance`` is S^2, or None if it is not stated.

    ``prior`` is the weight of all directions. ``held``, (b, k), is each direction's share in coordinates with a prior.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.minimum(np.nan_to_num(np.square(r).sum(axis=1), nan=np.inf), 1e300)
    used = np.minimum((squares > 0).sum(axis=1), m - 1.0)
    for _ in range(1 if variance is not None else _STEPS):
        level = energy / np.maximum(m - used, 1.0) if variance is None else variance
        ridge = np.maximum(_own_ridge(problem, z, level), prior)[:, None]
        share = np.where(squares > 0, squares / np.where(squares > 0, squares + ridge, 1.0), 0.0)
        whole = share.sum(axis=1)
        constrained = np.minimum(problem.prior * _extent(z) ** 2, level) / np.where(level > 0, level, 1.0)
        choice = 0.0 if _straight(problem) else 1 - held * constrained[:, None]
        between = (choice * share * (1 - share)).sum(axis=1) * np.sqrt(np.maximum(1 - whole / m, 0.0))
        used = np.maximum(whole, np.minimum(whole + _CHOICE * between, m - 1.0))
    return share, used


def _largest(r: Array, m: Integers, size: Array, free: Array) -> Array:
    """Return the p-value of the largest entry of residuals (b, m), given the entries' standard deviations, (b, m).

    Where the size of the residual was fitted, ``free``, (b,), are its degrees of freedom; infinite elsewhere.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        largest = np.abs(r / size).max(axis=1)
        share = np.minimum(np.square(largest) / free, 1.0)
    fitted = betaincc(0.5, np.maximum(np.where(np.isfinite(free), free, 2.0) - 1, 0.5) / 2, np.nan_to_num(share))
    one = np.where(np.isfinite(free), fitted, 2 * ndtr(-largest))
    return np.where(np.isfinite(largest), -np.expm1(m * np.log1p(-np.minimum(one, 1 - 1e-16))), np.nan)


def _structure(r: Array, remaining: Array, half: Array, basis: Array, size: Array) -> Array:
    """Return the p-value of the share of residuals (b, m) in the span of an orthonormal ``basis``, (1 or b, q, m).

    Where ``size``, (b,), is not NaN, the residual within the span is tested against noise of this size S instead.
    """
    along = half @ basis.transpose(0, 2, 1)  # (b, k, q)
    kept = np.eye(basis.shape[1]) - along.transpose(0, 2, 1) @ along  # the noise that the fit leaves
    shares, vectors = np.linalg.eigh(kept)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        length = np.linalg.norm(r, axis=1)
        unit = r / length[:, None]
        squares = np.square((vectors.transpose(0, 2, 1) @ (basis @ unit[:, :, None]))[:, :, 0])
    # Choose directions in which the fit leaves enough noise, at most half as many as the remaining degrees of freedom.
    order = np.arange(shares.shape[1], 0, -1)
    chosen = (shares > _NOISE_LEFT) & (order <= (remaining / 2)[:, None])
    count = chosen.sum(axis=1)
    inside = np.where(chosen, squares / np.where(chosen, shares, 1.0), 0.0).sum(axis=1)
    outside = np.maximum(1 - np.where(chosen, squares, 0.0).sum(axis=1), 0.0)
    free = np.maximum(remaining - np.where(chosen, shares, 0.0).sum(axis=1), 0.1)
    with np.errstate(invalid="ignore"):
        p = betaincc(np.maximum(count, 0.1) / 2, free / 2, inside / (inside + outside))
        p = np.where(np.isnan(size), p, chdtrc(np.maximum(count, 1), inside * (length / size) ** 2))
    return np.where((count > 0) & np.isfinite(inside), p, np.nan)


def _principal(problem: Problem, part: Index) -> Array | None:
    """Compute an orthonormal basis of the principal directions of A x, (1 or b, q, m); None if there are none.

    Double precision makes the directions the same in all units.
    """
    model, operator = exact_model(problem).measured_by(problem.operator)
    directions = model.parts[2]
    order = directions.square().sum(dim=1).argsort(descending=True)
    own, chosen = operator.take(part), directions[order[: 2 * _DIRECTIONS]]
    measured = own.to(torch.float64, torch.device("cpu")).tangents(chosen.expand(len(part) if own.count else 1, -1, -1))
    _, lengths, principal = np.linalg.svd(measured.numpy(), full_matrices=False)
    spanned = int((lengths > _ROUNDING * lengths[:, :1]).sum(axis=1).min())
    count = min(_DIRECTIONS, int(problem.observed[part].min()) // 2, spanned)
    return principal[:, :count] if count else None
