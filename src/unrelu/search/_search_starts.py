"""The starts of the joint search, and its perturbations."""

from __future__ import annotations

import functools

import numpy as np
from scipy.special import ndtr

from unrelu.layerwise.layer_by_layer import layerwise_reason
from unrelu.local_search.squared_error import SquaredError
from unrelu.models.network import Network
from unrelu.problem import Problem
from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.streams import stream
from unrelu.search.sample_cache import SampleCache

# The Gaussian model adds this fraction of the outputs' variance to the noise.
_ESTIMATE_NOISE = 1e-2
# Variances are rounded to powers of this, so that observations share the model's factorisations.
_VARIANCE_STEP = 4.0
# One of _RANDOM starts is random and up to _FURTHEST times as long, in case the Gaussian model misleads all others: the
# best code of few noisy outputs may be far from the codes that the generator was trained with.
_RANDOM, _FURTHEST = 4, 3.0
# The length of starts on a large generator, as a multiple of that of N(0, I). Descents from there take half as many
# steps as from N(0, I), and end in the best optimum as often.
_SHORT = 0.3
# The shortest and the longest perturbation, as multiples of the length of the code. Long ones are for real data, whose
# best codes are long, short ones for optima nearby (tuned on the families to tune on).
_SHORTEST, _LONGEST = 0.1, 10.0
# A layer-wise start is tried if the least-squares problem of each layer takes at most this work, n k^2.
_LAYER_WORK = 5e7


def cheap_by_layer(problem: Problem) -> bool:
    """Whether a layer-wise start is possible and costs no more than all other starts together."""
    network = problem.network
    if not isinstance(network, Network) or layerwise_reason(network) or not problem.operator.is_layer_of(network):
        return False
    return max(layer.n_out * layer.n_in**2 for layer in network.layers) <= _LAYER_WORK


class SearchStarts:
    r"""The starts of one search, and the perturbations of codes.

    The first start of an observation is its posterior mean under the Gaussian model of the samples
    (:meth:`~unrelu.search.sample_cache.GaussianModel.posterior`). One of four starts is drawn from :math:`N(0, s^2 I)`,
    s from 1 to 3, log-uniform, and the others from the posterior :math:`N(\hat z, \Sigma)`. For a large generator the
    model would cost more than descents, so these other starts are drawn from :math:`N(0, 0.3^2 I)`. A perturbation of a
    code z is :math:`t \, |z|_2 / \sqrt k \; \xi`, with :math:`\xi \sim N(0, I)` and t from 0.1 to 10, log-uniform.
    Coordinates beyond a bound are reflected at it, and random starts are uniform between two bounds. Each observation
    has its own random stream, so its starts do not depend on the other observations.
    """

    def __init__(self, problem: Problem, cache: SampleCache, objective: SquaredError) -> None:
        self.problem, self.objective = problem, objective
        self._samples, self._operator = cache.measured_by(objective.operator)
        self._y, known = objective.y, problem.noise.variance(problem.y)
        self._operator, gain = self._operator.normalised()  # the Gaussian model is one in the units of outputs
        self._y, known = self._y / gain.to(self._y), known / gain.square().cpu().double().numpy()[..., 0]
        self._variance = self._rounded(known + _ESTIMATE_NOISE * self._samples.spread)
        self._large = cache.large
        self._stream = functools.cache(functools.partial(stream, "search", problem.seed))

    def learn(self, objectives: Array) -> None:
        """Estimate the noise from the residuals of the best codes so far, given their |r|^2, (B,)."""
        if not self.problem.noise.stated and self.objective.squares:
            found = self._rounded(objectives / self.problem.observed + _ESTIMATE_NOISE * self._samples.spread)
            self._variance = np.where(np.isfinite(found), found, self._variance)

    @staticmethod
    def _rounded(variance: Array | float) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_VARIANCE_STEP ** np.rint(np.log(variance) / np.log(_VARIANCE_STEP)))

    def codes(self, observations: Index, first: int, count: int) -> Array:
        """The starts number ``first`` to ``first + count`` of some observations, (b, count, k)."""
        drawn, number = self._drawn(observations, count), np.arange(first, first + count)[None, :, None]
        inside = _SHORT * drawn if self._large else self._posterior(observations, number, drawn)
        spread = np.exp(self._uniform(observations, count, 0.0, np.log(_FURTHEST)))[:, :, None]
        random, bounds = spread * drawn, self.problem.bounds
        if bounds.uniform.any():
            random = np.where(bounds.uniform, bounds.quantile(ndtr(drawn)), random)
        return bounds.reflect(np.where(number % _RANDOM == _RANDOM - 1, random, inside))

    def perturbations(self, observations: Index, restarts: int, count: int) -> Array:
        """Perturbations in units of the root mean square of the perturbed code, (b, restarts, count, k)."""
        shape, k = (len(observations), restarts, count), self.problem.network.latent_dim
        drawn = self._drawn(observations, restarts * count).reshape(*shape, k)
        low, high = np.log(_SHORTEST), np.log(_LONGEST)
        return np.asarray(np.exp(self._uniform(observations, restarts * count, low, high)).reshape(*shape, 1) * drawn)

    def _drawn(self, observations: Index, count: int) -> Array:
        shape = (count, self.problem.network.latent_dim)
        return np.array([self._stream(i).standard_normal(shape) for i in observations.tolist()])

    def _uniform(self, observations: Index, count: int, low: float, high: float) -> Array:
        return np.array([self._stream(i).uniform(low, high, count) for i in observations.tolist()])

    def _posterior(self, observations: Index, number: Index, drawn: Array) -> Array:
        """The posterior mean as the start of number 0, and draws from the posterior as the others, (b, count, k)."""
        codes = np.empty_like(drawn)
        variances = self._variance[observations]
        for variance in np.unique(variances):
            some = np.flatnonzero(variances == variance)
            at = self.objective.index(observations[some])
            model = self._samples.posterior(self._operator.take(at), self._y[at], float(variance))
            mean, covariance = (t.cpu().double().numpy() for t in model)
            values, vectors = np.linalg.eigh(covariance)
            factor = vectors * np.sqrt(np.clip(values, 0.0, None))[:, None, :]
            draws = np.einsum("bij,bcj->bci", np.broadcast_to(factor, (len(some), *factor.shape[1:])), drawn[some])
            codes[some] = mean[:, None] + np.where(number == 0, 0.0, draws)
        return codes
