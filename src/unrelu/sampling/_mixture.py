r"""A mixture of multivariate t distributions, one around each optimum, with the prior as a further component.

The sampler draws its jumps between modes from this mixture. The components supply the metrics of its trajectories.

Each component begins as the Gaussian variational approximation of the posterior around an optimum. With U the negative
logarithm of the density, its mean m and precision P satisfy

.. math:: E \, \nabla U(t) = 0, \qquad E \, \nabla^2 U(t) = P, \qquad t \sim N(m, P^{-1}),

where the Gauss-Newton matrix takes the place of the Hessian. The Laplace approximation takes gradient and Hessian at
the optimum alone, in one linear region of many. Where kinks are dense, its precision is far too small in some
directions, and trajectories then need steps several times shorter. The first weights are proportional to exp(ELBO).

Sources: Opper and Archambeau, "The variational Gaussian approximation revisited", Neural Computation 21 (2009); Khan
and Rue, "The Bayesian learning rule", J. Machine Learning Research 24 (2023), for the natural-gradient steps; Peel and
McLachlan, "Robust mixture modelling using the t distribution", Statistics and Computing 10 (2000), for EM.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaln

from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.memory_limits import CURVATURE_NUMBERS
from unrelu.sampling._target import Target

# Degrees of freedom of the t distributions. The tails of a Gaussian are too thin: chains would stay for long at points
# where the mixture has next to no density.
_FREEDOM = 20.0
# The share of the prior in the mixture. It lets chains jump to points that no component covers.
_PRIOR = 0.02
# The number of steps of the variational approximation, and the number of pairs of draws in each step.
_STEPS, _PAIRS = 10, 4
# The number of Jacobians that one variational approximation computes.
JACOBIANS = 2 * _STEPS * _PAIRS
# Two components are merged if their means are closer than this, in standard deviations.
SAME = 1.5
# Components whose weight is below this share are removed.
_LEAST = 1e-4
# EM: the number of steps, and the number of draws, per coordinate, that a component's previous covariance counts as.
_EM_STEPS, _PSEUDO = 3, 4
# The share of the old weights in the weights after EM.
_KEPT = 0.2


@dataclass(frozen=True, eq=False)
class Mixture:
    """The mixture q(t) = 0.98 sum_i w_i t_20(t; m_i, (C_i^T C_i)^-1) + 0.02 N(t; 0, I).

    Attributes:
        means: m, (M, k).
        whiteners: C, (M, k, k).
        weights: w, (M,), whose sum is 1.
    """

    means: Array
    whiteners: Array
    weights: Array

    @cached_property
    def factors(self) -> Array:
        """The inverses C^-1, (M, k, k)."""
        return np.asarray(np.linalg.inv(self.whiteners))

    @cached_property
    def _constants(self) -> Array:
        k = self.means.shape[1]
        of_t = gammaln((_FREEDOM + k) / 2) - gammaln(_FREEDOM / 2) - k / 2 * np.log(_FREEDOM * np.pi)
        log_determinants = np.linalg.slogdet(self.whiteners)[1]
        # A component that no draw belongs to may have a weight of 0.
        shares = np.log(np.maximum((1 - _PRIOR) * self.weights, np.finfo(np.float64).tiny))
        return np.asarray(shares + log_determinants + of_t)

    @cached_property
    def _stacked(self) -> tuple[Array, Array]:
        """All matrices C side by side, (k, M k), and the vectors C m, (M k,)."""
        k = self.means.shape[1]
        return self.whiteners.reshape(-1, k).T.copy(), np.einsum("mij,mj->mi", self.whiteners, self.means).ravel()

    def distances(self, t: Array) -> Array:
        """Return the squared distances |C (t - m)|^2, (c, M), of coordinates t (c, k) from the components."""
        matrix, shift = self._stacked
        return np.asarray(np.square((t @ matrix - shift).reshape(len(t), len(self.means), -1)).sum(axis=2))

    def logs(self, t: Array) -> Array:
        """Return the logarithms of the components' weighted densities, (c, M), at coordinates t (c, k)."""
        return self._logs(self.distances(t))

    def _logs(self, distances: Array) -> Array:
        k = self.means.shape[1]
        return np.asarray(self._constants - 0.5 * (_FREEDOM + k) * np.log1p(distances / _FREEDOM))

    def log_density(self, t: Array) -> Array:
        """Return log q, (c,), at coordinates t (c, k)."""
        k = t.shape[1]
        of_prior = np.log(_PRIOR) - 0.5 * np.square(t).sum(axis=1) - k / 2 * np.log(2 * np.pi)
        return np.asarray(np.logaddexp(_log_sums(self.logs(t)), of_prior))

    def log_metrics(self, t: Array) -> Array:
        r"""Return log r, (c, M): the log-probability that a trajectory from t (c, k) takes each component's metric.

        :math:`r_i \propto 1 / (1 + |C_i (t - m_i)|^2 / k)`. The components' shares of the density would be valid too.
        Where components overlap, these shares change along a trajectory, however, and it is then rejected.
        """
        near = -np.log1p(self.distances(t) / t.shape[1])
        return np.asarray(near - _log_sums(near)[:, None])

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Draw ``count`` points from the mixture, (count, k)."""
        k = self.means.shape[1]
        shares = np.append((1 - _PRIOR) * self.weights, _PRIOR)
        which = rng.choice(len(shares), count, p=shares / shares.sum())
        normal = rng.standard_normal((count, k))
        stretch = np.sqrt(_FREEDOM / rng.chisquare(_FREEDOM, count))
        own = np.minimum(which, len(self.means) - 1)
        drawn = self.means[own] + stretch[:, None] * np.einsum("cij,cj->ci", self.factors[own], normal)
        return np.where((which == len(self.means))[:, None], normal, drawn)

    def fitted(self, draws: Array) -> Mixture:
        """Fit the mixture to draws of the posterior, (c, k), by steps of EM.

        The previous components count as draws of their own. Components that hold next to no draws are removed.
        """
        (count, k), before = draws.shape, self
        pseudo, mixture = _PSEUDO * k, self
        covariances = self.factors @ self.factors.transpose(0, 2, 1)
        for _ in range(_EM_STEPS):
            distances, logs = mixture.distances(draws), mixture.logs(draws)
            shares = np.exp(logs - _log_sums(logs)[:, None])
            held = shares.sum(axis=0)
            # A t distribution is a mixture of Gaussians; draws far away count less.
            near = shares * (_FREEDOM + k) / (_FREEDOM + distances)
            total = near.sum(axis=0)
            sums = near.T @ draws
            means = (sums + before.means) / (total + 1)[:, None]
            moved = means - before.means
            around = moved[:, :, None] * moved[:, None, :]
            for i, (mean, share) in enumerate(zip(means, near.T, strict=True)):
                away = draws - mean
                around[i] += (away * share[:, None]).T @ away
            covariance = (around + pseudo * covariances) / (held + pseudo)[:, None, None]
            weights = (1 - _KEPT) * held / count + _KEPT * before.weights
            mixture = Mixture(means, np.linalg.inv(np.linalg.cholesky(covariance)), weights / weights.sum())
        kept = mixture.weights >= _LEAST
        weights = mixture.weights[kept]
        return Mixture(mixture.means[kept], mixture.whiteners[kept], weights / weights.sum())


def _log_sums(logs: Array) -> Array:
    """Compute the log-sum-exp of each row, (c,); SciPy's function would take longer than all else."""
    largest = logs.max(axis=1)
    return np.asarray(largest + np.log(np.exp(logs - largest[:, None]).sum(axis=1)))


def distances_from(points: Array, means: Array, whiteners: Array) -> Array:
    """Return the squared Mahalanobis distances, (c, M), of points (c, k) from components."""
    each = zip(means, whiteners, strict=True)
    return np.stack([np.square((points - mean) @ whitener.T).sum(axis=1) for mean, whitener in each], axis=1)


def separate(order: Index, means: Array, whiteners: Array, mutual: bool = False) -> Index:
    """Select, in this order, the components whose means lie at least 1.5 standard deviations from all selected before.

    With ``mutual``, a component is dropped only if each mean lies close in the metric of the other. A narrow component
    inside a wide one is then kept.
    """
    kept: list[int] = []
    for i in order.tolist():
        between = means[i] - means[kept]
        same = np.square(np.einsum("mij,mj->mi", whiteners[kept], between)).sum(axis=1) < SAME**2
        if mutual:
            same &= np.square(between @ whiteners[i].T).sum(axis=1) < SAME**2
        if not same.any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def variational(
    target: Target, means: Array, precisions: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Compute Gaussian variational approximations around optima: means, whiteners, and ELBOs up to a constant, (M,).

    Args:
        target: the density.
        means, precisions: the starting points, (M, k) and (M, k, k).
    """
    count, k = means.shape
    if count * 2 * _PAIRS * k * k > CURVATURE_NUMBERS and count > 1:
        first, second = (
            variational(target, means[half], precisions[half], rng)
            for half in (slice(None, count // 2), slice(count // 2, None))
        )
        return tuple(np.concatenate(pair) for pair in zip(first, second, strict=True))  # type: ignore[return-value]

    def drawn(pairs: int) -> Array:
        normal = rng.standard_normal((count, pairs, k))
        normal = np.concatenate([normal, -normal], axis=1)
        return np.reshape(means[:, None] + np.einsum("mij,mpj->mpi", _factors(precisions), normal), (-1, k))

    for step in range(_STEPS):
        if target.watch():
            break
        _, gradients, curvatures = target.curvatures(drawn(_PAIRS))
        gradient = gradients.reshape(count, -1, k).mean(axis=1)
        rate = min(0.7, 2 / (step + 2))
        precisions = (1 - rate) * precisions + rate * curvatures.reshape(count, -1, k, k).mean(axis=1)
        means = means - rate * np.linalg.solve(precisions, gradient[:, :, None])[:, :, 0]
    factors, energies = _factors(precisions), target.energies(drawn(2 * _PAIRS)).reshape(count, -1).mean(axis=1)
    return means, np.asarray(np.linalg.inv(factors), dtype=np.float64), np.linalg.slogdet(factors)[1] - energies


def _factors(precisions: Array) -> Array:
    """Return S with S S^T = P^-1 for each of the precisions P (M, k, k)."""
    return np.asarray(np.linalg.inv(np.linalg.cholesky(precisions)).transpose(0, 2, 1))
